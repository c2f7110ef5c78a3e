"""OpenAI's API: chat and text completions, embeddings and the list of models.

The paths are those of OpenAI, and the same below `/openai`, where KServe has them. The body names
the model, so a route asks for the right to predict at all, and `Exchange.choose` for that to
predict with the model, before anything else is said of it.

A model **generates** if it takes requests and gives texts and chunks (`generates_text`). It is
always asked in parts, also for a whole answer: so a client that goes away ends it in any case. A
model **embeds** if it takes one text and gives a vector of floats (`embedding_of`).
"""

from __future__ import annotations

import base64
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec
import numpy as np

from bascule.bundle.disk import generates_text
from bascule.bundle.generation import Chunk, Usage, chunk_of, joined
from bascule.core import BasculeError, Invalid, ModelFailed, NotFound
from bascule.serving.calls import Answer, AnsweredBy, Call, Outcome
from bascule.serving.codecs import JsonParser
from bascule.serving.execution import Predictor, embedding_of
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

_Body = dict[str, Any]
NAME = "openai"
_PREFIXES = (b"/v1", b"/openai/v1")
_EVENTS_TYPE = b"text/event-stream"
_MODELS = "GET /v1/models lists the models"
_TURN_S = 120.0
"""How long a text may take to begin, where the caller says nothing: others have their turn."""
_MAX_ANSWER_BYTES = 16 << 20
"""The longest answer that is collected."""

_OF_BOTH = frozenset(
    (
        "max_tokens", "temperature", "top_p", "stop", "seed", "logprobs", "frequency_penalty",
        "presence_penalty", "logit_bias", "store", "user", "safety_identifier",
    )
)  # fmt: skip
_OF_CHAT = _OF_BOTH | {
    "messages", "max_completion_tokens", "tools", "tool_choice", "response_format", "top_logprobs",
}  # fmt: skip
_OF_TEXT = _OF_BOTH | {"prompt"}
"""The fields that a model gets."""
_OWN = {"model", "stream", "stream_options", "parallel_tool_calls"}
_WITHOUT_EFFECT = {
    "metadata", "service_tier", "prompt_cache_key", "prompt_cache_retention", "prediction",
}  # fmt: skip
"""Fields that are ignored: without them the answer is the same."""
_ONLY: dict[str, Any] = {"n": 1, "best_of": 1, "echo": False, "suffix": "", "modalities": ["text"]}
"""Fields that may have one value, for which nothing is to be done."""


def _generates(model: Predictor) -> bool:
    return generates_text(model.signature)


def model_card(name: str) -> dict[str, Any]:
    """A model as OpenAI describes it. It has no time at which it was made."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "bascule"}


def models_list(plane: DataPlane) -> dict[str, Any]:
    """The models that answer requests of OpenAI's clients, by their plain names."""
    able = [
        model_card(name)
        for name, model in plane.defaults.items()
        if _generates(model) or embedding_of(model)
    ]
    return {"object": "list", "data": able}


class _Kind(NamedTuple):
    """One thing that can be asked, and of which models: `does` in words, `fits` decides."""

    path: bytes
    does: str
    fits: Callable[[Predictor], object]
    ask: Callable[[Exchange, Predictor, _Body, float], None]
    about: Callable[[Predictor], About]


class OpenAi:
    """See `data_plane.ProtocolAdapter`."""

    name = NAME

    def __init__(self, *, describes_models: bool = True) -> None:
        """`describes_models`: no other protocol has `/v1/models`, and describes them for both."""
        self._describes_models = describes_models
        self._parser = JsonParser('{"model": "NAME", "messages": [...]}', takes_nan=False)

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
        return None

    def _describing(self) -> tuple[bytes, ...]:
        return _PREFIXES if self._describes_models else _PREFIXES[1:]

    def _handler(self, plane: DataPlane, kind: _Kind, able: Predictor) -> Handler:
        deadline_s = able.limits.deadline_s  # that of all models
        if _generates(able):
            deadline_s = max(deadline_s, _TURN_S)

        def read(body: bytes, parser: JsonParser) -> _Body:
            return by_row.an_object(parser.plain(body), '{"model": "NAME", ...}')

        def run(exchange: Exchange, fields: _Body, allowed_s: float) -> None:
            model = _named(plane, fields.get("model"))
            exchange.choose(model, allowed_s)
            if not kind.fits(model):
                raise _wrong("model", f"{model.name} is no model that {kind.does}", _MODELS)
            exchange.identify()
            exchange.need_request_id()
            kind.ask(exchange, model, fields, allowed_s)

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
        raise _wrong("model", "not the name of a model", _MODELS)
    try:
        return plane.named(name)
    except NotFound as error:
        error.facts["field"] = "model"
        raise


