"""Prometheus' Alertmanager: `POST /api/v2/alerts`. It groups and repeats by its own rules.

An alert is sent with an end a little after the next repetition, so that one whose sender is gone
ends by itself.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from bascule.monitoring.alerts.routing import Notification
from bascule.monitoring.alerts.sinks.posting import post
from bascule.monitoring.alerts.sinks.receivers import Sink

_LABELS = ("source", "model", "version", "column", "place", "severity", "owner")


class Alertmanager(Sink):
    """See `Sink`."""

    def send(self, notification: Notification) -> None:
        said = [_alert(one, notification) for one in notification.alerts]
        post(self._receiver, "/api/v2/alerts", json.dumps(said).encode(), {})


def _alert(alert: dict[str, Any], notification: Notification) -> dict[str, Any]:
    labels = {name: alert[name] for name in _LABELS if alert[name]}
    since = datetime.fromisoformat(alert["since"])
    made = {
        "labels": {"alertname": f"bascule_{alert['kind']}", "alert": alert["id"], **labels},
        "annotations": {"summary": alert["sentence"], "evidence": alert["evidence"]},
        "startsAt": alert["since"],
        "endsAt": (notification.at + timedelta(days=2)).isoformat(),
    }
    if alert["link"]:
        made["generatorURL"] = alert["link"]
    if notification.kind == "resolved":  # `since` is then the end
        made |= {"startsAt": (since - timedelta(seconds=1)).isoformat(), "endsAt": alert["since"]}
    return made
