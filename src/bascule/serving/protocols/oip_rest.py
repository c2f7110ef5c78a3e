"""The Open Inference Protocol v2 over REST, with JSON tensors.

Numbers are parsed straight into arrays (simdjson), in the type that the program reads; text and
whatever does not fit that road take a slower one that finds the exact place of the mistake.
Health answers always carry a body, and errors have one shape, because clients of this protocol
decode both without looking.

What is accepted: numbers of any datatype for a numeric field where the values fit; `null` for a
missing value where the training data had missing values; data flat or nested, row by row.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

import msgspec
import numpy as np
import simdjson
from numpy.typing import NDArray

from bascule.core.errors import BasculeError, Invalid, NotFound, TooLarge
from bascule.core.fields import Columns, DType, Field
from bascule.core.version import VERSION
from bascule.serving.confidence import Asked, Confidence
from bascule.serving.engine import Outcome
from bascule.serving.http import Exchange, Handler, Routes
from bascule.serving.models import ServedModel

_encode = msgspec.json.encode
_KEEP_PARSER_BYTES = 1 << 20
_NUMBER_PROBLEMS = ("NUMBER", "BIGINT")
_DATATYPES = frozenset(DType)
_MISSING = object()
_from_buffer = np.frombuffer
_dot = np.vdot  # the one product of numpy that does not warn when it overflows
_FLOAT64 = np.dtype(np.float64)
_INT64 = np.dtype(np.int64)


class OipRest:
    """The routes of the protocol over the models of one worker."""

    def __init__(self, is_ready: Callable[[], bool]) -> None:
        self._is_ready = is_ready
        self._decoder = Decoder()
        self._models: dict[str, dict[str, ServedModel]] = {}
        # Unique across workers and restarts without a system call per request.
        self._id_prefix = os.urandom(8).hex()
        self._ids = itertools.count(1)

    def routes(self, models: Sequence[ServedModel]) -> Routes:
        """Handlers for the server and for each model; the first version listed is the default."""
        made: Routes = {}
        _get(made, b"/v2", self._server_metadata)
        _get(made, b"/v2/health/live", self._live)
        _get(made, b"/v2/health/ready", self._ready)
        for model in models:
            self._models.setdefault(model.name, {})[model.version] = model
        for model in models:
            paths = [f"/v2/models/{model.name}/versions/{model.version}".encode()]
            if model is next(iter(self._models[model.name].values())):
                paths.append(f"/v2/models/{model.name}".encode())
            for path in paths:
                _get(made, path, self._metadata(model))
                _get(made, path + b"/ready", self._model_ready(model))
                made[path + b"/infer"] = {b"POST": self._infer(model)}
        return made

    def not_found(self, path: bytes) -> BasculeError:
        """Say which part of a path names nothing."""
        parts = path.decode("utf-8", "replace").strip("/").split("/")
        if parts[:2] == ["v2", "models"] and len(parts) >= 3:
            if parts[2] not in self._models:
                served = ", ".join(sorted(self._models))
                return NotFound(f"no model {parts[2][:128]!r} here", hint=f"served are: {served}")
            versions = self._models[parts[2]]
            if len(parts) >= 5 and parts[3] == "versions" and parts[4] not in versions:
                return NotFound(
                    f"no version {parts[4][:128]!r} of {parts[2]!r} here",
                    hint=f"served are: {', '.join(versions)}",
                )
        return NotFound("no such path", hint="GET /v2 describes the server")

    # -- health and metadata --

    def _server_metadata(self, exchange: Exchange) -> None:
        exchange.answer(_encode({"name": "bascule", "version": VERSION, "extensions": []}))

    def _live(self, exchange: Exchange) -> None:
        exchange.answer(_encode({"live": True, "ready": self._is_ready(), "name": "bascule"}))

    def _ready(self, exchange: Exchange) -> None:
        ready = self._is_ready()
        body = _encode({"live": True, "ready": ready, "name": "bascule"})
        exchange.answer(body, 200 if ready else 503)

    def _model_ready(self, model: ServedModel) -> Handler:
        def handle(exchange: Exchange) -> None:
            ready = self._is_ready()
            body = _encode({"live": True, "ready": ready, "name": model.name})
            exchange.answer(body, 200 if ready else 503)

        return handle

    def _metadata(self, model: ServedModel) -> Handler:
        body = _encode(
            {
                "name": model.name,
                "versions": list(self._models[model.name]),
                "platform": "bascule",
                "inputs": [_tensor_metadata(field) for field in model.signature.inputs],
                "outputs": [_tensor_metadata(field) for field in model.signature.outputs],
                "parameters": {
                    "digest": model.digest,
                    "program": model.program.name,
                    "batch_invariant": model.batch_invariant,
                    **model.confidence.parameters(),
                },
            }
        )

        def handle(exchange: Exchange) -> None:
            exchange.answer(body)

        return handle

    # -- inference --

    def _infer(self, model: ServedModel) -> Handler:
        decode = self._decoder.for_fields(
            model.signature.inputs, model.program.inputs, model.signature.outputs,
            model.limits.max_rows, model.confidence,
        )  # fmt: skip
        confidence = model.confidence
        encode = _encoder(model)
        deadline_s = model.limits.deadline_s
        inline_rows = model.inline_rows
        slot = model.slot

        def tell(exchange: Exchange, call_id: str, rows: int, outcome: Outcome) -> None:
            if isinstance(outcome, BasculeError):
                exchange.fail(outcome)
            else:
                exchange.rows = rows
                exchange.answer(encode(call_id, outcome, rows))

        def with_confidence(
            exchange: Exchange,
            call_id: str,
            columns: Columns,
            rows: int,
            outputs: tuple[str, ...] | None,
            asked: Asked,
            allowed_s: float,
        ) -> None:
            needed = confidence.needed(outputs, asked)

            def deliver(outcome: Outcome) -> None:
                tell(exchange, call_id, rows, confidence.added(outcome, outputs, asked))

            if rows <= inline_rows:
                deliver(model.run_inline(columns, needed))
            else:
                exchange.on_gone = model.submit(columns, rows, needed, allowed_s, deliver)

        def handle(exchange: Exchange) -> None:
            exchange.slot = slot
            headers = exchange.head.headers
            allowed_s = deadline_s
            if headers:
                if b"content-encoding" in headers:
                    _refuse_encoding(headers[b"content-encoding"])
                if b"x-request-timeout-ms" in headers:
                    allowed_s = _allowed_s(headers[b"x-request-timeout-ms"], deadline_s)
            call_id, columns, rows, outputs, asked = decode(exchange.body)
            exchange.body = b""
            if call_id is None:
                call_id = f"{self._id_prefix}-{next(self._ids):x}"
            if asked is not None:
                with_confidence(exchange, call_id, columns, rows, outputs, asked, allowed_s)
            elif rows <= inline_rows:
                tell(exchange, call_id, rows, model.run_inline(columns, outputs))
            else:
                deliver = partial(tell, exchange, call_id, rows)
                exchange.on_gone = model.submit(columns, rows, outputs, allowed_s, deliver)

        return handle


def _get(routes: Routes, path: bytes, handler: Handler) -> None:
    routes[path] = {b"GET": handler, b"HEAD": handler}


def _tensor_metadata(field: Field) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": field.name,
        "datatype": field.dtype.value,
        "shape": [-1, *field.shape],
    }
    parameters: dict[str, Any] = {}
    if field.nullable:
        parameters["nullable"] = True
    if field.categories is not None:
        parameters["categories"] = list(field.categories)
    if parameters:
        made["parameters"] = parameters
    return made


def _allowed_s(asked: bytes, deadline_s: float) -> float:
    """The shorter of the server's deadline and what the request asks for."""
    if not asked.isdigit() or len(asked) > 9 or int(asked) == 0:
        raise Invalid(
            "header X-Request-Timeout-Ms is not a whole number of milliseconds >= 1",
            hint="send for example X-Request-Timeout-Ms: 500",
        )
    return min(deadline_s, int(asked) / 1e3)