def _wrong(field: str, problem: str, hint: str = "leave it out") -> Invalid:
    return Invalid(f"{field}: {problem}", hint=hint, field=field)


# -- text --


def _request(fields: _Body, taken: Iterable[str]) -> dict[str, Any]:
    """The fields that a model gets; raises `Invalid` for those that cannot be obeyed."""
    request = {}
    for field, value in fields.items():
        if field in taken:
            if value is not None:
                request[field] = value
        elif field in _ONLY:
            if value not in (None, _ONLY[field]):
                only = msgspec.json.encode(_ONLY[field]).decode()
                raise _wrong(field, f"only {only} is supported")
        elif value is not None and field not in _OWN and field not in _WITHOUT_EFFECT:
            raise _wrong(field[:64], "not supported here")
    return request


def _ask_chat(exchange: Exchange, model: Predictor, fields: _Body, allowed_s: float) -> None:
    request = _request(fields, _OF_CHAT)
    messages = request.get("messages")
    if type(messages) is not list or not messages or {*map(type, messages)} != {dict}:
        raise _wrong("messages", "not a list of messages", 'send [{"role": "user", ...}]')
    _Chat(exchange, model, fields).ask(request, allowed_s)


def _ask_text(exchange: Exchange, model: Predictor, fields: _Body, allowed_s: float) -> None:
    request = _request(fields, _OF_TEXT)
    prompt = request.get("prompt")
    if type(prompt) is list and len(prompt) == 1:
        (prompt,) = prompt
    if type(prompt) is not str:
        raise _wrong("prompt", "not one text", "send texts one by one, and no tokens")
    _Text(exchange, model, fields).ask(request | {"prompt": prompt}, allowed_s)


