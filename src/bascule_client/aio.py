"""The client for asyncio."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

from bascule_client.addresses import Address, parse_address
from bascule_client.answer import Answer
from bascule_client.blocking import IDLE_S, MAX_IDLE, Client, reason_of
from bascule_client.conversation import Ask, Conversation, Steps, common_headers, timed
from bascule_client.errors import Invalid
from bascule_client.outcomes import OutcomesAdded
from bascule_client.tensors import RequestOptions
from bascule_client.wire import Lost, Outcome, Reply, ReplyReader, head_of

if TYPE_CHECKING:
    from bascule_client.later import LaterAnswer

T = TypeVar("T")

_READ_BYTES = 256 << 10


class _Connection(NamedTuple):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    since: float


class AsyncClient:
    """`Client` for asyncio: the same methods, awaited.

    Example::

        async with bascule.AsyncClient("http://127.0.0.1:8080", model="gb") as client:
            answers = await asyncio.gather(*(client.predict(rows) for rows in parts))
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        model: str | None = None,
        key: str | None = None,
        timeout_s: float = 10.0,
        retries: int = 3,
        max_request_bytes: int = 16 << 20,
        max_connections: int = 100,
        tls_authority: str | Path | None = None,
        tls_certificate: str | Path | None = None,
        tls_key: str | Path | None = None,
        control_url: str = "",
    ) -> None:
        """See `Client`.

        `max_connections` is how many requests are under way at most; the others wait here.
        """
        self._address = parse_address(
            url, tls_authority=tls_authority, tls_certificate=tls_certificate, tls_key=tls_key
        )
        self._headers = common_headers(self._address.host_header, key)
        self._conversation = Conversation(
            url, model=model, timeout_s=timeout_s, retries=retries,
            max_request_bytes=max_request_bytes,
        )  # fmt: skip
        self._submitter = partial(
            Client, url, model=model, key=key, timeout_s=timeout_s, retries=retries,
            tls_authority=tls_authority, tls_certificate=tls_certificate, tls_key=tls_key,
            control_url=control_url,
        )  # fmt: skip
        if max_connections < 1:
            raise Invalid(f"max_connections: {max_connections} is not >= 1")
        self._max_connections = max_connections
        self._loop: asyncio.AbstractEventLoop | None = None
        self._places = asyncio.Semaphore(max_connections)
        self._idle: deque[_Connection] = deque()
        self._is_closed = False

    async def predict(
        self,
        data: Any,
        *,
        confidence: float | None = None,
        conformal: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        outputs: list[str] | tuple[str, ...] | None = None,
        model: str | None = None,
        as_json: bool = False,
        timeout_s: float | None = None,
    ) -> Answer:
        """See `Client.predict`."""
        asked = RequestOptions.of(
            outputs, parameters, as_json=as_json, confidence=confidence, conformal=conformal
        )
        return await self._carried(self._conversation.predict(data, asked, model, timeout_s))

    async def submit(
        self,
        data: Any,
        *,
        parameters: Mapping[str, Any] | None = None,
        outputs: list[str] | tuple[str, ...] | None = None,
        model: str | None = None,
        callback: str = "",
    ) -> AsyncLaterAnswer:
        """See `Client.submit`: it is carried out on a thread."""

        def submitted() -> LaterAnswer:
            with self._submitter() as client:
                return client.submit(
                    data, parameters=parameters, outputs=outputs, model=model, callback=callback
                )

        return AsyncLaterAnswer(await asyncio.to_thread(submitted))

    async def add_outcomes(
        self,
        outcomes: Any,
        *,
        model: str | None = None,
        id_column: str = "id",
        truth_column: str = "truth",
        time_column: str | None = None,
        timeout_s: float | None = None,
    ) -> OutcomesAdded:
        """See `Client.add_outcomes`."""
        return await self._carried(
            self._conversation.add_outcomes(
                outcomes, model, id_column, truth_column, time_column, timeout_s
            )
        )

    async def metadata(self, model: str | None = None) -> dict[str, Any]:
        """See `Client.metadata`."""
        return await self._carried(self._conversation.metadata(model))

    async def models(self) -> list[str]:
        """See `Client.models`."""
        return await self._carried(self._conversation.models())

    async def ready(self, model: str | None = None) -> bool:
        """See `Client.ready`."""
        return await self._carried(self._conversation.ready(model))

    async def close(self) -> None:
        """See `Client.close`."""
        self._is_closed = True
        while self._idle:
            writer = self._idle.pop().writer
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self._address.url!r})"

    # -- carrying out --

    async def _carried(self, steps: Steps[T]) -> T:
        if self._is_closed:
            raise Invalid("the client was closed", hint="ask inside its with block")
        self._enter_loop()
        outcome: Outcome | None = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as end:
                made: T = end.value
                return made
            if isinstance(step, Ask):
                outcome = await self._sent(step)
            else:
                await asyncio.sleep(step.wait_s)
                outcome = None

    def _enter_loop(self) -> None:
        """Forget the connections of another loop: one `asyncio.run` after the other is usual."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._places = asyncio.Semaphore(self._max_connections)
            self._idle.clear()

    async def _sent(self, ask: Ask) -> Outcome:
        until = time.monotonic() + ask.allowed_s
        try:
            async with asyncio.timeout(ask.allowed_s), self._places:
                left_s = max(until - time.monotonic(), 1e-3)
                return await self._exchanged(ask._replace(allowed_s=left_s))
        except TimeoutError:
            return Lost("no answer in time", late=True)

    async def _exchanged(self, ask: Ask) -> Outcome:
        try:
            reader, writer, _ = self._taken() or await _connected(self._address)
        except TimeoutError:
            raise
        except OSError as problem:
            return Lost(reason_of(problem), reached=False)
        reply_reader = ReplyReader()
        keep = False
        try:
            request = timed(ask)
            writer.write(head_of(request, self._address.prefix, self._headers))
            if request.body:
                writer.write(request.body)
            reply, all_sent = await _read(reader, writer, reply_reader)
            keep = all_sent and reply_reader.keeps and not self._is_closed
            return reply
        except TimeoutError:
            raise
        except (OSError, ValueError) as problem:
            return Lost(reason_of(problem))
        finally:
            if keep and len(self._idle) < MAX_IDLE:
                self._idle.append(_Connection(reader, writer, time.monotonic()))
            else:
                # A plain close would wait, without bound, for the server to read the rest.
                writer.transport.abort()

    def _taken(self) -> _Connection | None:
        while self._idle:
            one = self._idle.pop()
            reader: Any = one.reader
            # Bytes that came unasked belong to no request: `StreamReader` has no public test.
            is_open = not (reader.at_eof() or reader._buffer or one.writer.is_closing())
            if is_open and time.monotonic() - one.since < IDLE_S:
                return one
            one.writer.transport.abort()
        return None


class AsyncLaterAnswer:
    """`LaterAnswer` for asyncio: the same methods, awaited."""

    def __init__(self, later: LaterAnswer) -> None:
        self.id, self._later = later.id, later

    async def state(self) -> str:
        """See `LaterAnswer.state`."""
        return await asyncio.to_thread(lambda: self._later.state)

    async def result(self, timeout_s: float = 600.0) -> Answer:
        """See `LaterAnswer.result`; no thread waits."""
        pauses = self._later.pauses(timeout_s)
        while pause_s := await asyncio.to_thread(next, pauses, None):
            await asyncio.sleep(pause_s)
        return await asyncio.to_thread(self._later.read)

    async def cancel(self) -> None:
        """See `LaterAnswer.cancel`."""
        await asyncio.to_thread(self._later.cancel)


async def _connected(address: Address) -> _Connection:
    if address.unix_socket:
        made = await asyncio.open_unix_connection(address.unix_socket)
    else:
        made = await asyncio.open_connection(address.host, address.port, ssl=address.tls)
    return _Connection(*made, time.monotonic())


async def _read(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, reply_reader: ReplyReader
) -> tuple[Reply, bool]:
    """The reply, and whether the request was sent in full: a server may refuse it before."""
    while True:
        data = await reader.read(_READ_BYTES)
        reply = reply_reader.feed(data)
        if reply is not None:
            transport: Any = writer.transport
            return reply, not transport.get_write_buffer_size()