def _refuse_encoding(value: bytes) -> None:
    if value.lower() != b"identity":
        raise Invalid(
            f"Content-Encoding {value.decode('latin-1')!r} is not supported",
            hint="send the body as plain JSON",
        )


Decoded = tuple[str | None, Columns, int, tuple[str, ...] | None, Asked | None]
"""The id that the request brought, its columns, its rows, the outputs that it asks for, and the
confidence."""

_NO_CONFIDENCE = Confidence(None, ())


class Decoder:
    """Parses request bodies, reusing one parser: not for concurrent use."""

    def __init__(self) -> None:
        self._parser = simdjson.Parser()

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
            document = self._parse(body)
            try:
                return _decode(document, readers, output_names, max_rows, confidence)
            finally:
                # The parser refuses to parse again while anything of its last document lives.
                del document

        return decode

    def _parse(self, body: bytes) -> Any:
        parser = self._parser
        if len(body) > _KEEP_PARSER_BYTES:
            parser = simdjson.Parser()  # a large document must not keep its memory
        try:
            return parser.parse(body)
        except (ValueError, RuntimeError):
            # Not JSON; or something of the last document is still referenced, by a traceback for
            # example. A parser of its own tells the one from the other.
            self._parser = simdjson.Parser()
            return _parse_carefully(self._parser, body)