class _Completion(ABC):
    """One completion on its way to the client: chunk by chunk, or collected."""

    whole_object, part_object = "", ""

    def __init__(self, exchange: Exchange, model: Predictor, fields: _Body) -> None:
        self._exchange = exchange
        self._model = model
        self._streams = _flag(fields, "stream")
        options = fields.get("stream_options") or {}
        if type(options) is not dict or (options and not self._streams):
            raise _wrong("stream_options", "not an object beside stream: true", "leave it out")
        self._tells_usage = _flag(options, "include_usage", "stream_options.")
        self._one_call = not _flag(fields, "parallel_tool_calls", usual=True)
        self._head = {
            "id": exchange.prediction_id,
            "object": self.part_object if self._streams else self.whole_object,
            "created": int(time.time()),
            "model": fields["model"],
        }
        self._has_begun = False
        self._chunks: list[Chunk] = []
        self._size_bytes = 0
        self._last = Chunk(finish="stop")

    def ask(self, request: dict[str, Any], allowed_s: float) -> None:
        """Have the model answer; see `Exchange.ask_in_parts`."""
        try:
            text = msgspec.json.encode(request).decode()
        except RecursionError:
            raise Invalid("the body is nested too deeply", hint="flatten it") from None
        table = by_row.table_reader(self._model).rows([text], "request")
        self._exchange.rows = 1
        form = PartForm(self._begin, self._collect, self._end)
        if self._streams:
            form = PartForm(self._begin, self._stream, self._end_of_stream)
        self._exchange.ask_in_parts(
            self._model, Call(*table), allowed_s, form, is_whole=not self._streams
        )

    def _begin(self, by: AnsweredBy) -> tuple[bytes, bytes]:
        kind = _EVENTS_TYPE if self._streams else b"application/json"
        return kind, _lines(self._exchange, by, self._model)

    @abstractmethod
    def _choices(self, chunk: Chunk) -> Iterator[dict[str, Any]]:
        """The choice of each event of a chunk."""

    @abstractmethod
    def _choice(self, whole: Chunk) -> dict[str, Any]:
        """The choice of a whole answer."""

    def _read(self, answer: Answer) -> Chunk:
        self._head["system_fingerprint"] = answer.by.name
        chunk = chunk_of(answer.outputs)
        if self._one_call and chunk.tool_calls:
            first = [call for call in chunk.tool_calls if not call.get("index")]
            chunk = msgspec.structs.replace(chunk, tool_calls=first)
        if chunk.finish:
            self._last = chunk
        return chunk

    def _stream(self, answer: Answer) -> bytes:
        return b"".join(map(self._event, self._choices(self._read(answer))))

    def _event(self, choice: dict[str, Any]) -> bytes:
        usage = {"usage": None} if self._tells_usage else {}
        return _event(self._head | {"choices": [choice]} | usage)

    def _end_of_stream(self, parts: int, error: BasculeError | None) -> bytes:  # noqa: ARG002
        if error is not None:
            return _event(error_body(error, NAME))
        last = self._head | {"choices": [], "usage": _usage(self._last.usage)}
        return (_event(last) if self._tells_usage else b"") + b"data: [DONE]\n\n"

    def _collect(self, answer: Answer) -> bytes:
        self._chunks.append(self._read(answer))
        self._size_bytes += len(answer.outputs["chunk"][0])
        if self._size_bytes > _MAX_ANSWER_BYTES:
            raise ModelFailed("the answer has over 16 MiB", hint="set max_tokens", reason="")
        return b""

    def _end(self, parts: int, error: BasculeError | None) -> bytes:  # noqa: ARG002
        if error is not None:
            return b""
        whole = msgspec.structs.replace(joined(self._chunks), finish=self._last.finish)
        choice = self._choice(whole)
        return msgspec.json.encode(
            self._head | {"choices": [choice], "usage": _usage(self._last.usage)}
        )


class _Chat(_Completion):
    whole_object, part_object = "chat.completion", "chat.completion.chunk"

    def _choices(self, chunk: Chunk) -> Iterator[dict[str, Any]]:
        if not self._has_begun:
            self._has_begun = True
            yield _delta({"role": "assistant", "content": ""})
        delta: dict[str, Any] = {"content": chunk.text} if chunk.text else {}
        if chunk.tool_calls:
            delta["tool_calls"] = chunk.tool_calls
        if delta or chunk.logprobs:
            yield _delta(delta, logprobs=_logprobs(chunk.logprobs))
        if chunk.finish:
            yield _delta({}, finish=chunk.finish)

    def _choice(self, whole: Chunk) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": whole.text, "refusal": None}
        if whole.tool_calls:
            names = ("id", "type", "function")
            calls = [{name: call[name] for name in names} for call in whole.tool_calls]
            message |= {"content": whole.text or None, "tool_calls": calls}
        return {
            "index": 0, "message": message, "logprobs": _logprobs(whole.logprobs),
            "finish_reason": whole.finish,
        }  # fmt: skip


