"""The part of the control API that shows what a server has done until now, and does.

A reader asks twice and takes the difference: `telemetry.load`.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Annotated

import psutil
from fastapi import FastAPI
from pydantic import BaseModel, Field

from bascule.control.link import ServerLink
from bascule.core import VERSION
from bascule.serving.telemetry import BUCKETS_S
from bascule.serving.workers import ModelState, WorkerStatus


class VersionLookView(BaseModel):
    """One version that is or was served; the first has no name, and is all that is no inference."""

    model: str
    version: str
    is_served: Annotated[bool, Field(description="False for one that was unloaded")]
    requests: int
    errors: Annotated[int, Field(description="Answers with a status of 400 or more")]
    rows: int
    buckets: Annotated[
        list[int], Field(description="Answers by duration; the last is above all bounds")
    ]
    open_calls: Annotated[int, Field(description="How many calls wait or run")]


class WorkerLookView(BaseModel):
    """One worker, with the processes of its models."""

    worker: int
    pid: int
    alive: bool
    restarts: Annotated[int, Field(description="How often it was started again")]
    cpu_s: Annotated[float, Field(description="Processor time since it was started")]
    rss_bytes: Annotated[int, Field(description="Memory that it holds")]
    models_bytes: Annotated[int, Field(description="What the models in its memory take of it")]


class LookView(BaseModel):
    """A server at one moment, and what it has counted until then."""

    version: str
    at_s: Annotated[float, Field(description="By the server's own clock; for differences")]
    bounds_s: Annotated[list[float], Field(description="Upper bounds of the buckets")]
    versions: list[VersionLookView]
    workers: list[WorkerLookView]


def add_load(app: FastAPI, server: ServerLink) -> None:
    """Add it to `app`."""

    @app.get("/api/v1/server/load", tags=["server"])
    def load() -> LookView:
        """What was counted until now, and what is under way; two of these tell the rates."""
        states = server.models()
        served = {(service.model, service.version) for service in server.services}
        at_s, totals = time.monotonic(), server.totals()
        versions = [
            VersionLookView(
                model=label.model,
                version=label.version,
                is_served=not label.model or (label.model, label.version) in served,
                requests=total.requests,
                errors=sum(n for status, n in total.by_status.items() if status >= 400),
                rows=total.rows,
                buckets=list(total.buckets),
                open_calls=sum(
                    one.open_calls
                    for one in states
                    if (one.model, one.version) == (label.model, label.version)
                ),
            )
            for label, total in zip(server.labels, totals, strict=False)
        ]
        return LookView(
            version=VERSION,
            at_s=at_s,
            bounds_s=list(BUCKETS_S),
            versions=versions,
            workers=[_look_at(status, states) for status in server.statuses()],
        )


def _look_at(status: WorkerStatus, states: list[ModelState]) -> WorkerLookView:
    cpu_s, rss_bytes = 0.0, 0
    with suppress(psutil.Error):  # it has died, and is being started again
        worker = psutil.Process(status.pid)
        for process in (worker, *worker.children(recursive=True)):
            with suppress(psutil.Error):
                times = process.cpu_times()
                cpu_s += times.user + times.system
                rss_bytes += process.memory_info().rss
    return WorkerLookView(
        worker=status.worker,
        pid=status.pid,
        alive=status.alive,
        restarts=status.restarts,
        cpu_s=cpu_s,
        rss_bytes=rss_bytes,
        models_bytes=sum(
            one.size_bytes for one in states if one.worker == status.worker and one.is_loaded
        ),
    )
