"""A server that speaks the OpenAI API (vLLM, Ollama, TGI, llama.cpp's, a cloud) as an engine.

An address that a bundle names is asked only where the settings name it as well (`[upstreams]`),
with the key that is for it: a bundle cannot make a server ask other hosts, nor send them its
secrets. Redirections are not followed. A request is sent again only before its first chunk.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import threading
import time
from collections.abc import AsyncIterator, Generator
from typing import Any

import msgspec

from bascule.bundle.generation.chunks import Chunk, Logprob, Usage
from bascule.bundle.generation.requests import TextRequest, as_json
from bascule.bundle.generation.specs import Spec
from bascule.core import Invalid, ModelFailed, Overloaded, TimedOut, Unavailable, library, secret_in

UPSTREAMS = "UPSTREAMS_OF_BASCULE"
"""The variable by which a process has the setting `upstreams`, as JSON."""
_SETTING = "BASCULE_UPSTREAMS"
_CONNECT_S = 5.0
_PAUSES_S = (0.2, 1.0)
_KEY_S = 60.0
"""How long a key is used before it is read again; after a refusal it is read at once."""
_LOOK_S = 0.05
_MOST_CHUNKS, _MOST_LINE = 256, 1 << 20
_AWAY = frozenset((429, 500, 502, 503, 504))
_NO_KEY = frozenset((401, 403))
_FINISHES = ("stop", "length", "tool_calls", "content_filter")


class UpstreamEngine:
    """As a `hosting.Engine`. Its requests share an event loop, on a thread."""

    def __init__(self, spec: Spec) -> None:
        """Raises `Unavailable` where the settings do not name the address."""
        self._library = httpx = library("httpx", "upstream")
        self._spec = spec
        known = _known()
        if spec.upstream not in known:
            raise Unavailable(
                f"the settings do not name the upstream {spec.upstream}",
                hint=f'add to bascule.toml, under [upstreams]: "{spec.upstream}" = "env:KEY"',
            )
        self._reference = known[spec.upstream]
        self._key, self._read_at_s = "", float("-inf")
        times = httpx.Timeout(spec.timeout_s, connect=_CONNECT_S)
        limits = httpx.Limits(max_connections=256, max_keepalive_connections=64)
        self._client = httpx.AsyncClient(timeout=times, limits=limits, trust_env=False)
        self._loop, self._is_closed = asyncio.new_event_loop(), False
        threading.Thread(target=_run, args=(self._loop,), name="upstream", daemon=True).start()

    def generate(
        self, request: TextRequest, cancelled: threading.Event
    ) -> Generator[Chunk, None, None]:
        """See `hosting.Engine`; ends within 50 ms of `cancelled`."""
        ready: queue.Queue[Chunk | Exception | None] = queue.Queue()
        asking = asyncio.run_coroutine_threadsafe(self._answer(request, ready), self._loop)
        try:
            while not cancelled.is_set():
                try:
                    item = ready.get(timeout=_LOOK_S)
                except queue.Empty:
                    continue
                if item is None:
                    return
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            asking.cancel()

    def close(self) -> None:
        """End the connections; twice does no harm."""
        if not self._is_closed:
            self._is_closed = True
            asyncio.run_coroutine_threadsafe(self._end(), self._loop)

    # -- on the loop --

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.aclose()
        self._loop.stop()

    async def _answer(
        self, request: TextRequest, ready: queue.Queue[Chunk | Exception | None]
    ) -> None:
        """Put the chunks, then None or an error."""
        is_chat, has_begun = request.messages is not None, False
        try:
            for pause_s in (*_PAUSES_S, None):
                try:
                    async for chunk in self._chunks(self._body(request), is_chat=is_chat):
                        while ready.qsize() >= _MOST_CHUNKS:
                            await asyncio.sleep(_LOOK_S)
                        has_begun = True
                        ready.put(chunk)
                    return
                except (Unavailable, Overloaded) as problem:
                    if has_begun or pause_s is None:
                        if has_begun:
                            raise ModelFailed(problem.message, hint="retry") from None
                        raise
                    await asyncio.sleep(pause_s)
        except Exception as problem:  # the other thread raises it
            ready.put(problem)
        finally:
            ready.put(None)

    def _body(self, request: TextRequest) -> dict[str, Any]:
        body = {**self._spec.extra, **as_json(request), "model": self._spec.model, "stream": True}
        body["stream_options"] = {"include_usage": True}
        if self._spec.system and request.messages and body["messages"][0]["role"] != "system":
            body["messages"].insert(0, {"role": "system", "content": self._spec.system})
        return body

    async def _chunks(self, body: dict[str, Any], *, is_chat: bool) -> AsyncIterator[Chunk]:
        """What the events say; the last has finish and usage."""
        path = "/chat/completions" if is_chat else "/completions"
        last, usage, count = None, Usage(), 0
        try:
            response = await self._ask(self._spec.upstream.rstrip("/") + path, body)
            try:
                async for event in _events(response):
                    if "error" in event:
                        reason = f"the upstream failed: {str(event['error'])[:300]}"
                        raise ModelFailed(reason, hint="see its log")
                    usage = _usage(event, usage)
                    for choice in event.get("choices") or ():
                        chunk = _chunk(choice, is_chat=is_chat)
                        count += chunk.text != "" or chunk.tool_calls != []
                        if chunk.finish is not None:
                            last = chunk
                        elif chunk != Chunk():
                            yield chunk
            finally:
                await response.aclose()
        except self._library.TimeoutException:
            raise TimedOut(
                f"the upstream said nothing for {self._spec.timeout_s:g} s",
                hint="pack the model with a larger timeout_s",
            ) from None
        except (self._library.HTTPError, OSError) as problem:
            reason = f"the connection to the upstream failed: {type(problem).__name__}"
            raise Unavailable(reason, hint="retry", retry_after_s=1) from None
        except (ValueError, TypeError, KeyError, AttributeError) as problem:
            reason = f"the upstream answered nonsense: {type(problem).__name__}"
            hint = "see whether the address is of an OpenAI-compatible server"
            raise ModelFailed(reason, reason=reason, hint=hint) from None
        if last is None:
            raise Unavailable("the upstream broke off", hint="retry", retry_after_s=1)
        # An upstream that counts no tokens sends one or more with each event.
        yield msgspec.structs.replace(last, usage=usage if usage != Usage() else Usage(0, count))

    async def _ask(self, url: str, body: dict[str, Any]) -> Any:
        """The response, which has begun with status 200."""
        key = await self._current_key()
        while True:
            heads = {"Authorization": f"Bearer {key}"} if key else {}
            request = self._client.build_request("POST", url, json=body, headers=heads)
            response = await self._client.send(request, stream=True)
            if response.status_code == self._library.codes.OK:
                return response
            try:
                await response.aread()
            finally:
                await response.aclose()
            if response.status_code in _NO_KEY:
                self._read_at_s = float("-inf")
                former, key = key, await self._current_key()
                if key != former:
                    continue
            raise _refusal(response)

    async def _current_key(self) -> str:
        if self._reference and time.monotonic() - self._read_at_s > _KEY_S:
            self._key = await asyncio.to_thread(secret_in, self._reference, Unavailable)
            self._read_at_s = time.monotonic()
        return self._key


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _known() -> dict[str, str]:
    """Where keys are kept, by the addresses that may be asked."""
    setting = os.environ.get(UPSTREAMS) or os.environ.get(_SETTING) or "{}"
    return dict(json.loads(setting))


def _refusal(response: Any) -> Exception:
    code = response.status_code
    if code in _NO_KEY:  # without its text, which may quote the key
        return ModelFailed(f"the upstream answers {code}", hint="look at its key in [upstreams]")
    message = _message(response)
    if code == 429:
        return Overloaded(f"the upstream is full: {message}", hint="retry later", retry_after_s=1)
    if code in (400, 413, 422):
        hint = "change the request as it says"
        return Invalid(f"request: the upstream refuses it: {message}", field="request", hint=hint)
    reason = f"the upstream answers {code}: {message}"
    if code in _AWAY:
        return Unavailable(reason, hint="retry later", retry_after_s=1)
    return ModelFailed(reason, hint="look at its address and model")


async def _events(response: Any) -> AsyncIterator[dict[str, Any]]:
    """The data of server-sent events, up to `[DONE]`."""
    held = ""
    async for piece in response.aiter_text():
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


def _usage(event: dict[str, Any], before: Usage) -> Usage:
    usage = event.get("usage")
    if not usage:
        return before
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    counts = usage.get("prompt_tokens"), usage.get("completion_tokens"), cached
    return Usage(*(int(count or 0) for count in counts))


def _chunk(choice: dict[str, Any], *, is_chat: bool) -> Chunk:
    delta = choice.get("delta") or {} if is_chat else choice
    text = str(delta.get("content" if is_chat else "text") or "")
    logprobs = (choice.get("logprobs") or {}).get("content") if is_chat else None
    finish = choice.get("finish_reason")
    return Chunk(
        text,
        tool_calls=list(delta.get("tool_calls") or ()),
        logprobs=None if not logprobs else [_logprob(entry) for entry in logprobs],
        finish=None if not finish else finish if finish in _FINISHES else "stop",
    )


def _logprob(entry: dict[str, Any]) -> Logprob:
    """Some servers tell no bytes."""
    top = [_logprob(other) for other in entry.get("top_logprobs") or ()]
    data = entry.get("bytes") or list(str(entry["token"]).encode())
    return msgspec.convert({**entry, "bytes": data, "top_logprobs": top}, Logprob)


def _message(response: Any) -> str:
    """What an error says, without what only its server may read."""
    try:
        body = response.json()
        error = body.get("error", body) if isinstance(body, dict) else body
        message = error.get("message", "") if isinstance(error, dict) else error
        return str(message)[:300]
    except (ValueError, RuntimeError):
        return "no reason"
