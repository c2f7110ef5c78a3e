"""The routes about models in production: overview, drift, performance.

Each is measured in a process of its own, one at a time: it takes seconds of a processor.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI, Query

from bascule.core import NotFound, Overloaded, check_name

Measure = Callable[[str, str, float], dict[str, Any]]
"""`monitor`, `drift` or `performance`, the model, and how far back in seconds; the report."""

_TAGS = "monitoring"
_DAY_S = 86_400.0
_Days = Annotated[float, Query(gt=0, le=400, description="How far back")]


def add_monitoring(app: FastAPI, measure: Measure | None) -> None:
    """Add the routes to `app`."""
    measuring = threading.Lock()

    def report(what: str, model: str, days: float) -> dict[str, Any]:
        if measure is None:
            raise NotFound("this server has no ledger", hint="run bascule control, or a server")
        if not measuring.acquire(blocking=False):
            raise Overloaded(
                "another report is being measured", hint="retry later", retry_after_s=5
            )
        try:
            return measure(what, check_name(model), days * _DAY_S)
        finally:
            measuring.release()

    @app.get("/api/v1/models/{model}/monitor", tags=[_TAGS])
    def monitor(model: str, days: _Days = 7.0) -> dict[str, Any]:
        """Health, drift, truths and the ledger, as `bascule monitor --json` has them."""
        return report("monitor", model, days)

    @app.get("/api/v1/models/{model}/drift", tags=[_TAGS])
    def drift(model: str, days: _Days = 30.0) -> dict[str, Any]:
        """Drift of production against the baseline, as `bascule drift --json` has it."""
        return report("drift", model, days)

    @app.get("/api/v1/models/{model}/performance", tags=[_TAGS])
    def performance(model: str, days: _Days = 30.0) -> dict[str, Any]:
        """Performance on the truths that came, as `bascule performance --json` has it."""
        return report("performance", model, days)
