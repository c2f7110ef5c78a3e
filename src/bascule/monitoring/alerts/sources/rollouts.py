"""Rollouts that cannot go on: a version that a host cannot load, or a decision that fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from bascule.monitoring.alerts.findings import Finding, Observation, Source


class RolloutSource(Source):
    """Looks at the latest look of each rollout under way."""

    name = "rollouts"
    every_s = 0.0  # at each round: a rollout may be given up a minute after its first trouble

    def __init__(self, troubles: Callable[[], Mapping[str, Sequence[tuple[str, str]]]]) -> None:
        """`troubles`: see `RolloutStore.troubles`."""
        self._troubles = troubles

    def look(self, now: datetime) -> Sequence[Observation]:
        return [
            Observation(
                self.name, "", endpoint,
                tuple(
                    Finding(
                        self.name, "rollout_in_trouble", endpoint, "critical",
                        f"rollout {rollout} of {endpoint} cannot go on: {trouble}", None, None,
                        now, column=rollout, evidence=f"bascule rollout status {rollout}",
                    )
                    for rollout, trouble in troubles
                ),
            )
            for endpoint, troubles in self._troubles().items()
        ]  # fmt: skip
