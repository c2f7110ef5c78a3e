"""A notification in words, for every sink that people read."""

from __future__ import annotations

from typing import Any

from bascule.monitoring.alerts.routing import Notification

_KINDS = {"firing": "", "repeated": " (repeated)", "resolved": " resolved"}


def title(notification: Notification) -> str:
    """One line: how many alerts of what."""
    of = notification.model or "the server"
    count = len(notification.alerts)
    alerts = "alert" if count == 1 else "alerts"
    return f"{of}: {count} {alerts}{_KINDS[notification.kind]}"


def lines(alert: dict[str, Any]) -> list[str]:
    """The sentence of an alert, then where its evidence is."""
    said = [f"[{alert['severity']}] {alert['sentence']}"]
    if alert["evidence"]:
        said.append(f"evidence: {alert['evidence']}")
    if alert["link"]:
        said.append(alert["link"])
    if alert["owner"]:
        said.append(f"owner: {alert['owner']}")
    return [*said, f"acknowledge: bascule alerts ack {alert['id']} --why REASON"]
