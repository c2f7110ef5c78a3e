"""A graph made from the program of another bundle, to answer the same requests with less.

What the manifest of that bundle says of the model stays: task, classes, signature, and how columns
reach the graph. The graph is its own original, because nothing else computes exactly this.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from bascule.bundle import conform, read_truth
from bascule.bundle.disk import TRUTHS, Manifest, ProgramEntry
from bascule.bundle.programs import ONNX, open_kind
from bascule.core import Signature
from bascule.packing.imported import Compilation, ImportedModel, Rows

PROGRAM_FILE = "programs/onnx.onnx"
"""The program itself, so that a device keeps these bytes once."""


@dataclass(frozen=True, slots=True)
class DerivedGraph:
    """A model for `pack`.

    Attributes:
        manifest: Of the bundle that it was made from.
        entry: Of the program that it was made from: how columns reach the graph.
        data: The changed graph, with the inputs and outputs of that program.
        change: What was done to it, for the card: a few words.
    """

    manifest: Manifest
    entry: ProgramEntry
    data: bytes
    change: str = ""


class Derived:
    """See `packing.imported.Flavor`."""

    name = "derived"

    def recognises(self, model: Any) -> bool:
        return isinstance(model, DerivedGraph)

    def read(self, model: DerivedGraph, train: Any, test: Any) -> ImportedModel:
        manifest = model.manifest
        entry = replace(model.entry, name="original", kind=ONNX, file=PROGRAM_FILE)
        program = open_kind(entry, model.data, outputs=manifest.signature.outputs)
        return ImportedModel(
            task=manifest.task,
            classes=manifest.classes,
            targets=manifest.targets,
            signature=manifest.signature,
            original=program,
            saved=model.data,
            saved_file=PROGRAM_FILE,
            saved_format="onnx",
            train=rows_of(train, manifest.signature, manifest.task),
            test=rows_of(test, manifest.signature, manifest.task),
            parameters={"change": model.change} if model.change else {},
        )

    def compilations(self, model: DerivedGraph, _subject: ImportedModel) -> Iterator[Compilation]:
        entry = model.entry
        yield Compilation(
            model.change or entry.precision, model.data, entry.inputs,
            model.manifest.signature.outputs, entry.missing_text, entry.texts,
        )  # fmt: skip


def rows_of(data: Any, signature: Signature, task: str) -> Rows | None:
    """Rows of a model whose signature is known, with what was true where it is given."""
    if data is None:
        return None
    table, truth = data if isinstance(data, tuple) else (data, None)
    if truth is not None:
        truth = read_truth(truth, TRUTHS.get(task, ()))
    return Rows(conform(table, signature), truth)
