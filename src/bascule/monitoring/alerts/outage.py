"""The catalogue is away: said once in the log, and to receivers, which need no catalogue.

The alert of it is in memory alone: a process that starts meanwhile notifies again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import datetime

from bascule.core import Unavailable
from bascule.monitoring.alerts.advancing import Alert, Rules
from bascule.monitoring.alerts.findings import Finding
from bascule.monitoring.alerts.routing import Notification, Routing, notify

log = logging.getLogger(__name__)

_MAX_WAITING = 100


class Outage:
    """Whether the catalogue of one process is away, and who was notified. For several threads."""

    def __init__(
        self,
        place: str,
        rules: Rules,
        routing: Routing,
        send: Callable[[Notification], bool],
        note: Callable[[bool], None] = lambda _is_away: None,
    ) -> None:
        """Nothing is away yet.

        Args:
            place: The host, for the alert.
            rules: Those of the source `health` hold for the alert.
            routing: Its receivers.
            send: Sends a notification at once; whether the receiver has taken it.
            note: Is called when the catalogue goes away and when it is back.
        """
        self._place = place
        self._rules = rules
        self._routing = routing
        self._send = send
        self._note = note
        note(False)  # an earlier process may have died while it was away
        self._changing = threading.Lock()
        self._since: datetime | None = None
        self._why = ""
        self._alert: Alert | None = None
        self._waiting: list[Notification] = []

    def begin(self, error: Unavailable, now: datetime) -> None:
        with self._changing:
            if self._since is None:
                self._since, self._why = now, error.message
                self._note(True)
                log.warning("alerts: %s; alerts wait until it is back", error.message)

    def end(self, now: datetime) -> None:
        with self._changing:
            if self._since is not None:
                log.warning("alerts: the catalogue is back after %s", now - self._since)
                self._since = None
                self._note(False)

    def notify(self, now: datetime, receivers: Collection[str] | None = None) -> None:
        """Send these receivers, or all, what is due; what is not taken is sent again next time."""
        with self._changing:
            if (alert := self._alert_at(now)) is not None:
                repeat_s = self._rules.repeat_s
                told, notifications = notify([alert], (), self._routing, {}, repeat_s, now)
                self._alert = told[0] if told else alert
                self._waiting = [*self._waiting, *notifications][-_MAX_WAITING:]
            theirs = [
                waiting for waiting in self._waiting
                if receivers is None or waiting.receiver in receivers
            ]  # fmt: skip
        # Without the lock, which others need while a receiver is slow; each has one thread.
        taken = {waiting.id for waiting in theirs if self._send(waiting)}
        with self._changing:
            self._waiting = [waiting for waiting in self._waiting if waiting.id not in taken]

    def _alert_at(self, now: datetime) -> Alert | None:
        since, alert = self._since, self._alert
        is_firing = alert is not None and alert.state == "firing"
        if since is None:
            return replace(alert, state="resolved", since=now) if alert and is_firing else None
        away_s, limit_s = (now - since).total_seconds(), self._rules.for_s.get("health", 0.0)
        if is_firing or away_s < limit_s:
            return alert if is_firing else None
        sentence = f"{self._place} has no catalogue since {since:%H:%M:%S} UTC: {self._why}"
        found = Finding(
            "health", "catalogue_away", "", "critical", sentence, away_s, limit_s, now,
            place=self._place, evidence="bascule history",
        )  # fmt: skip
        return Alert(found, "firing", since)
