"""The counters of the server as the watcher of alerts reads them."""

from __future__ import annotations

import time

from bascule.control.link import ServerLink
from bascule.monitoring.alerts.sources import ServerFacts, VersionCount
from bascule.serving.telemetry import BUCKETS_S


def facts_of(server: ServerLink) -> ServerFacts:
    """What was counted until now. Raises `Unavailable` where the supervisor does not answer."""
    return ServerFacts(
        at_s=time.monotonic(),
        versions={
            (label.model, label.version): VersionCount(total.by_status, total.buckets)
            for label, total in zip(server.labels, server.totals(), strict=False)
            if label.model
        },
        bounds_s=BUCKETS_S,
        restarts=sum(status.restarts for status in server.statuses()),
        unserved=dict(server.unserved),
    )
