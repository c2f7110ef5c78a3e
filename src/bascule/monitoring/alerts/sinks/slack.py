"""Slack, and compatible webhooks such as Mattermost's: `{"text", "blocks"}`."""

from __future__ import annotations

import json

from bascule.monitoring.alerts.routing import Notification
from bascule.monitoring.alerts.sinks.posting import post
from bascule.monitoring.alerts.sinks.receivers import Sink
from bascule.monitoring.alerts.sinks.words import lines, title

_MAX_ALERTS = 20
_MAX_TEXT = 2_900
"""Slack takes 50 blocks, and 3,000 characters in each."""


class Slack(Sink):
    """See `Sink`."""

    def send(self, notification: Notification) -> None:
        shown = notification.alerts[:_MAX_ALERTS]
        texts = [f"*{_escaped(title(notification))}*"]
        texts += [_escaped("\n".join(lines(alert)))[:_MAX_TEXT] for alert in shown]
        if more := len(notification.alerts) - len(shown):
            texts.append(f"{more} more: bascule alerts list")
        blocks = [{"type": "section", "text": {"type": "mrkdwn", "text": text}} for text in texts]
        said = {"text": _escaped(title(notification)), "blocks": blocks}
        post(self._receiver, "", json.dumps(said).encode(), {"Idempotency-Key": notification.id})


def _escaped(text: str) -> str:
    """Slack's three control characters; else a column's name could mention a channel."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
