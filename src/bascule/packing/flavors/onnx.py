"""ONNX: a graph that is its own program and its own original; with its tokenizer, of texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bascule.bundle import as_dtype, conform
from bascule.bundle.disk import Manifest
from bascule.bundle.originals import installed_version
from bascule.bundle.programs import field_of, is_known_type, open_onnx, open_session, open_tokenized
from bascule.core import Columns, Field, Invalid, Program, Signature, Untrusted, first_line
from bascule.packing.compilers import tokenized
from bascule.packing.flavors.derived import PROGRAM_FILE, Derived, DerivedGraph
from bascule.packing.imported import Compilation, ImportedModel, Rows
from bascule.packing.probing import LENGTHS, drawn

_FILE = "original/model.onnx"
_COUNTS = (1, 2, 5, 7)
"""How many rows a graph is asked about."""
_ROWS_FIRST = (
    "export the model again with the rows as the first dimension of every input and output"
)


class Onnx:
    """See `packing.imported.Flavor`."""

    name = "onnx"

    def recognises(self, model: Any) -> bool:
        return isinstance(model, bytes | str | Path) or (
            type(model).__name__ == "ModelProto" and hasattr(model, "SerializeToString")
        )

    def read(self, model: Any, train: Any, test: Any) -> ImportedModel:
        data = _bytes(model)
        try:
            session = open_session(data, "the model")
        except Untrusted as problem:
            raise Invalid(problem.message, hint=problem.hint or "give an ONNX file") from None
        if (texts := open_tokenized(data, "the model")) is not None:
            return _of_texts(data, texts, train, test)
        signature = Signature(
            tuple(_row_field(node) for node in session.get_inputs()),
            tuple(_row_field(node, "gives") for node in session.get_outputs()),
        )
        program = open_onnx(
            data,
            name="original",
            file="the model",
            inputs=signature.inputs,
            outputs=signature.outputs,
        )
        rows, held_out = _rows(train, signature), _rows(test, signature)
        _check_counts(session, signature.inputs, held_out or rows)
        _check_apart(session, signature.inputs, held_out or rows)
        return ImportedModel(
            task="other",
            signature=signature,
            original=program,
            saved=data,
            saved_file=_FILE,
            saved_format="onnx",
            train=rows,
            test=held_out,
        )

    def compilations(self, _model: Any, subject: ImportedModel) -> Iterator[Compilation]:
        yield Compilation(
            "its own", subject.saved, subject.signature.inputs, subject.signature.outputs, None
        )


def _of_texts(data: bytes, program: Program, train: Any, test: Any) -> ImportedModel:
    """One file of the bundle is program and original: it has a hundred megabytes."""
    signature = Signature(program.inputs, program.outputs)
    return ImportedModel(
        task="other",
        signature=signature,
        original=program,
        saved=data,
        saved_file=PROGRAM_FILE,
        saved_format="onnx",
        requires={"tokenizers": installed_version("tokenizers")},
        train=_rows(train, signature),
        test=_rows(test, signature),
        is_network=True,
    )


def reopen(data: bytes, manifest: Manifest) -> bytes | DerivedGraph:
    """The graph itself; with what its manifest says of it, where it was made from another."""
    if manifest.flavor != Derived.name or (entry := manifest.served) is None:
        return data
    return DerivedGraph(manifest, entry, data, entry.precision)


def _bytes(model: Any) -> bytes:
    if isinstance(model, bytes):
        return model
    if isinstance(model, str | Path):
        if tokenized.is_text_folder(Path(model)):
            return tokenized.text_graph(Path(model))
        try:
            return Path(model).read_bytes()
        except OSError as problem:
            raise Invalid(
                f"{model} cannot be read: {problem.strerror}", hint="give the path of an ONNX file"
            ) from None
    return bytes(model.SerializeToString(deterministic=True))


def _row_field(node: Any, verb: str = "takes") -> Field:
    if not is_known_type(node):
        raise Invalid(
            f"{node.name} is {node.type}, and tensors are supported",
            hint="for a model from skl2onnx, convert with zipmap=False",
            field=node.name,
        )
    if not node.shape:
        raise Invalid(
            f"{node.name} is a single value, and its first dimension must be the rows",
            hint="export the model with a batch axis: dynamic_axes, or dynamic_shapes",
            field=node.name,
        )
    if isinstance(node.shape[0], int):
        raise Invalid(
            f"{node.name} {verb} exactly {node.shape[0]} rows, so requests could not be batched",
            hint="export the model again with a dynamic first dimension",
            field=node.name,
        )
    return field_of(node)


def _check_counts(session: Any, inputs: tuple[Field, ...], rows: Rows | None) -> None:
    """Raise `Invalid` where a free first dimension is not the rows: asks, for shapes may lie.

    Rows are made where none are given. Where the graph takes none of those, it is asked no more,
    and a run that gives another number of rows fails when it happens.
    """
    names = [node.name for node in session.get_outputs()]
    for length in LENGTHS if rows is None else (0,):
        for count in _COUNTS:
            try:
                answers = session.run(names, _asked(inputs, rows, {}, count, length))
            except Exception as problem:  # the runtime has many
                if count == _COUNTS[0]:
                    break
                said = f"the model answers for 1 row, and fails for {count}: {first_line(problem)}"
                raise Invalid(said, hint=_ROWS_FIRST) from None
            for name, values in zip(names, answers, strict=True):
                if np.shape(values)[:1] != (count,):
                    found = f"{len(values)} rows" if np.ndim(values) else "a single value"
                    said = f"{name} has {found} for {count} rows, so its first dimension is not "
                    raise Invalid(said + "the rows", hint=_ROWS_FIRST, field=name)
        else:
            return


def _check_apart(session: Any, inputs: tuple[Field, ...], rows: Rows | None) -> None:
    """Raise `Invalid` where an input has a first dimension of its own that other answers use."""
    nodes, names = session.get_inputs(), [node.name for node in session.get_outputs()]
    for node in nodes[1:]:
        if node.shape[0] is not None and node.shape[0] == nodes[0].shape[0]:
            continue
        asked = _asked(inputs, rows, {node.name: _COUNTS[1]}, _COUNTS[-1], LENGTHS[0])
        other = {**asked, node.name: np.zeros_like(asked[node.name])}
        try:
            first, second = session.run(names, asked), session.run(names, other)
        except Exception:  # they have to be equal, which is what rows are
            continue
        for name, values, changed in zip(names, first, second, strict=True):
            if len(values) == _COUNTS[-1] and not np.array_equal(values, changed):
                raise Invalid(
                    f"{node.name} need not have as many rows as {nodes[0].name}, and {name} "
                    "depends on all of it, so requests could not be batched",
                    hint=_ROWS_FIRST,
                    field=node.name,
                )


def _asked(
    inputs: tuple[Field, ...], rows: Rows | None, counts: Mapping[str, int], count: int, length: int
) -> Columns:
    """So many rows of those that are given, over and over, or of numbers that are drawn."""
    made: Columns = {}
    random = np.random.default_rng(0)
    for read in inputs:
        many = counts.get(read.name, count)
        if rows is not None:
            values = rows.columns[read.name]
            made[read.name] = as_dtype(values[np.arange(many) % len(values)], read.dtype)
            continue
        made[read.name] = drawn(read, many, length, random)
    return made


def _rows(data: Any, signature: Signature) -> Rows | None:
    if data is None:
        return None
    rows, truth = data if isinstance(data, tuple) else (data, None)
    if truth is not None:
        truth = np.asarray(truth)
    return Rows(conform(rows, signature), truth)