def _parse_carefully(parser: Any, body: bytes) -> Any:
    try:
        return parser.parse(body)
    except (ValueError, RuntimeError) as error:
        problem = str(error)
    if problem.startswith(_NUMBER_PROBLEMS) and len(body) <= _KEEP_PARSER_BYTES:
        # The quick parser has no whole numbers over 64 bits, and some languages write any large
        # number as one.
        try:
            value = json.loads(body, parse_int=_whole, parse_constant=_refuse_constant)
            return parser.parse(json.dumps(value, allow_nan=False).encode())
        except (ValueError, RuntimeError, OverflowError):
            pass
    raise Invalid(
        f"the body is not JSON that can be read: {problem}",
        hint="send null for a missing number; JSON has no NaN, and numbers end at 1.8e308",
    )


def _whole(digits: str) -> int | float:
    value = int(digits)
    return value if -(2**63) <= value < 2**64 else float(value)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


Place = tuple[int, str]
"""The index and the name of one `inputs[i]`; put into words only when something is wrong there."""

Reader = Callable[[Any, int, Place], tuple[NDArray[Any], int]]
"""From one `inputs[i]` of a request, the rows so far (0: not known), and its place, to the array
and its rows."""


def _at(place: Place) -> str:
    return f"inputs[{place[0]}] ({place[1]})"


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
        columns[name], rows = readers[name](tensor, rows, (index, name))
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
        return None, columns, rows, None, confidence.by_default
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
    return call_id, columns, rows, outputs, asked


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
    values = _values_reader(field, target)
    row_shape = field.shape
    lengths = list(row_shape)
    allowed = _datatypes_for(field.dtype)
    if -1 in row_shape:
        return _open_reader(field, target)

    def read(tensor: Any, rows: int, where: Place) -> tuple[NDArray[Any], int]:
        datatype = tensor.get("datatype", _MISSING)
        if datatype not in allowed:
            raise _wrong_datatype(where, datatype, field)
        shape = tensor.get("shape", _MISSING)
        if not isinstance(shape, simdjson.Array):
            raise Invalid(f"{_at(where)}.shape: missing, or not a list of whole numbers")
        sent = shape.as_list()
        if sent and sent[1:] == lengths and type(sent[0]) is int and sent[0] > 0:
            own_rows = sent[0]
        else:
            own_rows = _rows_of(sent, row_shape, where)
        if rows and own_rows != rows:
            raise Invalid(
                f"{_at(where)}.shape: {own_rows} rows, where the inputs before it have {rows}",
                hint="every input has one value per row",
            )
        data = tensor.get("data", _MISSING)
        if not isinstance(data, simdjson.Array):
            raise Invalid(f"{_at(where)}.data: missing, or not a list")
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

    def read(tensor: Any, rows: int, where: Place) -> tuple[NDArray[Any], int]:
        shape = tensor.get("shape", _MISSING)
        sent: list[Any] = shape.as_list() if isinstance(shape, simdjson.Array) else []
        if len(sent) != 1 + len(field.shape) or not all(
            type(length) is int and length > 0 and declared in (-1, length)
            for length, declared in zip(sent[1:], field.shape, strict=True)
        ):
            raise _wrong_shape(sent, expected, where)
        return _reader(replace(field, shape=tuple(sent[1:])), target)(tensor, rows, where)

    return read


def _datatypes_for(dtype: DType) -> frozenset[DType]:
    """The datatypes that a request may declare for a field.

    In JSON a number is a decimal text, whatever it is declared as; what counts is that its value
    fits the field, and that is checked on the values.
    """
    if dtype.is_float:
        return frozenset(d for d in DType if d.is_float or d.is_integer)
    if dtype.is_integer:
        return frozenset(d for d in DType if d.is_integer)
    return frozenset((dtype,))


