"""The messages of the Open Inference Protocol v2 over gRPC: bytes to facts, and facts to bytes.

The numbers of the fields are those of `grpc_predict_v2.proto`, as KServe and Triton have it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bascule.core import DType, Field, Invalid
from bascule.serving.codecs import (
    BYTES,
    FIXED32,
    FIXED64,
    MAX_VALUES,
    VARINT,
    block,
    double_field,
    fields,
    malformed,
    number_field,
    packed_varints,
    read_text,
    read_varints,
    varint,
)

Parameter = bool | int | str | float | None
_SIGN = 2**63
_MAX_HEAD_BYTES = 128
_MAX_SHAPE_BYTES = 1024
_NAME, _VERSION, _ID, _PARAMETERS, _INPUTS, _OUTPUTS, _RAW = (
    number << 3 | BYTES for number in range(1, 8)
)

BOOL_CONTENTS, INT, INT64, UINT, UINT64, FP32, FP64, TEXTS = range(1, 9)
"""The fields of `InferTensorContents`."""

CONTENTS_OF: Mapping[DType, int] = {
    DType.BOOL: BOOL_CONTENTS,
    DType.INT8: INT,
    DType.INT16: INT,
    DType.INT32: INT,
    DType.INT64: INT64,
    DType.UINT8: UINT,
    DType.UINT16: UINT,
    DType.UINT32: UINT,
    DType.UINT64: UINT64,
    DType.FP32: FP32,
    DType.FP64: FP64,
    DType.BYTES: TEXTS,
}
"""Where the values of a datatype are; those of FP16 have no place, and always come raw."""

_FIXED: Mapping[int, np.dtype[Any]] = {FP32: np.dtype("<f4"), FP64: np.dtype("<f8")}
Contents = dict[int, NDArray[Any] | list[bytes]]


class Tensor(NamedTuple):
    """One `InferInputTensor`; `contents` by the field of `InferTensorContents`, if not raw."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: dict[str, Parameter]
    contents: Contents


class InferRequest(NamedTuple):
    """One `ModelInferRequest`.

    Attributes:
        model_name: Empty where it was not sent, as is every other text.
        model_version: Empty for the default one.
        id: What the answer repeats.
        parameters: By name; None for one without a value.
        inputs: The tensors.
        outputs: The names of those wanted; empty for all.
        raw: Start and end of every `raw_input_contents` in the message.
        id_at: Start and end of the id in it; nothing of it where it was not sent.
        output_parameters: The index and the parameters of each output that has any.
    """

    model_name: str
    model_version: str
    id: str
    parameters: dict[str, Parameter]
    inputs: list[Tensor]
    outputs: list[str]
    raw: list[tuple[int, int]]
    id_at: tuple[int, int] = (0, 0)
    output_parameters: Sequence[tuple[int, dict[str, Parameter]]] = ()


def read_infer_request(data: bytes) -> InferRequest:
    """Read a `ModelInferRequest`; raises `Invalid`."""
    model_name = model_version = call_id = ""
    parameters: dict[str, Parameter] = {}
    inputs: list[Tensor] = []
    outputs: list[str] = []
    raw: list[tuple[int, int]] = []
    id_at = (0, 0)
    said_of_outputs: list[tuple[int, dict[str, Parameter]]] = []
    for tag, _, start, end in fields(data, 0, len(data)):
        if tag == _RAW:
            raw.append((start, end))
        elif tag == _INPUTS:
            is_head = end - start <= _MAX_HEAD_BYTES
            inputs.append((_known_tensor if is_head else _tensor)(data[start:end]))
        elif tag == _OUTPUTS:
            name, said = _requested(data, start, end)
            if said:
                said_of_outputs.append((len(outputs), said))
            outputs.append(name)
        elif tag == _NAME:
            model_name = read_text(data, start, end)
        elif tag == _VERSION:
            model_version = read_text(data, start, end)
        elif tag == _ID:
            call_id = read_text(data, start, end)
            id_at = start, end
        elif tag == _PARAMETERS:
            _add_parameter(parameters, data, start, end)
    return InferRequest(
        model_name, model_version, call_id, parameters, inputs, outputs, raw, id_at,
        said_of_outputs,
    )  # fmt: skip


def read_first_name_and_version(beginning: bytes) -> tuple[str, str]:
    """Name and version as the beginning of a `ModelInferRequest` has them, empty if it has none."""
    texts = ["", ""]
    try:
        for tag, _, start, end in fields(beginning, 0, len(beginning)):
            if tag in (_NAME, _VERSION):
                texts[(tag >> 3) - 1] = read_text(beginning, start, end)
            elif texts[0]:
                break  # libraries write fields by their numbers
    except Invalid:
        pass  # it ends within another field, or is no message: what came before counts
    return texts[0], texts[1]


def _tensor(data: bytes) -> Tensor:
    name = datatype = ""
    shape: list[int] = []
    parameters: dict[str, Parameter] = {}
    pieces: dict[int, list[Any]] = {}
    for tag, value, start_, end_ in fields(data, 0, len(data)):
        if tag == 1 << 3 | BYTES:
            name = read_text(data, start_, end_)
        elif tag == 2 << 3 | BYTES:
            datatype = read_text(data, start_, end_)
        elif tag == 3 << 3 | BYTES:
            if end_ - start_ == 1 and data[start_] < 0x80:
                shape.append(data[start_])
            elif end_ - start_ > _MAX_SHAPE_BYTES:
                raise malformed("a shape is too long")
            else:
                shape += read_varints(data, start_, end_).view(np.int64).tolist()
        elif tag == 3 << 3 | VARINT:
            shape.append(_signed(value))
        elif tag == 4 << 3 | BYTES:
            _add_parameter(parameters, data, start_, end_)
        elif tag == 5 << 3 | BYTES:
            _add_contents(pieces, data, start_, end_)
    contents = {number: _joined(number, found) for number, found in pieces.items()}
    return Tensor(name, datatype, tuple(shape), parameters, contents)


