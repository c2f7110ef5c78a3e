"""Compositions: models, ensembles, routers and rule tables that answer as one model."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import structs, to_builtins

from bascule.bundle import (
    PARTS,
    Bundle,
    as_dtype,
    conform,
    open_program,
    pinned_program,
    read_truth,
)
from bascule.bundle.compositions import CompositionProgram, Output, make_plan, read_document
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
from bascule.core import BasculeError, Columns, Invalid, Signature, Untrusted, canonical_json
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
            NotFound: There is no such model.
        """
        value, home = said, None
        if not isinstance(said, Mapping):
            home = Path(said).parent
            try:
                value = tomllib.loads(Path(said).read_text(encoding="utf-8"))
            except (OSError, ValueError) as problem:
                raise Invalid(f"{said} is no TOML: {problem}", hint="check the file") from None
        document = read_document(value)
        self.bundles: dict[str, Bundle] = {}
        self.references = {part.name: part.model for part in document.parts if part.model}
        for place, part in enumerate(document.parts):
            if part.digest or part.program:
                raise Invalid(
                    f"parts.{part.name}: digest and program are found when it is packed",
                    hint="name the version: model = 'late/3'",
                )
            if part.model:
                bundle = _opened(part.name, part.model, home, open_model)
                self.bundles[part.name] = bundle
                document.parts[place] = structs.replace(
                    part, model=bundle.name, digest=bundle.digest,
                    program=pinned_program(bundle.path, bundle.manifest),
                )  # fmt: skip
        manifests = {name: bundle.manifest for name, bundle in self.bundles.items()}
        self.plan = make_plan(document, manifests)
        # Explicit, because canonical JSON does not keep the order of a rule table's outputs.
        outputs = [Output(one.field.name, one.text) for one in self.plan.outputs]
        self.document = structs.replace(document, outputs=outputs)


class Compositions:
    """See `packing.imported.Flavor`."""

    name = COMPOSITION

    def recognises(self, model: Any) -> bool:
        return isinstance(model, Composition)

    def read(self, model: Composition, train: Any, test: Any) -> ImportedModel:
        final, signature, bundles = model.plan.final, model.plan.signature, model.bundles
        task = "other" if final is None else final.task
        ran = {part.name: part.program for part in model.document.parts if part.model}
        programs, requires, are_invariant = {}, dict[str, str](), True
        for name, bundle in bundles.items():
            entry = bundle.manifest.program(ran[name])
            programs[name] = open_program(
                bundle.path, bundle.manifest, name=ran[name], isolated=True
            )
            are_invariant &= entry is not None and entry.batch_invariant
            if entry is None:
                requires |= bundle.manifest.original.requires
        digests = {name: bundle.digest for name, bundle in bundles.items()}
        return ImportedModel(
            task=task,
            classes=None if final is None else final.classes,
            targets=() if final is None else final.targets,
            signature=signature,
            original=CompositionProgram(COMPOSITION, model.plan, programs, digests),
            saved=canonical_json(to_builtins(model.document)),
            saved_file=_FILE,
            saved_format=COMPOSITION,
            requires=requires,
            train=_rows(train, signature, task),
            test=_rows(test, signature, task),
            parameters={name: f"{model.references[name]}, {digests[name]}" for name in bundles},
            own_program=ProgramEntry(
                name=COMPOSITION, kind=COMPOSITION, file=_FILE, inputs=signature.inputs,
                batch_invariant=are_invariant, tolerance=0.0,
                precision=f"{len(model.document.parts)} parts",
            ),
            files=_files(bundles, ran),
            example=_example(model),
        )  # fmt: skip

    def compilations(self, _model: Composition, subject: ImportedModel) -> Iterator[Compilation]:
        signature = subject.signature
        yield Compilation("its own", subject.saved, signature.inputs, signature.outputs, None)


def _opened(
    part: str, reference: str, home: Path | None, open_model: Callable[[str], Bundle]
) -> Bundle:
    if home is not None and (home / reference / MANIFEST).is_file():
        reference = str(home / reference)
    try:
        return open_model(reference)
    except BasculeError as problem:
        said = f"parts.{part}.model: {problem.message}"
        raise type(problem)(said, hint=problem.hint, **problem.facts) from None


def _files(bundles: Mapping[str, Bundle], ran: Mapping[str, str]) -> dict[str, bytes]:
    """Of each part what its programs need; of one that its original answers, all."""
    made: dict[str, bytes] = {}
    for name, bundle in bundles.items():
        manifest, folder = bundle.manifest, f"{PARTS}/{name}"
        if digest_of(bundle.path) != bundle.digest:
            raise Untrusted(f"the bundle at {bundle.path} is another one now", hint="pack again")
        made[f"{folder}/{MANIFEST}"] = (bundle.path / MANIFEST).read_bytes()
        for file in manifest.files:
            if ran[name] == ORIGINAL or _is_needed(file, manifest):
                made[f"{folder}/{file}"] = read_file(bundle.path, manifest, file)
    return made


def _is_needed(file: str, manifest: Manifest) -> bool:
    """Whether compiled programs need it: not the rows, nor the original, unless steps of it run."""
    if file == manifest.original.file:
        return any(one.file == file or one.features is not None for one in manifest.programs)
    return not file.startswith(_NOT_OF_PARTS)


def _example(model: Composition) -> Columns:
    """Rows of the examples of the parts; what no model reads is made up."""
    found: Columns = {}
    for part in model.document.parts:
        if part.model:
            bundle = model.bundles[part.name]
            body = read_file(bundle.path, bundle.manifest, EXAMPLE)
            for field, column in columns_of(body, bundle.signature.inputs).items():
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


def _rows(data: Any, signature: Signature, task: str) -> Rows | None:
    if data is None:
        return None
    table, truth = data if isinstance(data, tuple) else (data, None)
    if truth is not None:
        truth = read_truth(truth, TRUTHS.get(task, ()))
    return Rows(conform(table, signature), truth)
