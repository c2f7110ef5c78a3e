"""OpenAI's API: chat and text completions, embeddings and the list of models.

The paths are those of OpenAI, and the same below `/openai`, where KServe has them. The body names
the model, so a route asks for the right to predict at all, and `Exchange.choose` for that to
predict with the model, before anything else is said of it.

A model **generates** if it takes a request as text and gives texts and chunks (`generates`). It is
always asked in parts, also for a whole answer: so a client that goes away ends it in any case. A
model **embeds** if it takes one text and gives a vector of floats (`embedding_of`).
"""

from __future__ import annotations

import base64
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import msgspec
import numpy as np

from bascule.core import (
    BasculeError,
    Columns,
    DType,
    Field,
    Invalid,
    ModelFailed,
    NotFound,
)
from bascule.serving.calls import Answer, AnsweredBy, Call, Outcome
from bascule.serving.codecs import JsonParser
from bascule.serving.execution import Predictor
from bascule.serving.protocols import by_row
from bascule.serving.protocols.data_plane import DataPlane
from bascule.serving.protocols.describing import answered_by, fixed, missing
from bascule.serving.protocols.openapi import object_schema
from bascule.serving.transports import (
    ROWS_FROM_BYTES,
    About,
    Exchange,
    Handler,
    PartForm,
    Route,
    error_body,
)

NAME = "openai"
_PREFIXES = (b"/v1", b"/openai/v1")
_EVENTS_TYPE = b"text/event-stream"
_JSON_TYPE = b"application/json"
_MAX_ANSWER_BYTES = 16 << 20
"""The longest answer that is collected."""

_OF_BOTH = frozenset(
    (
        "max_tokens", "temperature", "top_p", "stop", "seed", "logprobs", "frequency_penalty",
        "presence_penalty", "logit_bias",
    )
)  # fmt: skip
_OF_CHAT = _OF_BOTH | {
    "messages", "max_completion_tokens", "tools", "tool_choice", "response_format", "top_logprobs",
}  # fmt: skip
_OF_TEXT = _OF_BOTH | {"prompt"}
"""The fields that a model gets."""
_OWN = {"model", "stream", "stream_options", "parallel_tool_calls"}
_WITHOUT_EFFECT = {
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "prediction",
}  # fmt: skip
"""Fields that are ignored: without them the answer is the same."""
_ONLY: dict[str, Any] = {"n": 1, "best_of": 1, "echo": False, "suffix": "", "modalities": ["text"]}
"""Fields that may have one value, for which nothing is to be done."""


def generates(model: Predictor) -> bool:
    """Whether a model takes the text of a request, and gives texts and chunks."""
    inputs, outputs = model.signature.inputs, {field.name for field in model.signature.outputs}
    return (
        len(inputs) == 1 and _is_text(inputs[0]) and inputs[0].name == "request"
        and {"text", "chunk"} <= outputs
    )  # fmt: skip


def embedding_of(model: Predictor) -> Field | None:
    """The output that is a vector of floats, of a model that takes one text; None of others."""
    inputs = model.signature.inputs
    if len(inputs) != 1 or not _is_text(inputs[0]):
        return None
    vectors = (f for f in model.signature.outputs if f.dtype.is_float and len(f.shape) == 1)
    return next(vectors, None)


def _is_text(field: Field) -> bool:
    return field.dtype is DType.BYTES and not field.shape


def model_card(name: str) -> dict[str, Any]:
    """A model as OpenAI describes it. It has no time at which it was made."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "bascule"}


def models_list(plane: DataPlane) -> dict[str, Any]:
    """The models that answer requests of OpenAI's clients, by their plain names."""
    able = (name for name, one in plane.defaults.items() if generates(one) or embedding_of(one))
    return {"object": "list", "data": [model_card(name) for name in able]}


class _Kind(NamedTuple):
    """One thing that can be asked.

    Attributes:
        path: Behind the prefix.
        does: What a model that is asked does, in words.
        fits: Whether it does.
        ask: Asks a model that does, with the body and the time that is left.
        about: What the route says of itself.
    """

    path: bytes
    does: str
    fits: Callable[[Predictor], object]
    ask: Callable[[Exchange, Predictor, dict[str, Any], float], None]
    about: Callable[[Predictor], About]


