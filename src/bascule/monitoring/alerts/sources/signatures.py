"""Signatures of the repository of devices that end soon: devices accept nothing more after that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from bascule.monitoring.alerts.findings import Finding, Observation, Source

_CRITICAL_DAYS = 7


class SignatureSource(Source):
    """Looks at the roles of the repository of devices."""

    name = "signatures"
    every_s = 300.0

    def __init__(self, ending: Callable[[], Mapping[str, datetime]]) -> None:
        """`ending`: see `TufRepository.ending`."""
        self._ending = ending

    def look(self, now: datetime) -> Sequence[Observation]:
        ending = self._ending().items()
        return [
            Observation(self.name, "", "", tuple(_finding(role, end, now) for role, end in ending))
        ]


def _finding(role: str, end: datetime, now: datetime) -> Finding:
    days = (end - now) / timedelta(days=1)
    next_step = "bascule edge refresh" if role != "root" else "bascule edge rotate root"
    return Finding(
        "signatures", "signature_ends", "", "critical" if days < _CRITICAL_DAYS else "warning",
        f"the signature of {role} ends at {end:%Y-%m-%d %H:%M} UTC; devices accept nothing more "
        f"after that: {next_step}",
        days, None, now, column=role, evidence=next_step,
    )  # fmt: skip
