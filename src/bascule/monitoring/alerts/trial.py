"""Sends a notification for trial, and gives out the files for Prometheus and Grafana."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files

from bascule.core import BasculeError
from bascule.monitoring.alerts.advancing import Alert
from bascule.monitoring.alerts.findings import Finding
from bascule.monitoring.alerts.routing import Notification, shown
from bascule.monitoring.alerts.sinks import Receiver, open_sink


def try_receivers(receivers: Sequence[Receiver], now: datetime) -> dict[str, str]:
    """Send each receiver an alert of severity info; by name the problem, empty where it took it."""
    said = "this is a trial of the receiver; nothing is wrong"
    finding = Finding("trial", "trial", "", "info", said, None, None, now)
    alert = shown(Alert(finding, "firing", now))
    found = {}
    for receiver in receivers:
        made = Notification(secrets.token_hex(12), receiver.name, "firing", "", now, (alert,))
        try:
            open_sink(receiver).send(made)
            found[receiver.name] = ""
        except BasculeError as error:
            found[receiver.name] = error.message
    return found


def shipped(name: str) -> str:
    """The text of a file of the folder `prometheus`."""
    folder = files("bascule.monitoring.alerts") / "prometheus"
    return (folder / name).read_text(encoding="utf-8")
