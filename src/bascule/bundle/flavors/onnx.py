"""ONNX: a graph that is its own program and its own original."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bascule.bundle.manifest import Manifest
from bascule.bundle.programs.onnx import (
    field_of,
    is_known_type,
    open_onnx,
    open_session,
)
from bascule.bundle.subject import Compilation, Rows, Subject
from bascule.bundle.tables import conform
from bascule.core.errors import Invalid, Untrusted
from bascule.core.fields import Field, Signature

_FILE = "original/model.onnx"


class Onnx:
    """See `bundle.subject.Flavor`."""

    name = "onnx"

    def recognises(self, model: Any) -> bool:
        return isinstance(model, bytes | str | Path) or (
            type(model).__name__ == "ModelProto" and hasattr(model, "SerializeToString")
        )

    def read(self, model: Any, train: Any, test: Any) -> Subject:
        data = _bytes(model)
        try:
            session = open_session(data, "the model")
        except Untrusted as problem:
            raise Invalid(problem.message, hint=problem.hint or "give an ONNX file") from None
        signature = Signature(
            tuple(_row_field(node) for node in session.get_inputs()),
            tuple(_row_field(node) for node in session.get_outputs()),
        )
        program = open_onnx(
            data,
            name="original",
            file="the model",
            inputs=signature.inputs,
            outputs=signature.outputs,
        )
        return Subject(
            task="other",
            classes=None,
            signature=signature,
            original=program,
            saved=data,
            saved_file=_FILE,
            saved_format="onnx",
            requires={},
            frame={},
            train=_rows(train, signature),
            test=_rows(test, signature),
            parameters={},
        )

    def compilations(self, _model: Any, subject: Subject) -> Iterator[Compilation]:
        yield Compilation(
            "its own", subject.saved, subject.signature.inputs, subject.signature.outputs, None
        )


def reopen(data: bytes, _manifest: Manifest) -> bytes:
    """The graph itself."""
    return data


def _bytes(model: Any) -> bytes:
    if isinstance(model, bytes):
        return model
    if isinstance(model, str | Path):
        try:
            return Path(model).read_bytes()
        except OSError as problem:
            raise Invalid(
                f"{model} cannot be read: {problem.strerror}", hint="give the path of an ONNX file"
            ) from None
    return bytes(model.SerializeToString(deterministic=True))


def _row_field(node: Any) -> Field:
    if not is_known_type(node):
        raise Invalid(
            f"{node.name} is {node.type}, and tensors are supported",
            hint="for a model from skl2onnx, convert with zipmap=False",
            field=node.name,
        )
    if not node.shape:
        raise Invalid(
            f"{node.name} is a single value, and its first dimension must be the rows",
            field=node.name,
        )
    if isinstance(node.shape[0], int):
        raise Invalid(
            f"{node.name} takes exactly {node.shape[0]} rows, so requests could not be batched",
            hint="export the model again with a dynamic first dimension",
            field=node.name,
        )
    return field_of(node)


def _rows(data: Any, signature: Signature) -> Rows | None:
    if data is None:
        return None
    rows, truth = data if isinstance(data, tuple) else (data, None)
    if truth is not None:
        import numpy as np

        truth = np.asarray(truth)
    return Rows(conform(rows, signature), truth)
