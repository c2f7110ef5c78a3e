"""The engine and the protocols of `bascule serve` in the replicas of Ray Serve.

Imported on Ray alone: the file of `bascule ship ray` names `application`. Sockets, callers,
replicas and metrics are Ray's.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bascule.app import limits_of, open_registry, protocols_of
from bascule.core import Untrusted
from bascule.security import Action
from bascule.serving import ModelSpec
from bascule.serving.execution import BufferBudget, Predictor
from bascule.serving.protocols import DataPlane, open_protocols
from bascule.serving.telemetry import Counters, MetricLabels, Recorder, request_id_of
from bascule.serving.transports import (
    Exchange,
    Head,
    HttpError,
    PartWire,
    Routes,
    not_allowed,
    told,
)
from bascule.serving.workers import LoadedModels
from bascule.settings import load_settings

log = logging.getLogger(__name__)


def application(args: Mapping[str, str]) -> Any:
    """The application of one version. It loads nothing here.

    Args:
        args: `version`, as MODEL/NUMBER, and `digest`, which its bundle must have.
    """
    from ray import serve

    return serve.deployment(Replica).bind(args["version"], args["digest"])


class Replica:
    """One replica of one version. Ray makes it and calls it on one event loop."""

    def __init__(self, reference: str, digest: str) -> None:
        """Load the version from the registry that the settings of this node name.

        Raises:
            NotFound: There is no such version.
            Untrusted: Its bundle has another digest, or no required key signed it.
        """
        settings = load_settings()
        registry = open_registry(settings)
        version = registry.resolve(reference)
        if version.digest != digest:
            raise Untrusted(
                f"{reference} has the digest {version.digest}, and the application names {digest}",
                hint="render the application again: bascule ship ray",
            )
        spec = ModelSpec(version.model, str(version.number), registry.path(version))
        limits = limits_of(settings)
        counters = Counters(Path(f"/dev/fd/{os.memfd_create('bascule-counters')}"), workers=1)
        counters.name(MetricLabels(spec.model, spec.version))
        self.held = BufferBudget(limits.max_held_bytes)
        self.max_body_bytes = limits.max_body_bytes
        self._other_series = counters.series(0)
        self._plane = DataPlane(open_protocols(protocols_of(settings.serving)), lambda: True)
        self._routes: Routes = {}
        loop = asyncio.get_running_loop()
        self._models = LoadedModels(
            counters, 0, limits, loop, self._serve, policies={}, held=self.held
        )
        self._models.start((spec,))
        self._ticking = loop.create_task(self._tick())

    def _serve(self, models: Iterable[Predictor]) -> None:
        self._routes = self._plane.serve(models)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self._models.tick()

    def check_health(self) -> None:
        """Have Ray replace a replica whose model is stuck."""
        if self._models.is_stuck:
            raise RuntimeError("a run of the model has not ended in time")

    async def __call__(self, request: Any) -> Any:
        """Answer a request of Ray's proxy, one of Starlette, as a worker does."""
        from starlette.responses import Response

        connection = _Connection(self)
        exchange = Exchange(connection, _head_of(request), await request.body(), self._other_series)
        exchange.run(partial(self._dispatch, exchange))
        try:
            status, body, head = await connection.answered
        except asyncio.CancelledError:  # the client went away
            if exchange.on_gone is not None:
                exchange.on_gone()
            raise
        lines = (line.partition(": ") for line in head.decode("latin-1").split("\r\n") if line)
        return Response(body, status, {name: value for name, _, value in lines})

    def _dispatch(self, exchange: Exchange) -> None:
        method, path = exchange.head.method, exchange.head.target
        methods = self._routes.get(path)
        if methods is None:
            raise self._plane.not_found(path)
        if method not in methods:
            raise not_allowed(method, methods)
        methods[method].handle(exchange)


def _head_of(request: Any) -> Head:
    """The head of a request, with the path below that of the application."""
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    headers = dict(request.headers.raw)
    return Head(
        request.method.encode(), path.encode(), headers, keep_alive=True,
        request_id=request_id_of(headers.get(b"x-request-id", b"")),
    )  # fmt: skip


class _Connection:
    """What one exchange is answered through; see `transports.exchange.Carrier`."""

    recorder: Recorder | None = None
    told = staticmethod(told)
    address = ""

    def __init__(self, replica: Replica) -> None:
        self.held = replica.held
        self.max_body_bytes = replica.max_body_bytes
        self.answered = asyncio.get_running_loop().create_future()

    def write_answer(
        self, exchange: Exchange, body: bytes, status: int, content_type: bytes, extra: bytes
    ) -> None:
        if not self.answered.done():
            exchange.answered = True
            self.answered.set_result((status, body, b"Content-Type: %b\r\n" % content_type + extra))

    def allow(self, exchange: Exchange, action: Action, model: str) -> None:
        """Anybody may: Ray's proxy knows the callers."""

    def wire_of(self, exchange: Exchange) -> PartWire:  # noqa: ARG002
        raise HttpError("answers in parts are not given on Ray Serve", status=501)
