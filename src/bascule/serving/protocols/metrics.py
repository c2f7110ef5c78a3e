"""The counters of all workers in the Prometheus text format, beside every choice of protocols."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from bascule.core import BasculeError
from bascule.serving.execution import Predictor
from bascule.serving.protocols.data_plane import DataPlane
from bascule.serving.telemetry import Counters, prometheus_text
from bascule.serving.transports import About, Exchange, Route

_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """`GET /metrics`; see `data_plane.ProtocolAdapter`."""

    name = "metrics"

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    def server_routes(self, plane: DataPlane) -> Iterator[Route]:  # noqa: ARG002 -- a protocol's signature
        """One path; see `chosen.SERVER_PATHS`."""
        about = partial(About, {"type": "string"}, content_type="text/plain")
        yield Route(b"GET", b"/metrics", self._answer, "metrics", about=about)

    def model_routes(self, plane: DataPlane, model: Predictor) -> Iterator[Route]:  # noqa: ARG002
        """None: one page has the counters of all models."""
        yield from ()

    def not_found(self, plane: DataPlane, path: bytes) -> BasculeError | None:  # noqa: ARG002
        """Nothing is below its path."""
        return None

    def _answer(self, exchange: Exchange) -> None:
        counters = self._counters
        text = prometheus_text(
            counters.labels(), counters.totals(), counters.pulse(), counters.arms.totals()
        )
        exchange.answer(text.encode(), content_type=_TYPE)
