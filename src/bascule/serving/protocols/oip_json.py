"""The JSON of the Open Inference Protocol v2: a request's body to a call, an outcome to a body.

What is accepted: numbers of any datatype for a numeric field where the values fit; `null` for a
missing value where the training data had missing values; data flat or nested, row by row. Tensors
may also follow the JSON as bytes, and be answered so (the binary tensor data extension).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import msgspec
import simdjson
from numpy.typing import NDArray

from bascule.bundle import missing
from bascule.bundle.extras import ExtraRequest
from bascule.core import Columns, DType, Field, Invalid, Signature, TooLarge
from bascule.serving.calls import Answer, AnsweredBy, Call
from bascule.serving.codecs import (
    JsonParser,
    RawReader,
    ValuesReader,
    raw_of,
    raw_reader,
    refuse_twice,
    values_reader,
)
from bascule.serving.execution import NO_EXTRAS, Extras

_encode = msgspec.json.encode
_DATATYPES = frozenset(DType)
_MISSING = object()
_TENSOR_PARTS = 4
"""Name, data type, shape, and data or parameters, all of which are looked up: a tensor of so many
keys has none twice."""
_MAX_KNOWN_PLANS = 64
_MAX_KNOWN_BYTES = 4096


class AsBytes(NamedTuple):
    """Which outputs are wanted as bytes after the JSON.

    Attributes:
        others: Whether those are of which nothing is said.
        named: Those of which something is said.
    """

    others: bool
    named: dict[str, bool]

    def wants(self, name: str) -> bool:
        return self.named.get(name, self.others)


Decoded = tuple[str | None, Call, AsBytes | None]
"""The id that the request brought, what it asks, and what is wanted as bytes; None for nothing."""


class Decoder:
    """Parses request bodies, reusing one parser: not for concurrent use."""

    def __init__(self) -> None:
        self._parser = JsonParser('{"inputs": [...]}')

    def for_fields(
        self,
        inputs: Sequence[Field],
        targets: Sequence[Field],
        outputs: Sequence[Field],
        max_rows: int,
        extras: Extras = NO_EXTRAS,
    ) -> Callable[..., Decoded]:
        """A function from a request body to a call; it raises `Invalid`.

        `inputs` says what is allowed, `targets` (same order) what the program reads. Where tensors
        follow the JSON, the function also takes how many bytes are JSON.
        """
        readers = {
            field.name: _reader(field, target.dtype, max_rows)
            for field, target in zip(inputs, targets, strict=True)
        }
        output_names = {field.name for field in outputs} | extras.names
        optional = optional_targets(inputs, targets)

        known_plans: dict[bytes, _Plan] = {}
        known_frames: dict[bytes, _Frame] = {}

        def decode_with_bytes(body: bytes, json_bytes: int) -> Decoded:
            if json_bytes == 0:
                return _only_bytes(body, inputs, readers, max_rows, extras)
            said = body[:json_bytes]
            plan = known_plans.get(said)
            if plan is not None and plan.body_bytes == len(body):
                return plan.decoded(body)
            tail = Tail(body, json_bytes)
            decoded = decode(said, tail=tail)
            tail.end()
            if decoded[0] is None and json_bytes <= _MAX_KNOWN_BYTES:
                _learn(known_plans, said, tail, decoded)
            return decoded

        def decode(body: bytes, json_bytes: int = -1, tail: Tail | None = None) -> Decoded:
            if json_bytes >= 0:
                return decode_with_bytes(body, json_bytes)
            start, end = _list_of_numbers(body)
            frame = known_frames.get(body[:start])
            if frame is not None and frame.after == body[end:]:
                try:
                    return frame.decoded(self._parser.parse(body[start:end]))
                except Invalid:
                    pass  # said in the words of the way that reads the whole
            document = self._parser.parse(body)
            try:
                decoded = _decode(document, readers, output_names, extras, tail, optional)
            finally:
                # The parser refuses to parse again while anything of its last document lives.
                del document
            if start and frame is None and len(readers) == 1 and decoded[0] is None:
                self._learn_frame(known_frames, body[:start], body[end:], decoded, read_values)
            return decoded

        (first, *_), (target, *_) = inputs, targets
        read_values = values_reader(first, target.dtype)
        return decode

    def _learn_frame(
        self,
        frames: dict[bytes, _Frame],
        before: bytes,
        after: bytes,
        decoded: Decoded,
        read: ValuesReader,
    ) -> None:
        """Remember what stands around the numbers of a body, if they are those of its only tensor.

        JSON's grammar knows no context: where `null` may stand for the numbers, any list may.
        """
        with suppress(Invalid):
            document = self._parser.parse(before + b"null" + after)
            if document["inputs"][0].get("data", _MISSING) is not None:
                return
            if len(frames) >= _MAX_KNOWN_PLANS:
                frames.clear()
            ((name, array),) = decoded[1].columns.items()
            call = decoded[1]._replace(columns={})
            frames[before] = _Frame(
                after, read, array.size, array.shape, At(0, name), call, decoded[2]
            )


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


class _Read(NamedTuple):
    """How one tensor is read from the bytes of a body; see `raw_tensors.RawReader`."""

    name: str
    read: RawReader
    start: int
    size: int
    values: int
    shape: tuple[int, ...]
    where: At

    def array(self, body: bytes) -> NDArray[Any]:
        return self.read(body, self.start, self.size, self.values, self.where).reshape(self.shape)


class _Plan(NamedTuple):
    """What a JSON said whose tensors all follow it: the next body with the same is read by it."""

    body_bytes: int
    reads: tuple[_Read, ...]
    call: Call
    as_bytes: AsBytes | None

    def decoded(self, body: bytes) -> Decoded:
        columns = {one.name: one.array(body) for one in self.reads}
        _, rows, outputs, wanted = self.call
        return None, Call(columns, rows, outputs, wanted), self.as_bytes


class _Frame(NamedTuple):
    """What stood around the numbers of a body: the next one with the same is read by it."""

    after: bytes
    read: ValuesReader
    values: int
    shape: tuple[int, ...]
    where: At
    call: Call
    as_bytes: AsBytes | None

    def decoded(self, numbers: Any) -> Decoded:
        array = self.read(numbers, self.values, self.where).reshape(self.shape)
        _, rows, outputs, wanted = self.call
        return None, Call({self.where.name: array}, rows, outputs, wanted), self.as_bytes


def _list_of_numbers(body: bytes) -> tuple[int, int]:
    """Where the first list called `data` begins and ends, if no list is in it; 0 for nowhere."""
    at = body.find(b'"data"', 0, _MAX_KNOWN_BYTES)
    if at < 0:
        return 0, 0
    start = body.find(b"[", at)
    end = body.find(b"]", start) + 1
    return (start, end) if 0 < start < end else (0, 0)


def _learn(plans: dict[bytes, _Plan], said: bytes, tail: Tail, decoded: Decoded) -> None:
    """Remember what a JSON says: a client sends the same one again and again, and other bytes."""
    _, call, as_bytes = decoded
    if len(tail.reads) < len(call.columns):
        return
    if len(plans) >= _MAX_KNOWN_PLANS:
        plans.clear()
    plans[said] = _Plan(len(tail.body), tuple(tail.reads), call._replace(columns={}), as_bytes)


class Tail:
    """The bytes after the JSON of a request: one tensor after another, in the order of `inputs`."""

    def __init__(self, body: bytes, start: int) -> None:
        if start > len(body):
            raise Invalid(
                f"header Inference-Header-Content-Length: {start} is more than the "
                f"{len(body)} bytes of the body",
                hint="it is the length of the JSON, before the tensors",
            )
        self.body = body
        self.reads: list[_Read] = []
        self._next = start

    def take(self, tensor: Any, where: At) -> tuple[int, int]:
        """Where the next tensor begins, and how many bytes it says to have."""
        parameters = tensor.get("parameters")
        size = None
        if isinstance(parameters, simdjson.Object):
            refuse_twice(parameters, where.part("parameters"))
            size = parameters.get("binary_data_size")
        if type(size) is not int or size < 0:
            raise Invalid(
                f"{where}: missing, or not a list",
                hint="send data, or parameters.binary_data_size and the bytes after the JSON",
            )
        start = self._next
        if size > len(self.body) - start:
            raise Invalid(
                f"{where.part('parameters.binary_data_size')}: {size}, where "
                f"{len(self.body) - start} bytes are left of the body",
                hint="the tensors follow the JSON in the order of inputs",
            )
        self._next = start + size
        return start, size

    def end(self) -> None:
        """Raise `Invalid` where bytes are left of which nothing was said."""
        left = len(self.body) - self._next
        if left:
            raise Invalid(
                f"{left} bytes of the body follow the last tensor",
                hint="Inference-Header-Content-Length and every binary_data_size must be exact",
            )


Reader = Callable[[Any, int, At, Tail | None], tuple[NDArray[Any], int]]
"""From one `inputs[i]` of a request, the rows so far (0: not known), its place, and the bytes
after the JSON, to the array and its rows."""


def _decode(
    document: Any,
    readers: dict[str, Reader],
    output_names: set[str],
    extras: Extras,
    tail: Tail | None,
    optional: Mapping[str, Field],
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
            raise unknown_input(index, name, readers)
        refuse_second(index, name, columns)
        columns[name], rows = readers[name](tensor, rows, At(index, name), tail)
    add_optional(columns, readers, optional, rows)
    if len(document) == 1:
        return None, Call(columns, rows, None, extras.by_default), None
    keys = list(document)
    if len(set(keys)) < len(keys):
        refuse_twice(document, "the body")
    requests = extras.by_default
    call_id: str | None = None
    outputs: tuple[str, ...] | None = None
    as_bytes: dict[str, bool] = {}
    others_as_bytes = False
    # Asking the document for a key that it lacks costs more than walking the few that it has; and
    # walking its values would make Python objects of all the numbers in them.
    for key in keys:
        if key == "id":
            given = document[key]
            if given is not None and not isinstance(given, str):
                raise Invalid("id: not a text", hint='send for example "id": "42", or leave it out')
            call_id = given
        elif key == "outputs":
            wanted = document[key]
            if wanted is not None:
                outputs = _wanted(wanted, output_names, as_bytes)
        elif key == "parameters":
            parameters: Any = document[key]
            if parameters is not None:
                requests = _extras(parameters, extras)
                refuse_twice(parameters, "parameters")
                flag = parameters.get("binary_data_output")
                others_as_bytes = _flag(flag, "parameters.binary_data_output")
    if outputs is not None:
        extras.check(outputs, requests)
    wanted_as_bytes = None
    if others_as_bytes or True in as_bytes.values():
        wanted_as_bytes = AsBytes(others_as_bytes, as_bytes)
    return call_id, Call(columns, rows, outputs, requests), wanted_as_bytes


def _only_bytes(
    body: bytes,
    inputs: Sequence[Field],
    readers: dict[str, Reader],
    max_rows: int,
    extras: Extras,
) -> Decoded:
    """A body without any JSON: the bytes of the only input, its rows counted by its size."""
    field = inputs[0]
    width = field.dtype.numpy.itemsize * math.prod(field.shape)
    if len(inputs) > 1 or -1 in field.shape or field.dtype is DType.BYTES:
        raise Invalid(
            "header Inference-Header-Content-Length: 0, and the model does not have one input of "
            "numbers of a known shape",
            hint="send JSON before the tensors",
        )
    rows = len(body) // width
    if not rows or len(body) % width:
        raise Invalid(
            f"{len(body)} bytes are no whole number of rows, of which each takes {width}",
            hint=f"send {field.dtype.value}, little-endian, row by row",
        )
    if rows > max_rows:
        raise too_many_rows(rows, max_rows)
    said = simdjson.Parser().parse(
        _encode(
            {
                "name": field.name,
                "datatype": field.dtype.value,
                "shape": [rows, *field.shape],
                "parameters": {"binary_data_size": len(body)},
            }
        )
    )
    array, _ = readers[field.name](said, 0, At(0, field.name), Tail(body, 0))
    return None, Call({field.name: array}, rows, None, extras.by_default), None


def too_many_rows(rows: int, max_rows: int) -> TooLarge:
    """The refusal of more rows than one request may have."""
    return TooLarge(
        f"{rows} rows are over the limit of {max_rows}",
        hint="send fewer rows a request",
        limit=max_rows,
    )


def _flag(value: Any, place: str) -> bool:
    if value is None:
        return False
    if type(value) is not bool:
        raise Invalid(f"{place}: not true or false", hint="leave it out for JSON")
    return value


def _extras(parameters: Any, extras: Extras) -> tuple[ExtraRequest, ...]:
    if not isinstance(parameters, simdjson.Object):
        raise Invalid("parameters: not an object", hint='send for example {"confidence": 0.9}')
    return extras.read(parameters, "oip")


# -- what is refused alike over HTTP and gRPC --


def unknown_input(index: int, name: Any, inputs: Collection[str]) -> Invalid:
    """The refusal of a tensor that is of no input."""
    if not isinstance(name, str):
        return Invalid(f"inputs[{index}].name: missing, or not a text")
    known = ", ".join(inputs) if len(inputs) <= 20 else f"{len(inputs)} others"
    return Invalid(
        f"inputs[{index}].name: the model has no input {name[:128]!r}", hint=f"it has {known}"
    )


def refuse_second(index: int, name: str, columns: Columns) -> None:
    """Raise `Invalid` where an input has been read already."""
    if name in columns:
        raise Invalid(f"inputs[{index}]: {name!r} is given twice")


def optional_targets(inputs: Sequence[Field], targets: Sequence[Field]) -> dict[str, Field]:
    """By name, the inputs that may be left out, as the program reads them."""
    both = zip(inputs, targets, strict=True)
    return {field.name: target for field, target in both if field.optional}


def add_optional(
    columns: Columns, inputs: Collection[str], optional: Mapping[str, Field], rows: int
) -> None:
    """Add missing values for what is left out; raises `Invalid` unless it is optional."""
    if len(columns) == len(inputs):
        return
    absent = [name for name in inputs if name not in columns]
    if lacking := ", ".join(repr(name) for name in absent if name not in optional):
        raise Invalid(f"inputs: {lacking} missing", hint="send one tensor per input of the model")
    columns |= {name: missing(optional[name], rows) for name in absent}


def check_rows(own_rows: int, rows: int, max_rows: int, where: At) -> None:
    """Raise where a tensor has too many rows, or others than those before it; 0 is none before."""
    if own_rows > max_rows:
        raise too_many_rows(own_rows, max_rows)
    if rows and own_rows != rows:
        raise Invalid(
            f"{where.part('shape')}: {own_rows} rows, where the inputs before it have {rows}",
            hint="every input has one value per row",
        )


def check_output(index: int, name: str, outputs: Collection[str]) -> None:
    """Raise `Invalid` where a listed output is none of the model."""
    if name not in outputs:
        raise Invalid(
            f"outputs[{index}].name: the model has no output {name[:128]!r}",
            hint=f"it has {', '.join(sorted(outputs))}",
        )


def _wanted(outputs: Any, known: set[str], as_bytes: dict[str, bool]) -> tuple[str, ...] | None:
    """The names listed; what is said of their form goes into `as_bytes`."""
    if not isinstance(outputs, simdjson.Array):
        raise Invalid("outputs: not a list", hint='send for example [{"name": "label"}]')
    names: list[str] = []
    output: Any
    for index, output in enumerate(outputs):
        name = output.get("name") if isinstance(output, simdjson.Object) else None
        if not isinstance(name, str):
            raise Invalid(f"outputs[{index}].name: missing, or not a text")
        check_output(index, name, known)
        if name not in names:
            names.append(name)
        refuse_twice(output, f"outputs[{index}]")
        parameters = output.get("parameters")
        if parameters is not None:
            _read_form(parameters, name, index, as_bytes)
    return tuple(names) or None


def _read_form(parameters: Any, name: str, index: int, as_bytes: dict[str, bool]) -> None:
    place = f"outputs[{index}].parameters"
    if not isinstance(parameters, simdjson.Object):
        raise Invalid(f"{place}: not an object", hint='send for example {"binary_data": true}')
    refuse_twice(parameters, place)
    refuse_unsupported(parameters, place)
    flag = parameters.get("binary_data")
    if flag is not None:
        as_bytes[name] = _flag(flag, f"{place}.binary_data")


def refuse_unsupported(parameters: Mapping[str, Any], place: str) -> None:
    """Raise `Invalid` where the parameters of a tensor ask for an extension that is not here."""
    if parameters.get("classification"):
        raise Invalid(
            f"{place}.classification: not supported", hint="ask for the probabilities instead"
        )
    if parameters.get("shared_memory_region"):
        raise Invalid(
            f"{place}.shared_memory_region: not supported",
            hint="send the tensor as bytes or as JSON, and leave the region out",
        )


# -- reading one tensor --


def _reader(field: Field, target: DType, max_rows: int) -> Reader:
    """The reader of a field: `field` says what is allowed, `target` what the program takes."""
    width = 1
    for length in field.shape:
        width *= length
    values = values_reader(field, target)
    row_shape = field.shape
    lengths = list(row_shape)
    allowed = datatypes_for(field)
    if -1 in row_shape:
        return _open_reader(field, target, max_rows)

    from_bytes = functools.cache(functools.partial(raw_reader, field, target))

    def read(tensor: Any, rows: int, where: At, tail: Tail | None) -> tuple[NDArray[Any], int]:
        if len(tensor) != _TENSOR_PARTS:
            refuse_twice(tensor, f"inputs[{where.tensor}] ({where.name})")
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
        check_rows(own_rows, rows, max_rows, where)
        data = tensor.get("data", _MISSING)
        if not isinstance(data, simdjson.Array):
            parameters = tensor.get("parameters")
            if isinstance(parameters, simdjson.Object):
                refuse_unsupported(parameters, where.part("parameters"))
            if data is not _MISSING or tail is None:
                raise Invalid(f"{where}: missing, or not a list")
            start, size = tail.take(tensor, where)
            one = _Read(
                field.name, from_bytes(DType(datatype)), start, size, own_rows * width,
                (own_rows, *row_shape), where,
            )  # fmt: skip
            tail.reads.append(one)
            return one.array(tail.body), own_rows
        array = values(data, own_rows * width, where)
        if len(data) != len(array) or (width == 1 and isinstance(data[0], simdjson.Array)):
            _check_nesting(data.as_list(), own_rows, row_shape, where)
        if row_shape:
            array = array.reshape(own_rows, *row_shape)
        return array, own_rows

    return read


def _open_reader(field: Field, target: DType, max_rows: int) -> Reader:
    """The reader of a field of which a length may vary: it reads by the shape of each request."""
    expected = ", ".join(["rows", *("any" if n == -1 else str(n) for n in field.shape)])

    def read(tensor: Any, rows: int, where: At, tail: Tail | None) -> tuple[NDArray[Any], int]:
        shape = tensor.get("shape", _MISSING)
        sent: list[Any] = shape.as_list() if isinstance(shape, simdjson.Array) else []
        if len(sent) != 1 + len(field.shape) or not all(
            type(length) is int and length > 0 and declared in (-1, length)
            for length, declared in zip(sent[1:], field.shape, strict=True)
        ):
            raise wrong_shape(sent, expected, where)
        narrowed = replace(field, shape=tuple(sent[1:]))
        return _reader(narrowed, target, max_rows)(tensor, rows, where, tail)

    return read


def datatypes_for(field: Field) -> frozenset[DType]:
    """The datatypes that a request may declare for a field.

    In JSON a number is a decimal text, whatever it is declared as; what counts is that its value
    fits the field, and that is checked on the values.
    """
    dtype = field.dtype
    if dtype.is_float:
        numbers = frozenset(d for d in DType if d.is_float or d.is_integer)
        return numbers | {DType.BOOL} if field.booleans else numbers
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


def _bytes_end(row_shape: tuple[int, ...]) -> bytes:
    lengths = b"".join(b",%d" % length for length in row_shape)
    return lengths + b'],"parameters":{"binary_data_size":'


class Answering(Protocol):
    """What forms of answers are made of: a `Predictor`, or the version that a device has."""

    @property
    def by(self) -> AnsweredBy: ...

    @property
    def signature(self) -> Signature: ...

    @property
    def extras(self) -> Extras: ...


class Encoder(NamedTuple):
    """The two forms of a model's answers.

    Attributes:
        as_json: From the id, the answer and the rows to a body.
        with_bytes: From these and what is wanted as bytes to a body, and how much of it is JSON.
    """

    as_json: Callable[[str, Answer, int], bytes]
    with_bytes: Callable[[str, Answer, int, AsBytes], tuple[bytes, int]]


def encoder(model: Answering) -> Encoder:
    """The forms of the answers to one version's requests, whichever version answers."""
    own, own_head = model.by, _head_of(model.by)
    last, last_head = own, own_head
    fields = (*model.signature.outputs, *model.extras.fields)
    parts = {
        field.name: (
            b'{"name":%b,"datatype":"%b","shape":['
            % (_encode(field.name), field.dtype.value.encode()),
            _shape_end(field.shape),
        )
        for field in fields
    }
    dtypes = {field.name: field.dtype for field in fields}
    varying = frozenset(field.name for field in model.signature.outputs if -1 in field.shape)

    @functools.cache
    def template(names: tuple[str, ...]) -> bytes:
        tensors = (
            b"%b%%d%b%%b}" % tuple(part.replace(b"%", b"%%") for part in parts[name])
            for name in names
        )
        return b'%%b%%b,"outputs":[%b]}' % b",".join(tensors)

    def encode(call_id: str, answer: Answer, rows: int) -> bytes:
        nonlocal last, last_head
        outputs, by = answer.outputs, answer.by
        if by is not last:  # the arms of an endpoint differ in their shares
            last, last_head = by, _head_of(by)
        if varying and not varying.isdisjoint(outputs):
            return encode_varying(last_head, call_id, outputs, rows)
        values: list[Any] = [last_head, _encode(call_id)]
        for array in outputs.values():
            values += (rows, _encode(array.ravel().tolist()))
        return template(tuple(outputs)) % tuple(values)

    def encode_varying(head: bytes, call_id: str, outputs: Columns, rows: int) -> bytes:
        tensors = []
        for name, array in outputs.items():
            before, after = parts[name]
            if name in varying:
                after = _shape_end(array.shape[1:])
            data = _encode(array.ravel().tolist())
            tensors.append(b"%b%d%b%b}" % (before, rows, after, data))
        return b'%b%b,"outputs":[%b]}' % (head, _encode(call_id), b",".join(tensors))

    def encode_with_bytes(
        call_id: str, answer: Answer, rows: int, as_bytes: AsBytes
    ) -> tuple[bytes, int]:
        outputs, by = answer.outputs, answer.by
        head = own_head if by is own else _head_of(by)
        tensors = []
        tail = []
        for name, array in outputs.items():
            before, _ = parts[name]
            row_shape = array.shape[1:]
            data = raw_of(array, dtypes[name]) if as_bytes.wants(name) else None
            if data is None:
                values = _encode(array.ravel().tolist())
                tensors.append(b"%b%d%b%b}" % (before, rows, _shape_end(row_shape), values))
            else:
                tail.append(data)
                end = _bytes_end(row_shape)
                tensors.append(b"%b%d%b%d}}" % (before, rows, end, len(data)))
        said = b'%b%b,"outputs":[%b]}' % (head, _encode(call_id), b",".join(tensors))
        return b"".join((said, *tail)), len(said)

    return Encoder(encode, encode_with_bytes)


def _head_of(by: AnsweredBy) -> bytes:
    """The beginning of every answer by a version, up to the id."""
    return _head(by.endpoint or by.model, by.version, by.program)


@functools.lru_cache(1_024)
def _head(name: str, version: str, program: str) -> bytes:
    return b'{"model_name":%b,"model_version":%b,"parameters":{"program":%b},"id":' % (
        _encode(name),
        _encode(version),
        _encode(program),
    )
