"""The part of the control API that shows what a server has done until now, and does.

A reader asks twice and takes the difference: `telemetry.load`.
"""

from __future__ import annotations

import time
from contextlib import suppress

import psutil
from fastapi import FastAPI

from bascule.control import operations as of_server
from bascule.control.api.rights import serves
from bascule.control.link import ServerLink
from bascule.core import VERSION
from bascule.serving.telemetry import BUCKETS_S, Look, VersionLook, WorkerLook
from bascule.serving.workers import ModelState, WorkerStatus


def add_load(app: FastAPI, server: ServerLink) -> None:
    """Add it to `app`."""

    @serves(app, of_server.LOAD)
    def load() -> Look:
        """What was counted until now, and what is under way; two of these tell the rates."""
        states = server.models()
        served = {(service.model, service.version) for service in server.services}
        at_s, totals = time.monotonic(), server.totals()
        versions = [
            VersionLook(
                model=label.model,
                version=label.version,
                is_served=not label.model or (label.model, label.version) in served,
                requests=total.requests,
                errors=sum(n for status, n in total.by_status.items() if status >= 400),
                rows=total.rows,
                buckets=total.buckets,
                open_calls=sum(
                    one.open_calls
                    for one in states
                    if (one.model, one.version) == (label.model, label.version)
                ),
            )
            for label, total in zip(server.labels, totals, strict=False)
        ]
        return Look(
            version=VERSION,
            at_s=at_s,
            bounds_s=BUCKETS_S,
            versions=tuple(versions),
            workers=tuple(_look_at(status, states) for status in server.statuses()),
        )


def _look_at(status: WorkerStatus, states: list[ModelState]) -> WorkerLook:
    cpu_s, rss_bytes = 0.0, 0
    with suppress(psutil.Error):  # it has died, and is being started again
        worker = psutil.Process(status.pid)
        for process in (worker, *worker.children(recursive=True)):
            with suppress(psutil.Error):
                times = process.cpu_times()
                cpu_s += times.user + times.system
                rss_bytes += process.memory_info().rss
    return WorkerLook(
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
