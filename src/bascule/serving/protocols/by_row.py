"""What the protocols have in common that speak of rows: of a body to a call, of an outcome to rows.

Their answers are values row by row. Where there is one output they are its values; where there
are more, each row is an object of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec

from bascule.core import BasculeError, Columns, Invalid, ModelFailed
from bascule.serving.calls import AnsweredBy, Call, Outcome
from bascule.serving.codecs import JsonParser, Table, TableReader
from bascule.serving.execution import Predictor
from bascule.serving.protocols.data_plane import DataPlane
from bascule.serving.protocols.describing import answered_by
from bascule.serving.protocols.openapi import (
    answers_schema,
    example_rows,
    object_schema,
    rows_schema,
)
from bascule.serving.transports import ROWS_FROM_BYTES, About, Exchange, Handler, Route

encode = msgspec.json.encode


class OneModel:
    """A `ProtocolAdapter` of a platform that knows one model: it has no paths below its own."""

    def model_routes(self, plane: DataPlane, model: Predictor) -> Iterator[Route]:  # noqa: ARG002
        """None: the platform knows one model."""
        yield from ()

    def not_found(self, plane: DataPlane, path: bytes) -> BasculeError | None:  # noqa: ARG002
        """Nothing is below its paths."""
        return None


class Form(NamedTuple):
    """How outputs are written into a body."""

    encode: Callable[[Columns], bytes]
    content_type: bytes = b"application/json"


Read = Callable[[Exchange, bytes, JsonParser], tuple[Call, Form]]
"""From a request, its body and what parses it to what it asks and how it is answered; raises
`Invalid`."""


def handler(model: Predictor, read: Read, parser: JsonParser) -> Handler:
    """Read a request, run it, answer it."""
    deadline_s = model.limits.deadline_s

    def handle(exchange: Exchange) -> None:
        allowed_s = exchange.allowed_s(deadline_s)
        model.check_room(allowed_s)
        body = exchange.body_within(ROWS_FROM_BYTES)
        if body is not None:
            run(exchange, read(exchange, body, parser), allowed_s)
        else:
            exchange.read_aside(
                partial(read_aside, exchange),
                partial(run, exchange),
                allowed_s,
            )

    def read_aside(exchange: Exchange) -> tuple[Call, Form]:
        return read(exchange, exchange.take_body(), parser.aside)

    def run(exchange: Exchange, made: tuple[Call, Form], allowed_s: float) -> None:
        call, form = made
        exchange.identify()
        exchange.need_request_id()
        deliver = partial(_tell, exchange, call.rows, form, model.by)
        exchange.ask(model, call, allowed_s, deliver)

    return handle


def _tell(exchange: Exchange, rows: int, form: Form, asked: AnsweredBy, outcome: Outcome) -> None:
    if isinstance(outcome, BasculeError):
        exchange.fail(outcome)
        return
    exchange.reply = outcome
    try:
        body = form.encode(outcome.outputs)
    except ModelFailed as problem:
        exchange.fail(problem)
        return
    exchange.rows = rows
    # These bodies have no place for an id, so the head of the answer always has it.
    extra = b"Bascule-Id: %b\r\n" % exchange.prediction_id.encode()
    extra += answered_by(outcome.by, asked)
    exchange.answer(body, content_type=form.content_type, extra=extra)


def table_reader(model: Predictor) -> TableReader:
    """The reader of rows for one version."""
    return TableReader(model.signature, model.program.inputs, model.limits.max_rows)


def media_type(exchange: Exchange, header: bytes = b"content-type") -> bytes:
    """The media type that a header names, in lower case and without parameters."""
    return exchange.head.headers.get(header, b"").partition(b";")[0].strip().lower()


def has_header(exchange: Exchange) -> bool | None:
    """What the content type of CSV says of a header (RFC 4180); None where it says nothing."""
    parameters = exchange.head.headers.get(b"content-type", b"").lower().split(b";")[1:]
    said = {parameter.strip().replace(b'"', b"") for parameter in parameters}
    if b"header=present" in said:
        return True
    return False if b"header=absent" in said else None


def an_object(value: Any, example: str) -> dict[str, Any]:
    """The body as an object, or `Invalid`."""
    if type(value) is not dict:
        raise Invalid("the body is not a JSON object", hint=f"send {example}")
    return value


def the_one_of(given: dict[str, Any], forms: Sequence[str], others: Sequence[str]) -> str:
    """Which one of `forms` a body is in; a key that is neither that nor in `others` is refused."""
    found = [name for name in given if name in forms]
    for name in given:
        if name not in forms and name not in others:
            raise Invalid(f"{name[:64]}: there is no such part of a request", hint=_of(forms))
    if len(found) != 1:
        said = " and ".join(found) or "none of its forms"
        raise Invalid(f"the body has {said}, where one is expected", hint=_of(forms))
    return found[0]


def _of(forms: Sequence[str]) -> str:
    return f"send one of {', '.join(forms)}"


def call_for_all(model: Predictor, table: Table) -> Call:
    """A call for every output, with the extras that are added by default."""
    return Call(*table, None, model.extras.by_default)


def call_for(model: Predictor, table: Table, parameters: Any, place: str, protocol: str) -> Call:
    """A call for what `parameters` ask; for the answer proper where they ask for nothing.

    Args:
        model: Who answers.
        table: The rows.
        parameters: None, or an object with `outputs` (names) and the parameters of extras.
        place: What the parameters are called.
        protocol: Its name.
    """
    if parameters is None:
        parameters = {}
    if type(parameters) is not dict:
        raise Invalid(f"{place}: not an object", hint='send for example {"confidence": 0.9}')
    requests = model.extras.read(parameters, protocol)
    listed = parameters.get("outputs")
    if listed is None:
        outputs: tuple[str, ...] = (model.signature.outputs[0].name,)
        return Call(*table, outputs, tuple(one._replace(always=True) for one in requests))
    known = {field.name for field in model.signature.outputs} | model.extras.names
    if type(listed) is not list or not listed:
        raise Invalid(f"{place}.outputs: not a list of names", hint=f"it has {_names(known)}")
    for index, name in enumerate(listed):
        if type(name) is not str or name not in known:
            raise Invalid(
                f"{place}.outputs[{index}]: the model has no such output",
                hint=f"it has {_names(known)}",
            )
    outputs = tuple(dict.fromkeys(listed))
    model.extras.check(outputs, requests)
    return Call(*table, outputs, requests)


def _names(known: set[str]) -> str:
    return ", ".join(sorted(known))


def by_row(outputs: Columns) -> list[Any]:
    """The values of the only output, or one object a row."""
    if len(outputs) == 1:
        (array,) = outputs.values()
        values: list[Any] = array.tolist()
        return values
    names = tuple(outputs)
    columns = [array.tolist() for array in outputs.values()]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def by_column(outputs: Columns) -> Any:
    """The values of the only output, or an object of lists."""
    if len(outputs) == 1:
        (array,) = outputs.values()
        return array.tolist()
    return {name: array.tolist() for name, array in outputs.items()}


def about(
    model: Predictor,
    key: str,
    answer_key: str = "predictions",
    *,
    other_types: tuple[str, ...] = (),
    parameters: tuple[str, str] = ("", ""),
    more: dict[str, Any] | None = None,
) -> Callable[[], About]:
    """What a route says of itself that takes rows under a key and answers them row by row.

    `parameters`: what a body calls them, and the protocol; empty where it has no place for them,
    and the answer has every output. `more`: the schemas of other keys of a body.
    """
    place, protocol = parameters

    def tell() -> About:
        extras = model.extras.fields if place or model.extras.by_default else ()
        outputs = (*model.signature.outputs, *extras)
        answer = answers_schema(outputs, may_choose=bool(place))
        if answer_key:
            answer = object_schema({answer_key: answer})
        names = [field.name for field in model.signature.outputs]
        listed = {"type": ["array", "null"], "items": {"enum": names}, "minItems": 1}
        asked = {"outputs": listed, **model.extras.schema(protocol)}
        own = {place: {"type": ["object", "null"], "properties": asked}} if place else {}
        rows = rows_schema(model.signature, model.program.inputs)
        return About(
            answer=answer,
            takes=object_schema({key: rows}, own | (more or {}), is_closed=True),
            example={key: example_rows(model.signature, model.example)},
            other_types=other_types,
        )

    return tell


PREDICTIONS = Form(lambda outputs: encode({"predictions": by_row(outputs)}))
"""`{"predictions": [...]}`."""
