"""Deprecated versions that are still called shortly before their sunset, or after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from bascule.core import counted
from bascule.monitoring.alerts.findings import Finding, Observation, Severity, Source
from bascule.monitoring.ledger import CallerCount

if TYPE_CHECKING:
    from bascule.registry import Version

REMINDERS: Mapping[int, Severity] = {1: "critical", 7: "warning", 30: "info"}
"""So many days before the sunset, and fewer."""
CALLED_WITHIN = timedelta(days=7)

Callers = Callable[[str, str, datetime], Sequence[CallerCount] | None]
"""The callers of a model's version since a time; None where the ledger keeps no rows."""


class SunsetSource(Source):
    """Reminds of the sunset of versions that callers still ask."""

    name = "sunset"
    every_s = 300.0

    def __init__(
        self, deprecated: Callable[[], Mapping[str, Sequence[Version]]], callers: Callers
    ) -> None:
        """`deprecated` gives every model, with its versions in use that are deprecated."""
        self._deprecated = deprecated
        self._callers = callers

    def look(self, now: datetime) -> Sequence[Observation]:
        return [
            Observation(
                self.name, "", model,
                tuple(found for one in versions if (found := self._reminder(one, now))),
            )
            for model, versions in self._deprecated().items()
        ]  # fmt: skip

    def _reminder(self, version: Version, now: datetime) -> Finding | None:
        said = version.deprecated
        if said is None or said.sunset is None:
            return None
        days = (said.sunset - now) / timedelta(days=1)
        severity = next((one for limit, one in REMINDERS.items() if days <= limit), None)
        if severity is None:
            return None
        callers = self._callers(version.model, str(version.number), now - CALLED_WITHIN)
        if callers is not None and not callers:
            return None
        return Finding(
            "sunset", "deprecated_in_use", version.model, severity,
            f"{version} {_when(days)} ({said.terms}), and {callers_said(callers)}",
            days, 30, now, str(version.number), evidence=f"bascule show {version}",
        )  # fmt: skip


def _when(days: float) -> str:
    if days <= 0:
        return "has passed its sunset"
    return f"ends in {days:.0f} days" if days >= 2 else f"ends in {days * 24:.0f} hours"


def callers_said(callers: Sequence[CallerCount] | None) -> str:
    """The callers of a version, in words."""
    if callers is None:
        return "the ledger keeps no rows that could say who calls it"
    named = ", ".join(
        f"{one.caller or 'callers without a key'} ({counted(one.requests, 'request')})"
        for one in callers[:5]
    )
    more = f" and {len(callers) - 5} more" if len(callers) > 5 else ""
    return f"it is still called by {named}{more}" if callers else "nothing calls it any more"
