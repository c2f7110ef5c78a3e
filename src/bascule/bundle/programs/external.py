"""Finds tensors that a graph keeps outside of itself. Imports onnx, so it is loaded when needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx


def has_external_data(data: bytes) -> bool:
    """Whether any tensor of the serialized model names another file. Damaged bytes say no.

    What is not a model is refused by the runtime, with its own words.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:  # the parser's error type depends on its build
        return False
    return any(
        tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL
        for tensor in _tensors(model)
    )


def _tensors(message: Any) -> Iterator[Any]:
    for _, value in message.ListFields():
        for part in value if _is_repeated(value) else (value,):
            if isinstance(part, onnx.TensorProto):
                yield part
            elif hasattr(part, "ListFields"):
                yield from _tensors(part)


def _is_repeated(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, str | bytes)