def _wrong_datatype(where: Place, datatype: Any, field: Field) -> Invalid:
    if datatype not in _DATATYPES:
        found = "missing, or not a text"
        if isinstance(datatype, str):
            found = f"{datatype[:32]!r} is no data type"
        return Invalid(f"{_at(where)}.datatype: {found}", hint=f"send {field.dtype.value!r}")
    return Invalid(
        f"{_at(where)}.datatype: {datatype}, where the model takes {field.dtype.value}",
        hint=f"send {field.dtype.value}",
    )


def _rows_of(shape: list[Any], row_shape: tuple[int, ...], where: Place) -> int:
    tail = tuple(shape[1:])
    # A column may also be sent as a matrix of one column.
    if shape and (tail == row_shape or (not row_shape and tail == (1,))):
        rows = shape[0]
        if type(rows) is int and rows > 0:
            return rows
    expected = ", ".join(["rows", *map(str, row_shape)])
    raise _wrong_shape(shape, expected, where)


def _wrong_shape(shape: list[Any], expected: str, where: Place) -> Invalid:
    found = str(shape)[:64] if all(type(length) is int for length in shape) else "what was sent"
    return Invalid(
        f"{_at(where)}.shape: {found} is not [{expected}] with one row or more",
        hint="the first number is the count of rows",
    )


def _check_nesting(data: list[Any], rows: int, row_shape: tuple[int, ...], where: Place) -> None:
    """Nested data must have the declared shape: a ragged list of the right length is a mistake."""
    shape = (rows, *row_shape) if row_shape else (rows, 1)
    if not _has_shape(data, shape):
        raise Invalid(
            f"{_at(where)}.data: nested lists that are not of the declared shape",
            hint="send the values flat, or nested exactly as the shape says",
        )


def _has_shape(data: Any, shape: tuple[int, ...]) -> bool:
    if not shape:
        return not isinstance(data, list)
    if not isinstance(data, list) or len(data) != shape[0]:
        return False
    return all(_has_shape(item, shape[1:]) for item in data)


def _count_mismatch(found: int, expected: int, where: Place) -> Invalid:
    return Invalid(
        f"{_at(where)}.data: {found} values, where the shape makes {expected}",
        hint="shape and data must agree",
    )


def _values_reader(field: Field, target: DType) -> Callable[[Any, int, Place], NDArray[Any]]:
    """From a JSON list to a flat array of the program's type, each value checked."""
    if field.dtype.is_float:
        return _floats(field, target.numpy)
    if field.dtype.is_integer:
        return _integers(field, target.numpy)
    return _objects(field, target)


def _floats(field: Field, target: np.dtype[Any]) -> Callable[[Any, int, Place], NDArray[Any]]:
    narrow = target.itemsize < 8
    largest = float(np.finfo(target).max)
    # The sum of the squares is below the square of the largest only if every value is below it;
    # it is one quick call, where looking at every value is three.
    largest_squared = largest * largest if narrow else math.inf
    known = _known_numbers(field)

    def read(data: Any, count: int, where: Place) -> NDArray[Any]:
        try:
            array = _from_buffer(data.as_buffer(of_type="d"), _FLOAT64)
        except (TypeError, ValueError):
            array = _floats_one_by_one(_flat(data.as_list()), field, where)
        if len(array) != count:
            raise _count_mismatch(len(array), count, where)
        if known is not None:
            _check_known(array, known, field, where)
        if not narrow:
            return array
        if not _dot(array, array) <= largest_squared:  # true of NaN too, which is looked at there
            _check_largest(array, largest, field, where)
        return array.astype(target)

    return read


def _check_largest(array: NDArray[np.float64], largest: float, field: Field, where: Place) -> None:
    too_large = np.flatnonzero(np.abs(array) > largest)
    if len(too_large):
        place = int(too_large[0])
        raise Invalid(
            f"{_at(where)}.data[{place}]: {array[place]:g} does not fit {field.dtype.value}",
            hint=f"the largest is {largest:g}",
        )


def _floats_one_by_one(values: list[Any], field: Field, where: Place) -> NDArray[np.float64]:
    made = np.empty(len(values), np.float64)
    for place, value in enumerate(values):
        if value is None and field.nullable:
            made[place] = np.nan
        elif type(value) is float or type(value) is int:
            made[place] = value
        else:
            raise _wrong_value(value, place, field, where)
    return made


