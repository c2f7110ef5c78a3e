"""The JSON of the Open Inference Protocol v2: a request's body to a call, an outcome to a body.

What is accepted: numbers of any datatype for a numeric field where the values fit; `null` for a
missing value where the training data had missing values; data flat or nested, row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec
import simdjson
from numpy.typing import NDArray

from bascule.core.errors import Invalid, TooLarge
from bascule.core.fields import Columns, DType, Field
from bascule.serving.calls import Call
from bascule.serving.confidence import Asked, Confidence
from bascule.serving.json_values import JsonParser, values_reader
from bascule.serving.models import ServedModel

_encode = msgspec.json.encode
_DATATYPES = frozenset(DType)
_MISSING = object()

Decoded = tuple[str | None, Call]
"""The id that the request brought, and what it asks."""

_NO_CONFIDENCE = Confidence(None, ())


class Decoder:
    """Parses request bodies, reusing one parser: not for concurrent use."""

    def __init__(self) -> None:
        self._parser = JsonParser()

    def for_fields(
        self,
        inputs: Sequence[Field],
        targets: Sequence[Field],
        outputs: Sequence[Field],
        max_rows: int,
        confidence: Confidence = _NO_CONFIDENCE,
    ) -> Callable[[bytes], Decoded]:
        """A function from a request body to a call; it raises `Invalid`.

        `inputs` says what is allowed, `targets` (same order) what the program reads.
        """
        readers = {
            field.name: _reader(field, target.dtype)
            for field, target in zip(inputs, targets, strict=True)
        }
        output_names = {field.name for field in outputs} | confidence.names

        def decode(body: bytes) -> Decoded:
            document = self._parser.parse(body)
            try:
                return _decode(document, readers, output_names, max_rows, confidence)
            finally:
                # The parser refuses to parse again while anything of its last document lives.
                del document

        return decode


class At(NamedTuple):
    """The place of one `inputs[i]` of a request; see `json_values.Place`."""

    tensor: int
    name: str

    def __str__(self) -> str:
        return f"inputs[{self.tensor}] ({self.name}).data"

    def value(self, position: int) -> str:
        return f"{self}[{position}]"

    def part(self, name: str) -> str:
        return f"inputs[{self.tensor}] ({self.name}).{name}"


Reader = Callable[[Any, int, At], tuple[NDArray[Any], int]]
"""From one `inputs[i]` of a request, the rows so far (0: not known), and its place, to the array
and its rows."""


def _decode(
    document: Any,
    readers: dict[str, Reader],
    output_names: set[str],
    max_rows: int,
    confidence: Confidence,
) -> Decoded:
    if not isinstance(document, simdjson.Object):
        raise Invalid("the body is not a JSON object", hint='send {"inputs": [...]}')
    inputs = document.get("inputs", _MISSING)
    if not isinstance(inputs, simdjson.Array):
        raise Invalid(
            "inputs: missing, or not a list", hint="send one tensor per input of the model"
        )
    columns: Columns = {}
    rows = 0
    for index, tensor in enumerate(inputs):
        if not isinstance(tensor, simdjson.Object):
            raise Invalid(f"inputs[{index}] is not an object")
        name = tensor.get("name", _MISSING)
        if not isinstance(name, str) or name not in readers:
            raise _unknown_input(index, name, readers)
        if name in columns:
            raise Invalid(f"inputs[{index}]: {name!r} is given twice")
        columns[name], rows = readers[name](tensor, rows, At(index, name))
    if len(columns) < len(readers):
        lacking = ", ".join(repr(name) for name in readers if name not in columns)
        raise Invalid(f"inputs: {lacking} missing", hint="send one tensor per input of the model")
    if rows > max_rows:
        raise TooLarge(
            f"{rows} rows are over the limit of {max_rows}",
            hint="send fewer rows a request",
            limit=max_rows,
        )
    if len(document) == 1:
        return None, Call(columns, rows, None, confidence.by_default)
    asked = confidence.by_default
    call_id: str | None = None
    outputs: tuple[str, ...] | None = None
    # Asking the document for a key that it lacks costs more than walking the few that it has; and
    # walking its values would make Python objects of all the numbers in them.
    for key in document:
        if key == "id":
            given = document[key]
            if given is not None and not isinstance(given, str):
                raise Invalid("id: not a text", hint='send for example "id": "42", or leave it out')
            call_id = given
        elif key == "outputs":
            wanted = document[key]
            if wanted is not None:
                outputs = _wanted(wanted, output_names)
        elif key == "parameters":
            asked = _asked(document[key], confidence)
    if outputs is not None and asked is None:
        confidence.refuse(outputs)
    return call_id, Call(columns, rows, outputs, asked)


def _asked(parameters: Any, confidence: Confidence) -> Asked | None:
    if parameters is None:
        return confidence.by_default
    if not isinstance(parameters, simdjson.Object):
        raise Invalid("parameters: not an object", hint='send for example {"confidence": 0.9}')
    return confidence.read(parameters)


def _unknown_input(index: int, name: Any, readers: dict[str, Reader]) -> Invalid:
    if not isinstance(name, str):
        return Invalid(f"inputs[{index}].name: missing, or not a text")
    known = ", ".join(readers) if len(readers) <= 20 else f"{len(readers)} others"
    return Invalid(
        f"inputs[{index}].name: the model has no input {name[:128]!r}", hint=f"it has {known}"
    )


def _wanted(outputs: Any, known: set[str]) -> tuple[str, ...] | None:
    if not isinstance(outputs, simdjson.Array):
        raise Invalid("outputs: not a list", hint='send for example [{"name": "label"}]')
    names: list[str] = []
    for index, output in enumerate(outputs):
        name = output.get("name") if isinstance(output, simdjson.Object) else None
        if not isinstance(name, str):
            raise Invalid(f"outputs[{index}].name: missing, or not a text")
        if name not in known:
            raise Invalid(
                f"outputs[{index}].name: the model has no output {name[:128]!r}",
                hint=f"it has {', '.join(sorted(known))}",
            )
        if name not in names:
            names.append(name)
    return tuple(names) or None


# -- reading one tensor --


def _reader(field: Field, target: DType) -> Reader:
    """The reader of a field: `field` says what is allowed, `target` what the program takes."""
    width = 1
    for length in field.shape:
        width *= length
    values = values_reader(field, target)
    row_shape = field.shape
    lengths = list(row_shape)
    allowed = datatypes_for(field.dtype)
    if -1 in row_shape:
        return _open_reader(field, target)

    def read(tensor: Any, rows: int, where: At) -> tuple[NDArray[Any], int]:
        datatype = tensor.get("datatype", _MISSING)
        if datatype not in allowed:
            raise wrong_datatype(where, datatype, field)
        shape = tensor.get("shape", _MISSING)
        if not isinstance(shape, simdjson.Array):
            raise Invalid(f"{where.part('shape')}: missing, or not a list of whole numbers")
        sent = shape.as_list()
        if sent and sent[1:] == lengths and type(sent[0]) is int and sent[0] > 0:
            own_rows = sent[0]
        else:
            own_rows = rows_of(sent, row_shape, where)
        if rows and own_rows != rows:
            raise Invalid(
                f"{where.part('shape')}: {own_rows} rows, where the inputs before it have {rows}",
                hint="every input has one value per row",
            )
        data = tensor.get("data", _MISSING)
        if not isinstance(data, simdjson.Array):
            raise Invalid(f"{where}: missing, or not a list")
        array = values(data, own_rows * width, where)
        if len(data) != len(array) or (width == 1 and isinstance(data[0], simdjson.Array)):
            _check_nesting(data.as_list(), own_rows, row_shape, where)
        if row_shape:
            array = array.reshape(own_rows, *row_shape)
        return array, own_rows

    return read


def _open_reader(field: Field, target: DType) -> Reader:
    """The reader of a field of which a length may vary: it reads by the shape of each request."""
    expected = ", ".join(["rows", *("any" if n == -1 else str(n) for n in field.shape)])

    def read(tensor: Any, rows: int, where: At) -> tuple[NDArray[Any], int]:
        shape = tensor.get("shape", _MISSING)
        sent: list[Any] = shape.as_list() if isinstance(shape, simdjson.Array) else []
        if len(sent) != 1 + len(field.shape) or not all(
            type(length) is int and length > 0 and declared in (-1, length)
            for length, declared in zip(sent[1:], field.shape, strict=True)
        ):
            raise wrong_shape(sent, expected, where)
        return _reader(replace(field, shape=tuple(sent[1:])), target)(tensor, rows, where)

    return read


def datatypes_for(dtype: DType) -> frozenset[DType]:
    """The datatypes that a request may declare for a field.

    In JSON a number is a decimal text, whatever it is declared as; what counts is that its value
    fits the field, and that is checked on the values.
    """
    if dtype.is_float:
        return frozenset(d for d in DType if d.is_float or d.is_integer)
    if dtype.is_integer:
        return frozenset(d for d in DType if d.is_integer)
    return frozenset((dtype,))


def wrong_datatype(where: At, datatype: Any, field: Field) -> Invalid:
    if datatype not in _DATATYPES:
        found = "missing, or not a text"
        if isinstance(datatype, str):
            found = f"{datatype[:32]!r} is no data type"
        return Invalid(f"{where.part('datatype')}: {found}", hint=f"send {field.dtype.value!r}")
    return Invalid(
        f"{where.part('datatype')}: {datatype}, where the model takes {field.dtype.value}",
        hint=f"send {field.dtype.value}",
    )


def rows_of(shape: list[Any], row_shape: tuple[int, ...], where: At) -> int:
    tail = tuple(shape[1:])
    # A column may also be sent as a matrix of one column.
    if shape and (tail == row_shape or (not row_shape and tail == (1,))):
        rows = shape[0]
        if type(rows) is int and rows > 0:
            return rows
    expected = ", ".join(["rows", *map(str, row_shape)])
    raise wrong_shape(shape, expected, where)


def wrong_shape(shape: list[Any], expected: str, where: At) -> Invalid:
    found = str(shape)[:64] if all(type(length) is int for length in shape) else "what was sent"
    return Invalid(
        f"{where.part('shape')}: {found} is not [{expected}] with one row or more",
        hint="the first number is the count of rows",
    )


def _check_nesting(data: list[Any], rows: int, row_shape: tuple[int, ...], where: At) -> None:
    """Nested data must have the declared shape: a ragged list of the right length is a mistake."""
    shape = (rows, *row_shape) if row_shape else (rows, 1)
    if not _has_shape(data, shape):
        raise Invalid(
            f"{where}: nested lists that are not of the declared shape",
            hint="send the values flat, or nested exactly as the shape says",
        )


def _has_shape(data: Any, shape: tuple[int, ...]) -> bool:
    if not shape:
        return not isinstance(data, list)
    if not isinstance(data, list) or len(data) != shape[0]:
        return False
    return all(_has_shape(item, shape[1:]) for item in data)


# -- writing the answer --


def _shape_end(row_shape: tuple[int, ...]) -> bytes:
    return b"".join(b",%d" % length for length in row_shape) + b'],"data":'


def encoder(model: ServedModel) -> Callable[[str, Columns, int], bytes]:
    head = b'{"model_name":%b,"model_version":%b,"parameters":{"program":%b},"id":' % (
        _encode(model.name),
        _encode(model.version),
        _encode(model.program.name),
    )
    parts = {
        field.name: (
            b'{"name":%b,"datatype":"%b","shape":['
            % (_encode(field.name), field.dtype.value.encode()),
            _shape_end(field.shape),
        )
        for field in (*model.signature.outputs, *model.confidence.fields)
    }
    varying = frozenset(field.name for field in model.signature.outputs if -1 in field.shape)

    def encode(call_id: str, outputs: Columns, rows: int) -> bytes:
        tensors = []
        for name, array in outputs.items():
            before, after = parts[name]
            if varying and name in varying:
                after = _shape_end(array.shape[1:])
            data = _encode(array.ravel().tolist())
            tensors.append(b"%b%d%b%b}" % (before, rows, after, data))
        return b'%b%b,"outputs":[%b]}' % (head, _encode(call_id), b",".join(tensors))

    return encode