class OpenAi:
    """See `data_plane.ProtocolAdapter`."""

    name = NAME

    def __init__(self, *, describes_models: bool = True) -> None:
        """`describes_models`: no other protocol has `/v1/models`, and describes them for both."""
        self._describes_models = describes_models
        self._parser = JsonParser('{"model": "NAME", "messages": [...]}')

    def server_routes(self, plane: DataPlane) -> Iterator[Route]:
        """The list of models, and what any of them can be asked."""
        for prefix in self._describing():
            yield Route(b"GET", prefix + b"/models", fixed(models_list(plane)), "read")
        served = [model for versions in plane.models.values() for model in versions.values()]
        for kind in _KINDS:
            able = next(filter(kind.fits, served), None)
            if able is not None:
                handle, about = self._handler(plane, kind, able), partial(kind.about, able)
                for prefix in _PREFIXES:
                    yield Route(b"POST", prefix + kind.path, handle, "infer", about=about)

    def model_routes(self, plane: DataPlane, model: Predictor) -> Iterator[Route]:
        """A default version by its name."""
        if plane.is_default(model):
            for prefix in self._describing():
                path = prefix + b"/models/" + model.name.encode()
                yield Route(b"GET", path, fixed(model_card(model.name)), "read", model.name)

    def not_found(self, plane: DataPlane, path: bytes) -> BasculeError | None:
        """Which model is not there, or that no model does what is asked."""
        parts = path.decode("utf-8", "replace").removeprefix("/openai").strip("/").split("/")
        if parts[:2] == ["v1", "models"] and len(parts) == 3:
            return missing(plane, parts[2])
        for kind in _KINDS:
            if path in [prefix + kind.path for prefix in _PREFIXES]:
                return NotFound(f"no model here {kind.does}", hint="serve one that does")
        if path.startswith(b"/openai/"):
            paths = ", ".join(f"/v1{kind.path.decode()}" for kind in _KINDS)
            return NotFound("there is no such path of OpenAI here", hint=f"there are {paths}")
        return None

    def _describing(self) -> tuple[bytes, ...]:
        return _PREFIXES if self._describes_models else _PREFIXES[1:]

    def _handler(self, plane: DataPlane, kind: _Kind, able: Predictor) -> Handler:
        deadline_s = able.limits.deadline_s  # that of all models

        def read(body: bytes, parser: JsonParser) -> dict[str, Any]:
            return by_row.an_object(parser.plain(body), '{"model": "NAME", ...}')

        def run(exchange: Exchange, given: dict[str, Any], allowed_s: float) -> None:
            model = _named(plane, given.get("model"))
            exchange.choose(model, allowed_s)
            if not kind.fits(model):
                raise _wrong("model", f"{model.name} is not a model that {kind.does}")
            exchange.identify()
            exchange.need_request_id()
            kind.ask(exchange, model, given, allowed_s)

        def handle(exchange: Exchange) -> None:
            exchange.protocol = NAME
            allowed_s = exchange.allowed_s(deadline_s)
            body = exchange.body_within(ROWS_FROM_BYTES)
            if body is not None:
                run(exchange, read(body, self._parser), allowed_s)
            else:
                exchange.read_aside(
                    lambda: read(exchange.take_body(), self._parser.aside),
                    partial(run, exchange),
                    allowed_s,
                )

        return handle


def _named(plane: DataPlane, name: Any) -> Predictor:
    if type(name) is not str or not name:
        raise _wrong("model", "not the name of a model", "GET /v1/models lists the models")
    try:
        return plane.named(name)
    except NotFound as error:
        error.facts["field"] = "model"
        raise


def _wrong(field: str, problem: str, hint: str = "see docs/reference/openai.md") -> Invalid:
    return Invalid(f"{field}: {problem}", hint=hint, field=field)


# -- text --


def _request(given: dict[str, Any], taken: Iterable[str]) -> dict[str, Any]:
    """The fields that a model gets; raises `Invalid` for those that cannot be obeyed."""
    request = {}
    for field, value in given.items():
        if field in taken:
            if value is not None:
                request[field] = value
        elif field in _ONLY:
            if value not in (None, _ONLY[field]):
                only = msgspec.json.encode(_ONLY[field]).decode()
                raise _wrong(field, f"only {only} is supported", "leave it out")
        elif value is not None and field not in _OWN and field not in _WITHOUT_EFFECT:
            raise _wrong(field[:64], "there is no such field here, or it is not supported")
    return request


