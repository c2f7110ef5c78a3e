"""Compositions: models, ensembles, routers and rule tables that answer as one model."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from msgspec import structs, to_builtins

from bascule.bundle import PARTS, Bundle, as_dtype, open_program, pinned_program
from bascule.bundle.compositions import CompositionProgram, Model, make_plan, read_document
from bascule.bundle.disk import (
    EXAMPLE,
    MANIFEST,
    ORIGINAL,
    Manifest,
    ProgramEntry,
    check_file,
    columns_of,
    digest_of,
    parse_manifest,
    read_file,
)
from bascule.bundle.programs import COMPOSITION
from bascule.core import BasculeError, Columns, Invalid, Untrusted, canonical_json
from bascule.packing.flavors.derived import rows_of
from bascule.packing.imported import Compilation, ImportedModel
from bascule.packing.probing import drawn

_FILE = "original/composition.json"


class Composition:
    """A model for `pack`: what a composition says, and the bundles that it names."""

    def __init__(
        self, source: str | Path | Mapping[str, Any], open_model: Callable[[str], Bundle],
        ran: Mapping[str, str] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        """Read a composition, and open its models.

        Args:
            source: A TOML file, or the mapping that it would hold.
            open_model: Opens the bundle of a reference. A path of a folder is relative to the file.
            ran: By part, the name of its program. The others have the program that serves requests.

        Raises:
            Invalid: It says what no composition may; the message names the place.
            NotFound: There is no such model.
        """
        value, home = source, None
        if not isinstance(source, Mapping):
            home = Path(source).parent
            try:
                value = tomllib.loads(Path(source).read_text(encoding="utf-8"))
            except (OSError, ValueError) as problem:
                raise Invalid(
                    f"{source} cannot be read as TOML: {problem}", hint="check the file"
                ) from None
        document = read_document(value)
        self.parts = [part for part in document.parts if isinstance(part, Model)]
        self.bundles = {part.name: _opened(part, home, open_model) for part in self.parts}
        self.ran = {
            name: ran.get(name) or pinned_program(bundle.path, bundle.manifest)
            for name, bundle in self.bundles.items()
        }
        for place, part in enumerate(document.parts):
            if bundle := self.bundles.get(part.name):
                document.parts[place] = structs.replace(
                    part, model=bundle.name, digest=bundle.digest, program=self.ran[part.name]
                )
        manifests = {name: bundle.manifest for name, bundle in self.bundles.items()}
        self.plan = make_plan(document, manifests)
        self.example: Columns = {}


class Compositions:
    """See `packing.imported.Flavor`."""

    name = COMPOSITION

    def recognises(self, model: Any) -> bool:
        return isinstance(model, Composition)

    def read(self, model: Composition, train: Any, test: Any) -> ImportedModel:
        plan, signature, bundles = model.plan, model.plan.signature, model.bundles
        task = "other" if plan.final is None else plan.final.task
        programs, requires, are_invariant, tolerance = {}, dict[str, str](), True, 0.0
        for name, bundle in bundles.items():
            ran = model.ran[name]
            entry = bundle.manifest.program(ran)
            programs[name] = open_program(bundle.path, bundle.manifest, name=ran, isolated=True)
            are_invariant &= entry is not None and entry.batch_invariant
            # A device may run another program of a part.
            tolerance = max([tolerance, *(each.tolerance for each in bundle.manifest.programs)])
            if entry is None:
                requires |= bundle.manifest.original.requires
        digests = {name: bundle.digest for name, bundle in bundles.items()}
        return ImportedModel(
            task=task,
            classes=None if plan.final is None else plan.final.classes,
            targets=() if plan.final is None else plan.final.targets,
            signature=signature,
            original=CompositionProgram(plan, programs, digests),
            saved=canonical_json(to_builtins(plan.document)),
            saved_file=_FILE,
            saved_format=COMPOSITION,
            requires=requires,
            train=rows_of(train, signature, task),
            test=rows_of(test, signature, task),
            parameters={part.name: f"{part.model}, {digests[part.name]}" for part in model.parts},
            own_program=ProgramEntry(
                name=COMPOSITION, kind=COMPOSITION, file=_FILE, inputs=signature.inputs,
                batch_invariant=are_invariant, tolerance=tolerance,
                precision=f"{len(plan.steps)} parts",
            ),
            files=_files(model),
            example=model.example or _example(model),
        )  # fmt: skip

    def compilations(self, _model: Composition, subject: ImportedModel) -> Iterator[Compilation]:
        signature = subject.signature
        yield Compilation("its own", subject.saved, signature.inputs, signature.outputs, None)


def reopen(data: bytes, manifest: Manifest, path: Path) -> Composition:
    """The composition of a bundle at `path`, of the parts that are in it, without their rows."""
    document, ran = json.loads(data), dict[str, str]()
    for part in document["parts"]:
        if "model" in part:
            del part["digest"]
            part["model"], ran[part["name"]] = part["name"], part.pop("program")

    def open_part(name: str) -> Bundle:  # what is needed of it is checked when it is packed
        folder = path / PARTS / name
        return Bundle(folder, parse_manifest(folder))

    model = Composition(document, open_part, ran)
    model.example = columns_of(read_file(path, manifest, EXAMPLE), manifest.signature.inputs)
    return model


def _opened(part: Model, home: Path | None, open_model: Callable[[str], Bundle]) -> Bundle:
    reference = part.model
    if part.digest or part.program:
        raise Invalid(
            f"parts.{part.name}: digest and program are found when it is packed",
            hint="name the version: model = 'late/3'",
        )
    if home is not None and (home / reference / MANIFEST).is_file():
        reference = str(home / reference)
    try:
        return open_model(reference)
    except BasculeError as problem:
        message = f"parts.{part.name}.model: {problem.message}"
        raise type(problem)(message, hint=problem.hint, **problem.facts) from None


def _files(model: Composition) -> dict[str, Path]:
    """Of each part what its programs need; of one that its original answers, all."""
    files: dict[str, Path] = {}
    for name, bundle in model.bundles.items():
        if digest_of(bundle.path) != bundle.digest:
            raise Untrusted(f"the bundle at {bundle.path} is another one now", hint="pack again")
        files[f"{PARTS}/{name}/{MANIFEST}"] = bundle.path / MANIFEST
        for file in bundle.manifest.files:
            if model.ran[name] == ORIGINAL or _is_needed(file, bundle.manifest):
                check_file(bundle.path, bundle.manifest, file)
                files[f"{PARTS}/{name}/{file}"] = bundle.path / file
    return files


def _is_needed(file: str, manifest: Manifest) -> bool:
    """Whether compiled programs need it: not the rows, nor the original, unless steps of it run."""
    if file == manifest.original.file:
        programs = manifest.programs
        return any(program.file == file or program.features is not None for program in programs)
    return not file.startswith(("data/", "environment.txt"))


def _example(model: Composition) -> Columns:
    """Rows of the examples of the parts; what no model reads is made up."""
    columns: Columns = {}
    for part in model.parts:
        bundle = model.bundles[part.name]
        body = read_file(bundle.path, bundle.manifest, EXAMPLE)
        for field, column in columns_of(body, bundle.signature.inputs).items():
            if field not in part.inputs:
                columns.setdefault(field, column)
    count = min((len(column) for column in columns.values()), default=1)
    random = np.random.default_rng(0)
    return {
        field.name: as_dtype(columns[field.name][:count], field.dtype)
        if field.name in columns
        else drawn(field, count, 1, random)
        for field in model.plan.signature.inputs
    }