_known_tensor = lru_cache(1024)(_tensor)
"""A tensor without its values is as long as its name and shape, and comes again in every call."""


def _signed(value: int) -> int:
    return value - (_SIGN << 1) if value >= _SIGN else value


def _requested(data: bytes, start: int, end: int) -> tuple[str, dict[str, Parameter]]:
    name = ""
    parameters: dict[str, Parameter] = {}
    for tag, _, start_, end_ in fields(data, start, end):
        if tag == 1 << 3 | BYTES:
            name = read_text(data, start_, end_)
        elif tag == 2 << 3 | BYTES:
            _add_parameter(parameters, data, start_, end_)
    return name, parameters


def _add_parameter(into: dict[str, Parameter], data: bytes, start: int, end: int) -> None:
    """Add one entry of a map of `InferParameter`; one with unknown fields is passed over."""
    key = ""
    is_known = True
    value: Parameter = None
    for tag, _, start_, end_ in fields(data, start, end):
        if tag == 1 << 3 | BYTES:
            key = read_text(data, start_, end_)
        elif tag == 2 << 3 | BYTES:
            for inner, number, start__, end__ in fields(data, start_, end_):
                if inner == 1 << 3 | VARINT:
                    value = number != 0
                elif inner == 2 << 3 | VARINT:
                    value = _signed(number)
                elif inner == 3 << 3 | BYTES:
                    value = read_text(data, start__, end__)
                elif inner == 4 << 3 | FIXED64:
                    value = float(np.frombuffer(data, "<f8", 1, start__)[0])
                elif inner == 5 << 3 | VARINT:
                    value = number
        else:
            is_known = False
    if is_known:
        into[key] = value


def _add_contents(pieces: dict[int, list[Any]], data: bytes, start: int, end: int) -> None:
    """Add the pieces of one `InferTensorContents`: numbers come packed, one by one, or both."""
    for tag, value, start_, end_ in fields(data, start, end, MAX_VALUES // 4):
        number, kind = tag >> 3, tag & 7
        if number == TEXTS:
            if kind == BYTES:
                pieces.setdefault(number, []).append(data[start_:end_])
        elif number in _FIXED:
            fixed = _FIXED[number]
            if kind == BYTES:
                if (end_ - start_) % fixed.itemsize:
                    raise malformed("a packed list ends within a number")
            elif kind != (FIXED32 if number == FP32 else FIXED64):
                continue
            # Copied, because numbers do not lie at an even address in a message.
            pieces.setdefault(number, []).append(np.frombuffer(data[start_:end_], fixed))
        elif number <= UINT64:
            if kind == BYTES:
                found = read_varints(data, start_, end_)
            elif kind == VARINT:
                found = np.array([value], np.uint64)
            else:
                continue
            pieces.setdefault(number, []).append(_whole(number, found))


def _whole(number: int, found: NDArray[np.uint64]) -> NDArray[Any]:
    """The bits of numbers, as the type of their field: what does not fit is cut off."""
    if number == BOOL_CONTENTS:
        return found.astype(np.bool_)
    if number == INT64:
        return found.view(np.int64)
    if number == UINT64:
        return found
    low = found.astype(np.uint32)
    if number == UINT:
        return low
    return low.view(np.int32)


def _joined(number: int, found: list[Any]) -> NDArray[Any] | list[bytes]:
    if number == TEXTS:
        return found
    joined: NDArray[Any] = found[0] if len(found) == 1 else np.concatenate(found)
    return joined


# -- other requests, which all have two fields at most --


def read_name_and_version(data: bytes) -> tuple[str, str]:
    """Read a message whose first two fields are texts; raises `Invalid`."""
    texts = ["", ""]
    for tag, _, start, end in fields(data, 0, len(data)):
        if tag in (_NAME, _VERSION):
            texts[(tag >> 3) - 1] = read_text(data, start, end)
    return texts[0], texts[1]


# -- answers --


def truth(value: bool) -> bytes:
    """A message whose first field is a truth; false is said by saying nothing."""
    return number_field(1, 1) if value else b""


def parameter(number: int, name: str, value: str | float) -> bytes:
    """One entry of a map of `InferParameter`, the map being field `number`."""
    if isinstance(value, bool):
        told = number_field(1, value)
    elif isinstance(value, int):
        told = number_field(2, value)
    elif isinstance(value, float):
        told = double_field(4, value)
    else:
        told = block(3, value)
    return block(number, block(1, name) + block(2, told))


def server_metadata(name: str, version: str, extensions: Iterable[str]) -> bytes:
    return block(1, name) + block(2, version) + b"".join(block(3, one) for one in extensions)


def tensor_metadata(number: int, field: Field) -> bytes:
    """One tensor of a `ModelMetadataResponse`, as its field `number`."""
    return block(number, tensor_head(field.name, field.dtype, (-1, *field.shape)))


def tensor_head(name: str, dtype: DType, shape: tuple[int, ...]) -> bytes:
    """Name, datatype and shape, which all messages of tensors begin with."""
    lengths = b"".join(map(varint, shape))
    return block(1, name) + block(2, dtype.value) + block(3, lengths)


def contents_of(array: NDArray[Any], dtype: DType) -> bytes:
    """The values of an output as the content of `InferTensorContents`."""
    number = CONTENTS_OF[dtype]
    flat = array.ravel()
    if number == TEXTS:
        return b"".join(block(TEXTS, text) for text in flat.tolist())
    if number in _FIXED:
        return block(number, flat.astype(_FIXED[number], copy=False).tobytes())
    return block(number, packed_varints(flat))
