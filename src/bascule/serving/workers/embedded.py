"""The engine and the protocols inside a process that has its own server, such as a Ray replica.

The models are those of a worker: the same predictors, batching, limits, plans and answers. Sockets,
keys and processes are the host's. Everything runs on the event loop of the host.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from bascule.core import BasculeError, Invalid, TooLarge
from bascule.serving.execution import AdmissionQueue, BufferBudget, Predictor
from bascule.serving.limits import Limits
from bascule.serving.protocols import EVERY_PROTOCOL, DataPlane, Metrics, open_protocols
from bascule.serving.specs import ModelSpecs, Plans
from bascule.serving.telemetry import Counters, MetricLabels, Recorder, RequestLog, labels_of
from bascule.serving.transports import Exchange, Head, Routes, internal_error, told
from bascule.serving.workers.loaded_models import LoadedModels

log = logging.getLogger(__name__)

_NEVER = 1_000
"""No status is noted in a request log: the host has a log of its own."""


class Answered(NamedTuple):
    """An answer: status, headers with the content type, and the body."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Embedded:
    """Answers requests of a host. `start` it on the host's event loop."""

    def __init__(self, limits: Limits | None = None) -> None:
        """Nothing is served yet.

        Args:
            limits: The bounds of the engine; the defaults of a worker if None.
        """
        self.limits = limits or Limits()
        self.backlog = AdmissionQueue(self.limits.max_body_bytes)
        self.held = BufferBudget(self.limits.max_held_bytes)
        self.recorder: Recorder | None = None
        self.request_log: RequestLog | None = None
        self.noted_from = _NEVER
        self._counters = Counters(Path(f"/dev/fd/{os.memfd_create('bascule-counters')}"), workers=1)
        self._others = self._counters.series(0)
        self._plane = DataPlane(
            [Metrics(self._counters), *open_protocols(EVERY_PROTOCOL)], lambda: True
        )
        self._routes: Routes = {}
        self._models: LoadedModels | None = None
        self._ticking: asyncio.Task[None] | None = None

    async def start(self, services: ModelSpecs, plans: Plans = ()) -> None:
        """Load versions, and serve them by their names and plans.

        Raises:
            BasculeError: A version cannot be loaded.
        """
        loop = asyncio.get_running_loop()

        def serve(models: Iterable[Predictor]) -> None:
            self._routes = self._plane.serve(models)

        self._models = LoadedModels(
            self._counters, 0, self.limits, loop, serve, policies={}, held=self.held
        )
        for one in services:
            self._counters.name(MetricLabels(one.model, one.version))
        self._counters.arms.name([label for plan in plans for label in labels_of(plan)], [])
        self._models.start(services, plans)
        self._ticking = loop.create_task(self._tick())

    async def stop(self) -> None:
        """End the clock; the models go with the process."""
        if self._ticking is not None:
            self._ticking.cancel()
            with suppress(asyncio.CancelledError):
                await self._ticking

    @property
    def is_stuck(self) -> bool:
        """Whether a run has not ended in time: the process must be replaced."""
        return self._models is not None and self._models.is_stuck

    async def answer(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> Answered:
        """Answer one request as a worker does, errors included."""
        done: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        head = Head(
            method.encode(), path.encode(),
            {name.lower().encode(): value.encode("latin-1") for name, value in headers.items()},
            keep_alive=True, request_id=b"",
        )  # fmt: skip
        exchange = Exchange(_Carrier(self, done), head, body, self._others)
        self._dispatch(exchange)
        try:
            return await done
        except asyncio.CancelledError:
            if exchange.on_gone is not None:
                exchange.on_gone()
            raise

    def _dispatch(self, exchange: Exchange) -> None:
        def handle() -> None:
            if len(exchange.body) > self.limits.max_body_bytes:
                raise TooLarge(f"the body is over {self.limits.max_body_bytes:,} bytes")
            path = exchange.head.target.partition(b"?")[0]
            methods = self._routes.get(path)
            if methods is None:
                raise self._plane.not_found(path)
            route = methods.get(exchange.head.method)
            if route is None:
                raise Invalid(
                    f"{exchange.head.method.decode()} is not allowed here",
                    hint=f"use {', '.join(sorted(one.decode() for one in methods))}",
                )
            if route.series is not None:
                exchange.series, exchange.protocol = route.series, route.protocol
            route.handle(exchange)

        answering(exchange, handle)

    async def _tick(self) -> None:
        assert self._models is not None
        while True:
            await asyncio.sleep(1.0)
            self._models.tick()


class _Carrier:
    """The way back of one request; see `transports.exchange.Carrier`."""

    __slots__ = ("_done", "_host", "held", "max_body_bytes", "recorder")

    def __init__(self, host: Embedded, done: asyncio.Future[Answered]) -> None:
        self._host = host
        self._done = done
        self.held = host.held
        self.max_body_bytes = host.limits.max_body_bytes
        self.recorder: Recorder | None = None

    def write_answer(
        self, exchange: Exchange, body: bytes, status: int, content_type: bytes, extra: bytes
    ) -> None:
        if exchange.answered:
            return
        exchange.answered = True
        exchange.tell(self._host, 499 if self._done.done() else status)
        if self._done.done():  # the client went away
            return
        lines = [b"Content-Type: " + content_type, *extra.split(b"\r\n")]
        named = (line.decode("latin-1").partition(": ") for line in lines if line)
        headers = tuple((name.lower(), value) for name, _, value in named)
        self._done.set_result(Answered(status, headers, body))

    def told(self, error: BasculeError) -> tuple[int, bytes, bytes]:
        return told(error)

    def run(self, exchange: Exchange, go_on: Callable[[], None]) -> None:
        answering(exchange, go_on)


def answering(exchange: Exchange, handle: Callable[[], None]) -> None:
    """Handle a request; an error is its answer, and a bug is logged and answered 500."""
    try:
        handle()
    except BasculeError as error:
        exchange.fail(error)
    except Exception:
        log.exception("a request failed%s", exchange.named())
        exchange.fail(internal_error())
