"""Receivers of alerts that do not take them: the others are notified."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime

from bascule.core import NotFound
from bascule.monitoring.alerts.findings import RECEIVERS, Finding, Observation, Source


class ReceiverSource(Source):
    """Looks at the last delivery to each receiver."""

    name = RECEIVERS
    every_s = 0.0

    def __init__(
        self,
        failing: Callable[[], Mapping[str, tuple[datetime, int, str]]],
        receivers: Collection[str],
    ) -> None:
        """`failing`: see `AlertStore.failing`; `receivers` are those of the settings."""
        self._failing, self._receivers = failing, receivers

    def look(self, now: datetime) -> Sequence[Observation]:
        try:
            failing = self._failing()
        except NotFound:  # there is no catalogue yet
            failing = {}
        findings = tuple(
            Finding(
                self.name, "receiver_away", "", "critical",
                f"the receiver {receiver} has not taken the notification of "
                f"{at:%Y-%m-%d %H:%M} UTC in {attempts} attempts: {problem}",
                attempts, None, now, column=receiver, evidence="bascule alerts list",
            )
            for receiver, (at, attempts, problem) in failing.items()
            if receiver in self._receivers
        )  # fmt: skip
        return [Observation(self.name, "", "", findings)]