def _integers(field: Field, target: np.dtype[Any]) -> Callable[[Any, int, Place], NDArray[Any]]:
    info = np.iinfo(field.dtype.numpy)
    least, most = int(info.min), int(info.max)
    is_full = field.dtype is DType.INT64
    known = _known_numbers(field)

    def read(data: Any, count: int, where: Place) -> NDArray[Any]:
        try:
            array = _from_buffer(data.as_buffer(of_type="i"), _INT64)
        except (TypeError, ValueError):
            array = _integers_one_by_one(_flat(data.as_list()), field, where)
        if len(array) != count:
            raise _count_mismatch(len(array), count, where)
        if not is_full and count and (array.min() < least or array.max() > most):
            place = int(np.argmax((array < least) | (array > most)))
            raise _wrong_value(int(array[place]), place, field, where)
        if known is not None:
            _check_known(array, known, field, where)
        return array.astype(target, copy=False)

    return read


def _known_numbers(field: Field) -> NDArray[Any] | None:
    return None if field.categories is None else np.array(field.categories)


def _check_known(array: NDArray[Any], known: NDArray[Any], field: Field, where: Place) -> None:
    strange = np.flatnonzero(~(np.isin(array, known) | (array != array)))
    if len(strange):
        place = int(strange[0])
        raise _not_a_category(str(array[place].item()), place, field, where)


def _integers_one_by_one(values: list[Any], field: Field, where: Place) -> NDArray[Any]:
    # 3.0 is a whole number: languages that have one kind of number cannot write it otherwise.
    info = np.iinfo(field.dtype.numpy)
    made: list[int] = []
    for place, value in enumerate(values):
        whole = value
        # One below the least of INT64 rounds to it, so that number is not taken as a float.
        if type(value) is float and value.is_integer() and value != -(2.0**63):
            whole = int(value)
        if type(whole) is not int or not info.min <= whole <= info.max:
            raise _wrong_value(value, place, field, where)
        made.append(whole)
    return np.array(made, np.uint64 if field.dtype is DType.UINT64 else np.int64)


def _objects(field: Field, target: DType) -> Callable[[Any, int, Place], NDArray[Any]]:
    wanted = bool if field.dtype is DType.BOOL else str
    nullable = field.nullable and target is not DType.BOOL
    allowed = None if field.categories is None else frozenset(field.categories)

    def read(data: Any, count: int, where: Place) -> NDArray[Any]:
        values = data.as_list()
        if values and type(values[0]) is list:
            values = _flat(values)
        if len(values) != count:
            raise _count_mismatch(len(values), count, where)
        for place, value in enumerate(values):
            if type(value) is not wanted and not (value is None and nullable):
                raise _wrong_value(value, place, field, where)
            if allowed is not None and value is not None and value not in allowed:
                raise _not_a_category(str(value), place, field, where)
        array = np.empty(count, object)
        array[:] = values
        return array if target is DType.BYTES else array.astype(target.numpy)

    return read


def _flat(values: list[Any]) -> list[Any]:
    """The values of nested lists, in order. Without recursion: a body may nest very deeply."""
    made: list[Any] = []
    open_lists = [iter(values)]
    while open_lists:
        for value in open_lists[-1]:
            if type(value) is list:
                open_lists.append(iter(value))
                break
            made.append(value)
        else:
            open_lists.pop()
    return made


_JSON_WORDS: dict[type, str] = {str: "a text", dict: "an object", list: "a list"}


def _wrong_value(value: Any, place: int, field: Field, where: Place) -> Invalid:
    if value is None:
        return Invalid(
            f"{_at(where)}.data[{place}] is null, and the model does not take missing values there",
            hint="send a value",
        )
    takes = {DType.BYTES: "text", DType.BOOL: "true or false"}.get(field.dtype)
    if takes is None:
        takes = "numbers" if field.dtype.is_float else f"whole numbers of {field.dtype.value}"
    found = _JSON_WORDS.get(type(value)) or json.dumps(value)
    return Invalid(f"{_at(where)}.data[{place}]: {found}, where the model takes {takes}")


def _not_a_category(value: str, place: int, field: Field, where: Place) -> Invalid:
    known = [str(category) for category in field.categories or ()]
    shown = ", ".join(known[:10]) + (f" and {len(known) - 10} more" if len(known) > 10 else "")
    return Invalid(
        f"{_at(where)}.data[{place}]: {value[:64]!r} is not a category of the model",
        hint=f"it knows {shown}",
    )


# -- writing the answer --


def _shape_end(row_shape: tuple[int, ...]) -> bytes:
    return b"".join(b",%d" % length for length in row_shape) + b'],"data":'


def _encoder(model: ServedModel) -> Callable[[str, Columns, int], bytes]:
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
