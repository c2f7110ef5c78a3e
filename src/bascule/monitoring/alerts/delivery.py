"""Sends what is in the outbox, until each receiver has taken it.

A notification is marked as sent after the receiver answered. A process that dies in between leaves
it to the next one, which sends it again under the same id; so a receiver can drop the second.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta

from bascule.catalogue import Lease
from bascule.core import BasculeError, NotFound
from bascule.monitoring.alerts.routing import Notification
from bascule.monitoring.alerts.sinks import Receiver, Sink, open_sink
from bascule.monitoring.alerts.store import AlertStore, Waiting

log = logging.getLogger(__name__)

GIVE_UP_AFTER = timedelta(days=3)
_FIRST_S, _MOST_S = 5.0, 600.0


class Courier:
    """Delivers the notifications of a store."""

    def __init__(
        self,
        store: AlertStore,
        receivers: Sequence[Receiver],
        clock: Callable[[], datetime],
        *,
        first_s: float = _FIRST_S,
    ) -> None:
        """Raises `Invalid` where a receiver lacks a setting; `first_s` is the first pause."""
        self._store = store
        self._clock = clock
        self._first_s = first_s
        self._receivers = {one.name: one for one in receivers}
        self._sinks: Mapping[str, Sink] = {one.name: open_sink(one) for one in receivers}

    def deliver(self, lease: Lease, receivers: Collection[str] | None = None) -> None:
        """Send what is due to these receivers, or to all, one after the other.

        Of no receivers, give up what the settings have no receiver for. The watcher has a thread
        for each receiver, so that a slow one delays no other.
        """
        queues: dict[str, list[Waiting]] = {}
        try:
            for waiting in self._store.due(self._clock()):
                queues.setdefault(waiting.notification.receiver, []).append(waiting)
        except NotFound:
            return  # there is no catalogue yet
        for name, queue in queues.items():
            is_removed = name not in self._receivers
            if receivers is None or name in receivers or (is_removed and not receivers):
                self._send_all(lease, queue)

    def send_now(self, notification: Notification) -> bool:
        """Try once to send what is in no outbox; whether it needs no further attempt."""
        sink = self._sinks.get(notification.receiver)
        try:
            if sink is not None:
                sink.send(notification)
        except BasculeError as error:
            log.warning("alerts: %s", error.message)
            return False
        return True

    def _send_all(self, lease: Lease, queue: Sequence[Waiting]) -> None:
        """Send the notifications of one receiver in order, up to the first that fails."""
        for waiting in queue:
            if not self._send(lease, waiting):
                return

    def _send(self, lease: Lease, waiting: Waiting) -> bool:
        """Whether it needs no further attempt."""
        notification, now = waiting.notification, self._clock()
        sink = self._sinks.get(notification.receiver)
        if sink is None:
            self._store.failed(lease, notification, "the settings have no such receiver", now)
            return True
        if lease.remaining_s <= self._receivers[notification.receiver].timeout_s:
            return False  # another process may begin to send before this attempt ends
        try:
            sink.send(notification)
        except BasculeError as error:
            return self._put_off(lease, waiting, error, now)
        self._store.sent(lease, notification, self._clock())
        return True

    def _put_off(self, lease: Lease, waiting: Waiting, error: BasculeError, now: datetime) -> bool:
        if now - waiting.notification.at >= GIVE_UP_AFTER:
            log.error("alerts: given up after %s: %s", GIVE_UP_AFTER, error)
            self._store.failed(lease, waiting.notification, error.message, now)
            return True
        asked_s = float(error.facts.get("retry_after_s") or 0.0)  # type: ignore[arg-type]
        wait_s = max(asked_s, pause_s(waiting.attempts, self._first_s))
        log.warning("alerts: %s; tried again in %.0f s", error.message, wait_s)
        until = self._clock() + timedelta(seconds=wait_s)
        self._store.postpone(lease, waiting.notification, error.message, until)
        return False


def pause_s(attempts: int, first_s: float = _FIRST_S) -> float:
    """The pause after so many failed attempts and one more: doubled each time, with jitter."""
    return min(_MOST_S, first_s * 2.0 ** min(attempts, 20)) * random.uniform(0.8, 1.2)
