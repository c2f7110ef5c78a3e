"""Pieces of an answer, as engines give them: texts cut at stops, tool calls, usage. Pure."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from bascule.core import sha256_bytes

Finish = Literal["stop", "length", "tool_calls", "content_filter"]
_CALL, _END = "<tool_call>", "</tool_call>"


class Usage(msgspec.Struct, frozen=True):
    """Tokens of the prompt, of which `cached_tokens` were computed before, and of the answer."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


class Logprob(msgspec.Struct, frozen=True):
    """A token with the natural logarithm of its probability, and the likeliest in its place."""

    token: str
    bytes: list[int] | None  # OpenAI allows null where a token is no text
    logprob: float
    top_logprobs: list[Logprob] = []


class Chunk(msgspec.Struct, frozen=True, omit_defaults=True):
    """A piece of an answer; the last one has `finish` and `usage`."""

    text: str = ""
    tool_calls: list[dict[str, Any]] = []
    logprobs: list[Logprob] | None = None
    finish: Finish | None = None
    usage: Usage | None = None


def joined(chunks: Iterable[Chunk]) -> Chunk:
    """An answer in one chunk; pieces of one call of a tool are put together."""
    text, calls, logprobs, last = "", dict[int, dict[str, Any]](), list[Logprob](), Chunk()
    for last in chunks:
        text += last.text
        for delta in last.tool_calls:
            place = delta.get("index") or 0
            calls[place] = _with_delta(calls.get(place, {}), delta)
        logprobs += last.logprobs or ()
    return Chunk(text, [*calls.values()], logprobs or None, last.finish, last.usage)


def _with_delta(call: dict[str, Any], delta: dict[str, Any]) -> dict[str, Any]:
    before, more = call.get("function") or {}, delta.get("function") or {}
    function = {
        name: (before.get(name) or "") + (more.get(name) or "") for name in ("name", "arguments")
    }
    identifier = call.get("id") or delta.get("id") or ""
    return {**delta, **call, "id": identifier, "type": "function", "function": function}


class TextCutter:
    """Makes texts of bytes, and holds back what may be the beginning of a stop."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def add(self, data: bytes) -> tuple[str, bool]:
        """The text that is certain so far, and whether a stop has come."""
        self._held += self._decoder.decode(data)
        places = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if places:
            return self._held[: min(places)], True
        keep = max((self._overlap(stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        text, self._held = self._held[:cut], self._held[cut:]
        return text, False

    def rest(self) -> str:
        """What was held back, where no stop comes any more."""
        return self._held + self._decoder.decode(b"", final=True)

    def _overlap(self, stop: str) -> int:
        """How long the end of the text is that begins the stop."""
        lengths = range(min(len(stop) - 1, len(self._held)), 0, -1)
        return next((n for n in lengths if self._held.endswith(stop[:n])), 0)


def written(
    pieces: Iterable[tuple[bytes, Logprob | None]], stops: Sequence[str], most: int, usage: Usage
) -> Iterator[Chunk]:
    """The chunks of an answer.

    Args:
        pieces: The bytes of each token; they end where the model ends its answer.
        stops: Texts before which the answer ends.
        most: How many tokens it may have.
        usage: Of the prompt.
    """
    cutter, logprobs, count = TextCutter(stops), list[Logprob](), 0
    finish: Finish = "stop"
    text, is_stopped = "", False
    for data, logprob in pieces:
        count += 1
        if logprob is not None:
            logprobs.append(logprob)
        text, is_stopped = cutter.add(data)
        if is_stopped or count == most:
            finish = "stop" if is_stopped else "length"
            break
        if text:
            yield Chunk(text, logprobs=logprobs or None)
            text, logprobs = "", []
    if not is_stopped:
        text += cutter.rest()
    usage = msgspec.structs.replace(usage, completion_tokens=count)
    yield Chunk(text, logprobs=logprobs or None, finish=finish, usage=usage)


def logprob_of(
    logits: NDArray[np.float32],
    token: int,
    data: bytes,
    others: int,
    bytes_of: Callable[[int], bytes],
) -> Logprob:
    """The log probability of a token, with the likeliest alternatives.

    Args:
        logits: Of all tokens, as the model gives them.
        token: The token that was drawn.
        data: Its bytes, which may depend on the token before it.
        others: The number of alternatives.
        bytes_of: The bytes of any token.
    """
    scores = logits.astype(np.float64) - float(logits.max())
    scores -= np.log(np.exp(scores).sum())
    best = np.argsort(-scores, kind="stable")[:others].tolist()
    top = [_logprob(bytes_of(other), float(scores[other]), []) for other in best]
    return _logprob(data, float(scores[token]), top)


def _logprob(data: bytes, logprob: float, top: list[Logprob]) -> Logprob:
    return Logprob(data.decode(errors="replace"), list(data), logprob, top)


def with_calls(chunks: Iterable[Chunk], *, is_forced: bool) -> Iterator[Chunk]:
    """The chunks, with calls of tools parsed from the text (Hermes' format).

    A text that begins as a call is held back until it has ended; one that is none after all stays
    as it is.

    Args:
        chunks: Of an answer of a model that has tools.
        is_forced: Whether the whole text is the JSON of a call, without marks.
    """
    held: list[Chunk] = []
    is_text = False
    for chunk in chunks:
        if is_text:
            yield chunk
            continue
        held.append(chunk)
        begun = joined(held).text.lstrip()
        if not is_forced and begun[: len(_CALL)] != _CALL[: len(begun)]:
            is_text = True
            yield from held
            held = []
    if not held:
        return
    whole = joined(held)
    calls = list(calls_in(whole.text if not is_forced else f"{_CALL}{whole.text}{_END}"))
    if calls and whole.finish != "length":
        yield Chunk(tool_calls=calls, finish="tool_calls", usage=whole.usage)
    else:
        yield from held


def calls_in(text: str) -> Iterator[dict[str, Any]]:
    """The calls of tools in a text; nothing where any of them cannot be read."""
    pieces = [piece.partition(_END)[0] for piece in text.split(_CALL)[1:]]
    try:
        calls = [json.loads(piece) for piece in pieces]
        described = [(str(call["name"]), json.dumps(call["arguments"])) for call in calls]
    except (ValueError, KeyError, TypeError):
        return
    for place, (name, arguments) in enumerate(described):
        function = {"name": name, "arguments": arguments}
        digest = sha256_bytes(f"{place} {text}".encode()).removeprefix("sha256:")[:24]
        yield {
            "index": place, "id": f"call_{digest}", "type": "function", "function": function,
        }  # fmt: skip