def _ask_chat(
    exchange: Exchange, model: Predictor, given: dict[str, Any], allowed_s: float
) -> None:
    request = _request(given, _OF_CHAT)
    messages = request.get("messages")
    if type(messages) is not list or not messages or {*map(type, messages)} != {dict}:
        raise _wrong("messages", "not a list of messages", 'send [{"role": "user", ...}]')
    _Chat(exchange, model, given).ask(request, allowed_s)


def _ask_text(
    exchange: Exchange, model: Predictor, given: dict[str, Any], allowed_s: float
) -> None:
    request = _request(given, _OF_TEXT)
    prompt = request.get("prompt")
    if type(prompt) is list and len(prompt) == 1:
        (prompt,) = prompt
    if type(prompt) is not str:
        raise _wrong("prompt", "not one text", "send texts one by one, and no tokens")
    request["prompt"] = prompt
    count = request.pop("logprobs", None)
    if count is not None:
        request |= {"logprobs": True, "top_logprobs": count}
    _Text(exchange, model, given).ask(request, allowed_s)


class _Completion(ABC):
    """One completion on its way to the client: chunk by chunk, or collected."""

    whole_object, part_object = "", ""

    def __init__(self, exchange: Exchange, model: Predictor, given: dict[str, Any]) -> None:
        self._exchange = exchange
        self._model = model
        self._streams = _flag(given, "stream", "stream")
        options = given.get("stream_options") or {}
        if type(options) is not dict or (options and not self._streams):
            raise _wrong("stream_options", "not an object beside stream: true")
        self._tells_usage = _flag(options, "include_usage", "stream_options.include_usage")
        parallel = _flag(given, "parallel_tool_calls", "parallel_tool_calls", usual=True)
        self._max_calls = None if parallel else 1
        self._common = {
            "id": exchange.prediction_id,
            "object": self.part_object if self._streams else self.whole_object,
            "created": int(time.time()),
            "model": given["model"],
        }
        self._usage: dict[str, Any] | None = None
        self._finish: str | None = None
        self._texts: list[str] = []
        self._logprobs: list[dict[str, Any]] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._size_bytes = 0

    def ask(self, request: dict[str, Any], allowed_s: float) -> None:
        """Have the model answer; see `Exchange.ask_in_parts`."""
        text = msgspec.json.encode(request).decode()
        table = by_row.table_reader(self._model).rows([text], "request")
        self._exchange.rows = 1
        part = self._streamed if self._streams else self._collected
        form = PartForm(self._head, part, self._end)
        self._exchange.ask_in_parts(
            self._model, Call(*table), allowed_s, form, is_whole=not self._streams
        )

    def _head(self, by: AnsweredBy) -> tuple[bytes, bytes]:
        lines = _lines(self._exchange, by, self._model)
        return _EVENTS_TYPE if self._streams else _JSON_TYPE, lines

    def _chunk(self, answer: Answer) -> dict[str, Any]:
        """What a part of the model says; keeps how it ended and what it used."""
        try:
            chunk = msgspec.json.decode(answer.outputs["chunk"][0])
            if self._max_calls is not None and chunk.get("tool_calls"):
                chunk["tool_calls"] = [
                    call for call in chunk["tool_calls"] if call.get("index", 0) < self._max_calls
                ]
            self._finish = chunk.get("finish") or self._finish
            self._usage = chunk.get("usage") or self._usage
        except (LookupError, TypeError, AttributeError, msgspec.MsgspecError) as problem:
            raise ModelFailed("a part is no chunk of text", reason=repr(problem)) from None
        self._common["system_fingerprint"] = answer.by.name
        said: dict[str, Any] = chunk
        return said

    def _streamed(self, answer: Answer) -> bytes:
        data = b"".join(map(self._event, self._choices(self._chunk(answer))))
        return data or b":\n\n"  # a comment: the client sees that the model is at work

    @abstractmethod
    def _choices(self, chunk: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The choices of the events of a chunk, one each."""

    def _event(self, choice: dict[str, Any] | None) -> bytes:
        body = self._common | {"choices": [] if choice is None else [choice]}
        if self._tells_usage:
            body["usage"] = None if choice is not None else _usage(self._usage)
        return b"data: %b\n\n" % msgspec.json.encode(body)

    def _collected(self, answer: Answer) -> bytes:
        chunk = self._chunk(answer)
        text = chunk.get("text") or ""
        self._texts.append(text)
        self._logprobs += chunk.get("logprobs") or ()
        for delta in chunk.get("tool_calls") or ():
            _add(self._calls, delta)
        self._size_bytes += len(answer.outputs["chunk"][0])
        if self._size_bytes > _MAX_ANSWER_BYTES:
            raise ModelFailed("the answer is longer than 16 MiB", reason="")
        return b""

    def _end(self, parts: int, error: BasculeError | None) -> bytes:  # noqa: ARG002
        if not self._streams:
            body = self._common | {"choices": [self._choice()], "usage": _usage(self._usage)}
            return b"" if error is not None else msgspec.json.encode(body)
        if error is not None:
            return b"data: %b\n\n" % msgspec.json.encode(error_body(error, NAME))
        last = self._event(None) if self._tells_usage else b""
        return last + b"data: [DONE]\n\n"

    @abstractmethod
    def _choice(self) -> dict[str, Any]:
        """The whole choice, of what was collected."""


class _Chat(_Completion):
    """A completion of a chat."""

    whole_object, part_object = "chat.completion", "chat.completion.chunk"

    _has_begun = False

    def _choices(self, chunk: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if not self._has_begun:
            self._has_begun = True
            yield self._delta({"role": "assistant", "content": ""})
        delta = {"content": chunk["text"]} if chunk.get("text") else {}
        if chunk.get("tool_calls"):
            delta["tool_calls"] = chunk["tool_calls"]
        if delta or chunk.get("logprobs"):
            yield self._delta(delta, logprobs=_logprobs(chunk.get("logprobs")))
        if chunk.get("finish"):
            yield self._delta({}, finish=chunk["finish"])

    def _delta(
        self, delta: dict[str, Any], logprobs: Any = None, finish: str | None = None
    ) -> dict[str, Any]:
        return {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}

    def _choice(self) -> dict[str, Any]:
        text = "".join(self._texts)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if self._calls:
            message |= {"content": text or None, "tool_calls": [*self._calls.values()]}
        return {
            "index": 0, "message": message, "logprobs": _logprobs(self._logprobs),
            "finish_reason": self._finish or "stop",
        }  # fmt: skip


class _Text(_Completion):
    """A completion of a text."""

    whole_object = part_object = "text_completion"

    def _choices(self, chunk: dict[str, Any]) -> Iterator[dict[str, Any]]:
        text, finish = chunk.get("text") or "", chunk.get("finish")
        if text or finish:
            yield {
                "index": 0, "text": text, "finish_reason": finish,
                "logprobs": _logprobs_of_text(chunk.get("logprobs")),
            }  # fmt: skip

    def _choice(self) -> dict[str, Any]:
        return {
            "index": 0, "text": "".join(self._texts), "finish_reason": self._finish or "stop",
            "logprobs": _logprobs_of_text(self._logprobs),
        }  # fmt: skip


def _flag(given: dict[str, Any], field: str, place: str, *, usual: bool = False) -> bool:
    value = given.get(field)
    if value is not None and type(value) is not bool:
        raise _wrong(place, "neither true nor false")
    return usual if value is None else value


def _lines(exchange: Exchange, by: AnsweredBy, model: Predictor) -> bytes:
    """The lines of the head of an answer."""
    own = b"Bascule-Id: %b\r\n" % exchange.prediction_id.encode()
    return own + answered_by(by, model.by)


def _add(calls: dict[int, dict[str, Any]], delta: dict[str, Any]) -> None:
    """Add a delta of a call to those that were collected."""
    call = calls.setdefault(
        delta.get("index", 0),
        {"id": "", "type": "function", "function": {"name": "", "arguments": ""}},
    )
    call["id"] += delta.get("id") or ""
    for part, text in (delta.get("function") or {}).items():
        call["function"][part] = call["function"].get(part, "") + (text or "")


def _usage(said: dict[str, Any] | None) -> dict[str, Any]:
    said = said or {}
    prompt, completion = said.get("prompt_tokens", 0), said.get("completion_tokens", 0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": said.get("cached_tokens", 0)},
    }


def _logprobs(tokens: list[dict[str, Any]] | None) -> dict[str, Any] | None:
    return {"content": tokens, "refusal": None} if tokens else None


def _logprobs_of_text(tokens: list[dict[str, Any]] | None) -> dict[str, Any] | None:
    if not tokens:
        return None
    return {
        "tokens": [one["token"] for one in tokens],
        "token_logprobs": [one["logprob"] for one in tokens],
        "top_logprobs": [
            {other["token"]: other["logprob"] for other in one.get("top_logprobs") or ()}
            for one in tokens
        ],
    }


# -- embeddings --


def _ask_embeddings(
    exchange: Exchange, model: Predictor, given: dict[str, Any], allowed_s: float
) -> None:
    field = embedding_of(model)
    assert field is not None
    for name, value in given.items():
        if name not in ("model", "input", "encoding_format", "dimensions", "user") and value:
            raise _wrong(name[:64], "there is no such field here")
    texts, coding = given.get("input"), given.get("encoding_format") or "float"
    if type(texts) is str:
        texts = [texts]
    if type(texts) is not list or not texts or {*map(type, texts)} != {str}:
        raise _wrong("input", "not a text or a list of texts", "send texts, and no tokens")
    if coding not in ("float", "base64"):
        raise _wrong("encoding_format", "neither float nor base64")
    if given.get("dimensions") not in (None, *field.shape):
        raise _wrong("dimensions", f"the vectors of {model.name} have {field.shape[0]}")
    table = by_row.table_reader(model).rows(texts, "input")
    outputs = tuple(one.name for one in model.signature.outputs if one in (field, _tokens(model)))

    def tell(outcome: Outcome) -> None:
        if isinstance(outcome, BasculeError):
            exchange.fail(outcome)
            return
        exchange.reply, exchange.rows = outcome, len(texts)
        body = _embeddings(outcome.outputs, field.name, given["model"], coding)
        exchange.answer(body, extra=_lines(exchange, outcome.by, model))

    exchange.ask(model, Call(*table, outputs), allowed_s, tell)


def _tokens(model: Predictor) -> Field | None:
    """The output that counts the tokens of each text, where a model has one."""
    return next(
        (one for one in model.signature.outputs if one.name == "tokens" and one.dtype.is_integer),
        None,
    )


def _embeddings(outputs: Columns, name: str, model: str, coding: str) -> bytes:
    vectors = outputs[name]
    data: Iterable[Any] = vectors.tolist()
    if coding == "base64":
        rows = np.ascontiguousarray(vectors, "<f4")
        data = (base64.b64encode(row.tobytes()).decode() for row in rows)
    tokens = int(outputs["tokens"].sum()) if "tokens" in outputs and name != "tokens" else 0
    return msgspec.json.encode(
        {
            "object": "list",
            "model": model,
            "data": [
                {"object": "embedding", "index": index, "embedding": one}
                for index, one in enumerate(data)
            ],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


# -- what the routes say of themselves --

_TEXT = {"type": "string"}
_USAGE = {"type": ["object", "null"]}


def _about(
    field: str, example: Any, schema: dict[str, Any], fields: Iterable[str], model: Predictor
) -> About:
    others: dict[str, Any] = {
        name: {} for name in sorted({*fields, *_OWN, *_WITHOUT_EFFECT, *_ONLY} - {field, "model"})
    }
    listed = {"type": "array", "items": {"type": "object"}}
    whole = {"object": _TEXT, "model": _TEXT, "usage": _USAGE}
    return About(
        answer=object_schema(whole, {"id": _TEXT, "choices": listed, "data": listed}),
        takes=object_schema({"model": _TEXT, field: schema}, others),
        example={"model": model.name, field: example},
        answer_types=() if field == "input" else (_EVENTS_TYPE.decode(),),
    )


_KINDS = (
    _Kind(
        b"/chat/completions", "generates text", generates, _ask_chat,
        partial(
            _about, "messages", [{"role": "user", "content": "Hello"}],
            {"type": "array", "minItems": 1, "items": {"type": "object"}}, _OF_CHAT,
        ),
    ),
    _Kind(
        b"/completions", "generates text", generates, _ask_text,
        partial(_about, "prompt", "Hello", _TEXT, _OF_TEXT),
    ),
    _Kind(
        b"/embeddings", "embeds texts", embedding_of, _ask_embeddings,
        partial(
            _about, "input", ["Hello"],
            {"anyOf": [_TEXT, {"type": "array", "minItems": 1, "items": _TEXT}]},
            ("encoding_format", "dimensions"),
        ),
    ),
)  # fmt: skip
