"""Compositions: models, ensembles, routers and rule tables that answer as one model."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bascule.bundle import (
    PARTS,
    Bundle,
    as_dtype,
    conform,
    open_program,
    pinned_program,
    read_truth,
)
from bascule.bundle.compositions import (
    CompositionProgram,
    Document,
    Plan,
    make_plan,
    read_document,
)
from bascule.bundle.disk import (
    EXAMPLE,
    MANIFEST,
    ORIGINAL,
    TRUTHS,
    Manifest,
    ProgramEntry,
    columns_of,
    digest_of,
    read_file,
)
from bascule.bundle.programs import COMPOSITION
from bascule.core import BasculeError, Columns, Invalid, Untrusted, canonical_json
from bascule.packing.imported import Compilation, ImportedModel, Rows
from bascule.packing.probing import drawn

_FILE = "original/composition.json"
_NOT_OF_PARTS = ("data/", "environment.txt")


class Composition:
    """A model for `pack`: what a composition says, and the bundles that it names."""

    def __init__(
        self, said: str | Path | Mapping[str, Any], open_model: Callable[[str], Bundle]
    ) -> None:
        """Read a composition, and open its models.

        Args:
            said: A TOML file, or the mapping that it would hold.
            open_model: Opens the bundle of a reference. A path of a folder is relative to the file.

        Raises:
            Invalid: It says what no composition may; the message names the place.
            NotFound: There is no such file, or no such model.
        """
        value: Any = said
        if not isinstance(said, Mapping):
            try:
                value = tomllib.loads(Path(said).read_text(encoding="utf-8"))
            except (OSError, ValueError) as problem:
                raise Invalid(f"{said} is no composition: {problem}", hint="write TOML") from None
        document = read_document(value)
        self.bundles: dict[str, Bundle] = {}
        self.references: dict[str, str] = {}
        parts = []
        for part in document.parts:
            if part.digest or part.program:
                raise Invalid(
                    f"parts.{part.name}: digest and program are found when it is packed",
                    hint="name the version: model = 'late/3'",
                )
            if part.model:
                bundle = self.bundles[part.name] = _opened(part.name, part.model, said, open_model)
                self.references[part.name] = part.model
                part = msgspec.structs.replace(
                    part, model=bundle.name, digest=bundle.digest,
                    program=pinned_program(bundle.path, bundle.manifest),
                )  # fmt: skip
            parts.append(part)
        manifests = {name: bundle.manifest for name, bundle in self.bundles.items()}
        self.document: Document = msgspec.structs.replace(document, parts=parts)
        self.plan: Plan = make_plan(self.document, manifests)


class Compositions:
    """See `packing.imported.Flavor`."""

    name = COMPOSITION

    def recognises(self, model: Any) -> bool:
        return isinstance(model, Composition)

    def read(self, model: Composition, train: Any, test: Any) -> ImportedModel:
        plan, final = model.plan, model.plan.final
        task = "other" if final is None else final.task
        programs = {
            part.name: open_program(
                model.bundles[part.name].path, model.bundles[part.name].manifest,
                name=part.program, isolated=True,
            )
            for part in model.document.parts
            if part.model
        }  # fmt: skip
        requires: dict[str, str] = {}
        for bundle in model.bundles.values():
            if bundle.manifest.served is None:
                requires |= bundle.manifest.original.requires
        count = len(model.document.parts)
        return ImportedModel(
            task=task,
            classes=None if final is None else final.classes,
            targets=() if final is None else final.targets,
            signature=plan.signature,
            original=CompositionProgram(COMPOSITION, plan, programs),
            saved=canonical_json(msgspec.to_builtins(model.document)),
            saved_file=_FILE,
            saved_format=COMPOSITION,
            requires=requires,
            train=_rows(train, plan, task),
            test=_rows(test, plan, task),
            parameters={
                name: f"{said}, {model.bundles[name].digest}"
                for name, said in model.references.items()
            },
            own_program=ProgramEntry(
                name=COMPOSITION, kind=COMPOSITION, file=_FILE, inputs=plan.signature.inputs,
                batch_invariant=all(_is_invariant(model, part) for part in model.bundles),
                tolerance=0.0, precision=f"{count} part{'s' * (count > 1)}",
            ),
            files=_files(model),
            example=_example(model),
        )  # fmt: skip

    def compilations(self, _model: Composition, subject: ImportedModel) -> Iterator[Compilation]:
        signature = subject.signature
        yield Compilation("its own", subject.saved, signature.inputs, signature.outputs, None)


def _opened(
    part: str,
    reference: str,
    said: str | Path | Mapping[str, Any],
    open_model: Callable[[str], Bundle],
) -> Bundle:
    beside = reference
    if not isinstance(said, Mapping) and (Path(said).parent / reference / MANIFEST).is_file():
        beside = str(Path(said).parent / reference)
    try:
        return open_model(beside)
    except BasculeError as problem:
        said_so = f"parts.{part}.model: {problem.message}"
        raise type(problem)(said_so, hint=problem.hint, **problem.facts) from None


def _is_invariant(model: Composition, name: str) -> bool:
    part = next(one for one in model.document.parts if one.name == name)
    entry = model.bundles[name].manifest.program(part.program)
    return entry is not None and entry.batch_invariant


def _files(model: Composition) -> dict[str, bytes]:
    """Of each part what its programs need; of one that its original answers, all."""
    made: dict[str, bytes] = {}
    for part in model.document.parts:
        if not part.model:
            continue
        bundle = model.bundles[part.name]
        manifest, folder = bundle.manifest, f"{PARTS}/{part.name}"
        if digest_of(bundle.path) != part.digest:
            raise Untrusted(f"the bundle at {bundle.path} is another one now", hint="pack again")
        made[f"{folder}/{MANIFEST}"] = (bundle.path / MANIFEST).read_bytes()
        for file in manifest.files:
            if part.program == ORIGINAL or _is_needed(file, manifest):
                made[f"{folder}/{file}"] = read_file(bundle.path, manifest, file)
    return made


def _is_needed(file: str, manifest: Manifest) -> bool:
    """Whether compiled programs need it: not the rows, nor the original, unless steps of it run."""
    entries = manifest.programs
    if file == manifest.original.file:
        return any(entry.file == file or entry.features is not None for entry in entries)
    return not file.startswith(_NOT_OF_PARTS)


def _example(model: Composition) -> Columns:
    """Rows of the examples of the parts; what no model reads is made up."""
    found: Columns = {}
    for name, bundle in model.bundles.items():
        part = next(one for one in model.document.parts if one.name == name)
        fields = bundle.signature.inputs
        held = columns_of(read_file(bundle.path, bundle.manifest, EXAMPLE), fields)
        for field, column in held.items():
            if field not in part.inputs:
                found.setdefault(field, column)
    count = min((len(column) for column in found.values()), default=1)
    random = np.random.default_rng(0)
    return {
        field.name: as_dtype(found[field.name][:count], field.dtype)
        if field.name in found
        else drawn(field, count, 1, random)
        for field in model.plan.signature.inputs
    }


def _rows(data: Any, plan: Plan, task: str) -> Rows | None:
    if data is None:
        return None
    table, truth = data if isinstance(data, tuple) else (data, None)
    if truth is not None:
        truth = read_truth(truth, TRUTHS.get(task, ()))
    return Rows(conform(table, plan.signature), truth)