class _Text(_Completion):
    whole_object = part_object = "text_completion"

    def _choices(self, chunk: Chunk) -> Iterator[dict[str, Any]]:
        if chunk.text or chunk.finish:
            yield self._choice(chunk)

    def _choice(self, whole: Chunk) -> dict[str, Any]:
        tokens = whole.logprobs or []
        logprobs = {
            "tokens": [token.token for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [
                {other.token: other.logprob for other in token.top_logprobs} for token in tokens
            ],
        }
        return {
            "index": 0, "text": whole.text, "finish_reason": whole.finish,
            "logprobs": logprobs if tokens else None,
        }  # fmt: skip


def _flag(fields: _Body, field: str, place: str = "", *, usual: bool = False) -> bool:
    value = fields.get(field)
    if value is not None and type(value) is not bool:
        raise _wrong(place + field, "neither true nor false")
    return usual if value is None else value


def _event(body: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(body)


def _lines(exchange: Exchange, by: AnsweredBy, model: Predictor) -> bytes:
    """The lines of the head of an answer."""
    own = b"Bascule-Id: %b\r\n" % exchange.prediction_id.encode()
    return own + answered_by(by, model.by)


def _delta(
    delta: dict[str, Any], logprobs: dict[str, Any] | None = None, finish: str | None = None
) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


def _logprobs(tokens: Sequence[Any] | None) -> dict[str, Any] | None:
    return {"content": tokens, "refusal": None} if tokens else None


def _usage(usage: Usage | None) -> dict[str, Any]:
    usage = usage or Usage()
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


# -- embeddings --


def _ask_embeddings(exchange: Exchange, model: Predictor, fields: _Body, allowed_s: float) -> None:
    field = embedding_of(model)
    assert field is not None
    for name, value in fields.items():
        if name not in ("model", "input", "encoding_format", "dimensions", "user") and value:
            raise _wrong(name[:64], "not supported here")
    texts, coding = fields.get("input"), fields.get("encoding_format") or "float"
    if type(texts) is str:
        texts = [texts]
    if type(texts) is not list or not texts or {*map(type, texts)} != {str}:
        raise _wrong("input", "not a text or a list of texts", "send texts, and no tokens")
    if coding not in ("float", "base64"):
        raise _wrong("encoding_format", "neither float nor base64")
    if fields.get("dimensions") not in (None, *field.shape):
        raise _wrong("dimensions", f"the vectors of {model.name} have {field.shape[0]}")
    table = by_row.table_reader(model).rows(texts, "input")

    def tell(outcome: Outcome) -> None:
        if isinstance(outcome, BasculeError):
            exchange.fail(outcome)
            return
        exchange.reply, exchange.rows = outcome, len(texts)
        vectors, tokens = outcome.outputs[field.name], outcome.outputs.get("tokens")
        data: Iterable[Any] = vectors.tolist()
        if coding == "base64":
            rows = np.ascontiguousarray(vectors, "<f4")
            data = (base64.b64encode(row.tobytes()).decode() for row in rows)
        used = 0 if tokens is None else int(tokens.sum())
        body = {
            "object": "list",
            "model": fields["model"],
            "data": [
                {"object": "embedding", "index": index, "embedding": vector}
                for index, vector in enumerate(data)
            ],
            "usage": {"prompt_tokens": used, "total_tokens": used},
        }
        lines = _lines(exchange, outcome.by, model)
        exchange.answer(msgspec.json.encode(body), extra=lines)

    exchange.ask(model, Call(*table), allowed_s, tell)


# -- what the routes say of themselves --

_TEXT = {"type": "string"}
_USAGE = {"type": ["object", "null"]}


def _about(
    field: str, example: Any, schema: dict[str, Any], fields: Iterable[str], model: Predictor
) -> About:
    more = {} if field == "input" else {"max_tokens": 8}
    others: dict[str, Any] = {
        name: {} for name in sorted({*fields, *_OWN, *_WITHOUT_EFFECT, *_ONLY} - {field, "model"})
    }
    listed = {"type": "array", "items": {"type": "object"}}
    whole = {"object": _TEXT, "model": _TEXT, "usage": _USAGE}
    return About(
        answer=object_schema(whole, {"id": _TEXT, "choices": listed, "data": listed}),
        takes=object_schema({"model": _TEXT, field: schema}, others),
        example={"model": model.name, field: example, **more},
        answer_types=() if field == "input" else (_EVENTS_TYPE.decode(),),
    )


_KINDS = (
    _Kind(
        b"/chat/completions", "generates text", _generates, _ask_chat,
        partial(
            _about, "messages", [{"role": "user", "content": "Hello"}],
            {"type": "array", "minItems": 1, "items": {"type": "object"}}, _OF_CHAT,
        ),
    ),
    _Kind(
        b"/completions", "generates text", _generates, _ask_text,
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
