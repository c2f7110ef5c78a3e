"""What is asked of a model that writes texts: the fields of the OpenAI API, checked. Pure."""

from __future__ import annotations

import json
import re
import secrets
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import msgspec

from bascule.bundle.generation.specs import Spec
from bascule.core import DType, Field, Invalid, first_line

INPUTS = (Field("request", DType.BYTES, ()),)
OUTPUTS = (Field("text", DType.BYTES, ()), Field("chunk", DType.BYTES, ()))
EXAMPLE = '{"max_tokens":8,"messages":[{"content":"Say hello.","role":"user"}]}'
MOST_REQUEST_BYTES = 4 << 20
_MOST_STOPS, _MOST_TOOLS = 16, 128
_TEMPLATE_CPU_S, _MOST_PROMPT = 5.0, 4 * MOST_REQUEST_BYTES
"""Bounds of a chat template: of the time that it takes, and of the text that it makes."""
_OF_CALLERS = ("store", "user", "safety_identifier")
"""Fields about the caller: policies read them, and they do not change an answer."""
_PLACE, _UNKNOWN = re.compile(r"`\$\.([^`]+)`$"), re.compile(r"unknown field `([^`]+)`")

Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
TokenId = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,7}$")]
Tokens = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]


class Function(msgspec.Struct, frozen=True):
    """A function that a model may call; `parameters` is a JSON schema."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str = ""
    parameters: dict[str, Any] = {}


class Tool(msgspec.Struct, frozen=True):
    """A tool as a request names it."""

    function: Function
    type: Literal["function"] = "function"


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message of a conversation; `content` may be parts, of type `text` or `refusal`."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None

    @property
    def text(self) -> str:
        """The texts of the message in one."""
        if isinstance(self.content, list):
            return "".join(str(part[part["type"]]) for part in self.content)
        return self.content or ""


class TextRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One request; the defaults are those of the OpenAI API, but for the length.

    Attributes:
        messages: A conversation; None where `prompt` is continued.
        prompt: A text that is continued as it stands, without the chat template.
        logprobs: Whether the answer has the log probability of each token; a number adds so many
            alternatives, as the older of the two APIs has it.
        response_format: `text`, `json_object`, or a `json_schema` that the answer follows.
    """

    messages: list[Message] | None = None
    prompt: str | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] = 1.0
    top_p: Share = 1.0
    stop: str | list[str] | None = None
    seed: Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)] | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    logit_bias: dict[TokenId, Annotated[float, msgspec.Meta(ge=-100, le=100)]] | None = None

    @property
    def most_tokens(self) -> int | None:
        """How many tokens the answer may have; None for as many as there is room for."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts before which the answer ends."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def others(self) -> int:
        """The number of alternatives for each token; -1 without log probabilities."""
        if self.logprobs is None or self.logprobs is False:
            return -1
        return self.top_logprobs or (0 if self.logprobs is True else self.logprobs)

    @property
    def forced(self) -> tuple[Tool, ...]:
        """The tools of which one must be called."""
        tools = tuple(self.tools or ())
        if isinstance(self.tool_choice, dict):
            name = self.tool_choice["function"]["name"]
            return tuple(tool for tool in tools if tool.function.name == name)
        return tools if self.tool_choice == "required" else ()

    @property
    def callable(self) -> tuple[Tool, ...]:
        """The tools of which any may be called."""
        return () if self.tool_choice == "none" else tuple(self.tools or ())

    @property
    def schema(self) -> dict[str, Any] | None:
        """The JSON schema that the answer follows: of a forced call, or of `response_format`."""
        if self.forced:
            calls = [_call_of(tool.function) for tool in self.forced]
            return calls[0] if len(calls) == 1 else {"anyOf": calls}
        wanted = self.response_format or {}
        if wanted.get("type") == "json_object":
            return {"type": "object"}
        schema: dict[str, Any] | None = wanted.get("json_schema", {}).get("schema")
        return schema


def parse_request(data: str | bytes, defaults: Mapping[str, Any] = {}) -> TextRequest:
    """The request in a text; what does not begin a JSON object is the message of a user.

    Args:
        data: A value of the column `request`.
        defaults: Values of fields that are not given.

    Raises:
        Invalid: A field is wrong, or not known; `field` names it.
    """
    try:
        text = data.decode() if isinstance(data, bytes) else str(data)
        text.encode()
    except (UnicodeDecodeError, UnicodeEncodeError) as problem:
        raise _wrong("request", f"is not UTF-8: {problem.reason}") from None
    if len(text) > MOST_REQUEST_BYTES:
        raise _wrong("request", f"has {len(text):,} characters; {MOST_REQUEST_BYTES:,} may be")
    fields: dict[str, Any] = {"messages": [{"role": "user", "content": text}]}
    if text.lstrip().startswith("{"):
        try:
            fields = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError) as problem:
            raise _wrong("request", f"is no JSON: {problem}") from None
    fields = {
        name: value
        for name, value in fields.items()
        if value is not None and name not in _OF_CALLERS
    }
    if "max_completion_tokens" in fields:
        defaults = {name: value for name, value in defaults.items() if name != "max_tokens"}
    try:
        request = msgspec.convert({**defaults, **fields}, TextRequest)
    except msgspec.ValidationError as problem:
        reason, _, _ = str(problem).partition(" - at ")
        place = _PLACE.search(str(problem)) or _UNKNOWN.search(reason)
        raise _wrong(place[1] if place else "request", reason) from None
    _check(request)
    return request


def check_defaults(spec: Spec) -> None:
    """Raise `Invalid` for defaults that no request could have."""
    if wrong := {"messages", "prompt", "tools"} & {*spec.defaults}:
        reason = f"defaults: {min(wrong)} is of a request alone"
        raise Invalid(reason, field="defaults", hint="leave it out")
    parse_request("", spec.defaults)


def _check(request: TextRequest) -> None:
    if (request.messages is None) == (request.prompt is None):
        raise _wrong("messages", "or `prompt` has to be given, and not both")
    if request.messages is not None:
        if not request.messages:
            raise _wrong("messages", "is empty")
        for place, message in enumerate(request.messages):
            for part in message.content if isinstance(message.content, list) else ():
                kind = part.get("type")
                if kind not in ("text", "refusal") or not isinstance(part.get(kind), str):
                    raise _wrong(
                        f"messages[{place}].content", f"has a part of type {kind!r}; texts may be"
                    )
    if len(request.stops) > _MOST_STOPS or "" in request.stops:
        raise _wrong("stop", f"has more than {_MOST_STOPS} texts, or an empty one")
    tools, names = request.tools or [], [tool.function.name for tool in request.tools or ()]
    if len(tools) > _MOST_TOOLS or len({*names}) < len(names):
        raise _wrong("tools", f"are more than {_MOST_TOOLS}, or two have one name")
    choice = request.tool_choice
    if isinstance(choice, dict):
        named = choice.get("function")
        if not isinstance(named, dict) or named.get("name") not in names:
            raise _wrong("tool_choice", f"names none of the tools {', '.join(names)}")
    elif choice not in (None, "none", "auto", "required"):
        raise _wrong("tool_choice", f"is {choice!r}, and neither none, auto, required nor a tool")
    elif choice == "required" and not tools:
        raise _wrong("tool_choice", "asks for a call, and there are no tools")
    wanted = request.response_format or {"type": "text"}
    if wanted.get("type") not in ("text", "json_object", "json_schema"):
        raise _wrong("response_format", f"has the type {wanted.get('type')!r}")
    described = wanted.get("json_schema")
    if wanted["type"] == "json_schema" and not (
        isinstance(described, dict) and isinstance(described.get("schema"), dict)
    ):
        raise _wrong("response_format", "has no json_schema.schema")


def _wrong(field: str, reason: str) -> Invalid:
    return Invalid(f"{field}: {reason}", field=field, hint="see docs/reference/openai.md")


def as_json(request: TextRequest) -> dict[str, Any]:
    """The fields that are not those of an empty request."""
    plain = msgspec.to_builtins(TextRequest())
    fields = msgspec.to_builtins(request)
    return {name: value for name, value in fields.items() if value != plain[name]}


def describe_tools(tools: tuple[Tool, ...]) -> str:
    """The text about tools for a template that has no place for them (Hermes' format)."""
    listed = "\n".join(json.dumps(msgspec.to_builtins(tool)) for tool in tools)
    return (
        f"You may call these functions:\n<tools>\n{listed}\n</tools>\nFor a call, answer only:\n"
        '<tool_call>\n{"name": NAME, "arguments": OBJECT}\n</tool_call>'
    )


def _call_of(function: Function) -> dict[str, Any]:
    name, arguments = {"const": function.name}, function.parameters or {"type": "object"}
    names = ["name", "arguments"]
    return {
        "type": "object", "properties": {"name": name, "arguments": arguments}, "required": names,
        "additionalProperties": False,
    }  # fmt: skip


def conversation(request: TextRequest, spec: Spec, template: str) -> dict[str, Any]:
    """The `messages` and `tools` that a chat template is filled with."""
    messages = [_as_template_has_it(message) for message in request.messages or ()]
    system = [spec.system] if spec.system else []
    if messages and messages[0]["role"] == "system":
        system = [messages.pop(0)["content"]]
    if request.callable and "tools" not in template:
        system.append(describe_tools(request.callable))
    if system:
        messages.insert(0, {"role": "system", "content": "\n\n".join(system)})
    return {"messages": messages, "tools": msgspec.to_builtins(request.callable) or None}


def _as_template_has_it(message: Message) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    return {**msgspec.to_builtins(message), "role": role, "content": message.text}


class SpecialTokens:
    """Keeps what messages say from being read as special tokens: `<|im_end|>` of a user is a text.

    A mark that no caller knows is put behind the first character of each. A prompt is cut at the
    marks, and each piece is tokenized by itself.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        """`tokens`: their texts; those of one character are left alone."""
        self._tokens = [token for token in tokens if len(token) > 1]
        self._mark = secrets.token_hex(16)

    def marked(self, document: Any) -> Any:
        """JSON, with marks in its texts."""
        if isinstance(document, str):
            parts = {re.escape(token[0]) + f"(?={re.escape(token[1:])})"
                     for token in self._tokens if token in document}  # fmt: skip
            return re.sub("|".join(parts), rf"\g<0>{self._mark}", document) if parts else document
        if isinstance(document, list):
            return [self.marked(item) for item in document]
        if isinstance(document, dict):
            return {self.marked(name): self.marked(value) for name, value in document.items()}
        return document

    def pieces(self, prompt: str) -> list[str]:
        """What is tokenized by itself of a prompt with marks; raises `Invalid` for a huge one."""
        if len(prompt) > _MOST_PROMPT:
            reason = f"makes {len(prompt):,} characters of them; {_MOST_PROMPT:,} may be"
            raise _of_template(reason)
        return prompt.split(self._mark)


@contextmanager
def telling_refusals() -> Iterator[None]:
    """Any exception of a chat template means that it refuses these messages.

    One that takes too long is ended; by a signal, so this is for the main thread of a process.
    """

    def end(*_: object) -> None:
        raise _of_template(f"takes over {_TEMPLATE_CPU_S:g} s of CPU time")

    before = signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, _TEMPLATE_CPU_S)
    try:
        yield
    except (MemoryError, Invalid):
        raise
    except Exception as problem:
        raise _of_template(f"refuses them: {first_line(problem)}") from None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _of_template(reason: str) -> Invalid:
    hint = "see what messages the model's template is for, or pack it with another"
    return Invalid(f"messages: the chat template {reason}", field="messages", hint=hint)


def room_for(request: TextRequest, prompt_tokens: int, context_tokens: int) -> int:
    """The most tokens of an answer; raises `Invalid` where the prompt leaves none, or is none."""
    field = "prompt" if request.messages is None else "messages"
    if not prompt_tokens:
        reason = f"{field}: is empty, and the model begins no text"
        raise Invalid(reason, field=field, hint="send a text")
    if prompt_tokens >= context_tokens:
        raise Invalid(
            f"{field}: the prompt has {prompt_tokens:,} tokens; with its answer, "
            f"{context_tokens:,} may be",
            field=field,
            hint="send less, or pack the model with more context_tokens",
        )
    room = context_tokens - prompt_tokens
    return min(room, request.most_tokens or room)
