"""A server that speaks the OpenAI API (vLLM, Ollama, TGI, llama.cpp's, a cloud) as an engine.

An address that a bundle names is asked only where the server's settings name it as well, with the
key that is for it: a bundle cannot make a server ask other hosts, nor send them its secrets. It is
asked once more where it refuses or is away *before* the first piece, and never after that.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from bascule.bundle.generation.chunks import Chunk, Logprob, Usage
from bascule.bundle.generation.requests import TextRequest, as_json
from bascule.bundle.generation.specs import Spec
from bascule.core import Invalid, ModelFailed, Overloaded, TimedOut, Unavailable, secret_in

UPSTREAMS = "BASCULE_UPSTREAMS"
"""A variable with JSON: by address, where its key is kept; empty for none."""
_CONNECT_S = 5.0
_PAUSES_S = (0.2, 1.0)
_MOST_LINE = 1 << 20
_AWAY = frozenset((429, 500, 502, 503, 504))
_FINISHES = ("stop", "length", "tool_calls", "content_filter")


class UpstreamEngine:
    """See `hosting.Engine`."""

    def __init__(self, spec: Spec, folder: Path, threads: int) -> None:
        import httpx

        del folder, threads
        self._spec, self._library = spec, httpx
        known = json.loads(os.environ.get(UPSTREAMS, "{}"))
        if spec.upstream not in known:
            raise Unavailable(
                f"the upstream {spec.upstream} is not one that may be asked here",
                hint=f'[upstreams]\\n"{spec.upstream}" = "env:KEY"',
            )
        self._key = str(known[spec.upstream])
        times = httpx.Timeout(spec.timeout_s, connect=_CONNECT_S)
        limits = httpx.Limits(max_connections=256, max_keepalive_connections=64)
        self._client = httpx.Client(timeout=times, limits=limits, trust_env=False)

    def generate(self, request: TextRequest, cancelled: threading.Event) -> Iterator[Chunk]:
        is_chat = request.messages is not None
        options = {"include_usage": True}
        body = {**as_json(request), "model": self._spec.model, "stream": True}
        body["stream_options"] = options
        if self._spec.system and is_chat and body["messages"][0]["role"] != "system":
            body["messages"].insert(0, {"role": "system", "content": self._spec.system})
        response = self._ask("/chat/completions" if is_chat else "/completions", body, cancelled)
        over = threading.Event()
        threading.Thread(target=_cut, args=(response, cancelled, over), daemon=True).start()
        try:
            yield from self._chunks(response, is_chat=is_chat, cancelled=cancelled)
        finally:
            over.set()
            response.close()

    def score(self, text: str) -> tuple[float, int]:
        del text
        raise Invalid("an upstream does not tell how likely a text is", hint="leave perplexity out")

    def _ask(self, path: str, body: dict[str, Any], cancelled: threading.Event) -> Any:
        """The response, which has begun; asked again where the upstream is away."""
        url, key = self._spec.upstream.rstrip("/") + path, self._key and secret_in(self._key)
        heads = {"Authorization": f"Bearer {key}"} if key else {}
        request = self._client.build_request("POST", url, json=body, headers=heads)
        for pause_s in (*_PAUSES_S, None):
            try:
                response = self._client.send(request, stream=True)
            except self._library.TimeoutException:
                raise self._late() from None
            except self._library.HTTPError as problem:
                error: Exception = Unavailable(
                    f"the upstream cannot be reached: {type(problem).__name__}", retry_after_s=1
                )
            else:
                if response.status_code == self._library.codes.OK:
                    return response
                error = self._refused(response)
                if response.status_code not in _AWAY:
                    raise error
            if pause_s is None or cancelled.wait(pause_s):
                raise error
        raise AssertionError("the last pause ends the loop")

    def _refused(self, response: Any) -> Exception:
        with suppress(self._library.HTTPError):
            response.read()
        code, said = response.status_code, _message(response)
        response.close()
        if code == 429:
            return Overloaded(f"the upstream is full: {said}", retry_after_s=1)
        if code in (400, 413, 422):
            return Invalid(f"request: the upstream refuses it: {said}", field="request")
        if code in _AWAY:
            return Unavailable(f"the upstream answers {code}: {said}", retry_after_s=1)
        return ModelFailed(f"the upstream answers {code}: {said}", hint="look at its key and model")

    def _late(self) -> TimedOut:
        return TimedOut(f"the upstream said nothing for {self._spec.timeout_s:g} s")

    def _chunks(
        self, response: Any, *, is_chat: bool, cancelled: threading.Event
    ) -> Iterator[Chunk]:
        """What the events say; the finish is told last, with the usage that comes behind it."""
        last: Chunk | None = None
        usage = Usage()
        try:
            for event in _events(response):
                if "error" in event:
                    raise ModelFailed(f"the upstream failed: {str(event['error'])[:300]}")
                if said := event.get("usage"):
                    cached = (said.get("prompt_tokens_details") or {}).get("cached_tokens")
                    counts = said.get("prompt_tokens"), said.get("completion_tokens"), cached
                    usage = Usage(*(int(count or 0) for count in counts))
                for choice in event.get("choices") or ():
                    chunk = _chunk(choice, is_chat=is_chat)
                    if chunk.finish is not None:
                        last = chunk
                    elif chunk != Chunk():
                        yield chunk
        except self._library.TimeoutException:
            raise self._late() from None
        except (self._library.HTTPError, OSError) as problem:
            if cancelled.is_set():
                return
            reason = f"the upstream broke off: {type(problem).__name__}"
            raise ModelFailed(reason, reason=reason) from None
        except (ValueError, TypeError, KeyError, AttributeError) as problem:
            reason = f"the upstream answered nonsense: {type(problem).__name__}"
            raise ModelFailed(reason, reason=reason) from None
        if last is None and not cancelled.is_set():
            raise ModelFailed("the upstream broke off", reason="the upstream broke off")
        if last is not None:
            yield msgspec.structs.replace(last, usage=usage)


def _cut(response: Any, cancelled: threading.Event, over: threading.Event) -> None:
    """End the reading of a response when its caller has gone."""
    while not over.wait(0.05):
        if cancelled.is_set():
            with suppress(OSError, KeyError, AttributeError):
                stream = response.extensions["network_stream"]
                stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
            return


def _events(response: Any) -> Iterator[dict[str, Any]]:
    """The data of server-sent events, up to `[DONE]`."""
    held = ""
    for piece in response.iter_text():
        held += piece
        *lines, held = held.split("\n")
        if len(held) > _MOST_LINE:
            raise ValueError("a line without an end")
        for line in lines:
            data = line.removeprefix("data:").strip()
            if data == "[DONE]":
                return
            if line.startswith("data:") and data:
                yield json.loads(data)


def _chunk(choice: dict[str, Any], *, is_chat: bool) -> Chunk:
    delta = choice.get("delta") or {} if is_chat else choice
    text = str(delta.get("content" if is_chat else "text") or "")
    logprobs = (choice.get("logprobs") or {}).get("content") if is_chat else None
    finish = choice.get("finish_reason")
    return Chunk(
        text,
        tool_calls=list(delta.get("tool_calls") or ()),
        logprobs=None if not logprobs else msgspec.convert(logprobs, list[Logprob]),
        finish=None if not finish else finish if finish in _FINISHES else "stop",
    )


def _message(response: Any) -> str:
    """What an error says, without what only its server may read."""
    try:
        said = response.json()
        error = said.get("error", said) if isinstance(said, dict) else said
        message = error.get("message", "") if isinstance(error, dict) else error
        return str(message)[:300]
    except (ValueError, RuntimeError):
        return "no reason"
