"""The alerts over the control API of a server; see `store.AlertStore` for the methods."""

from __future__ import annotations

from datetime import datetime

from bascule.monitoring.alerts import operations
from bascule.monitoring.alerts.advancing import Alert
from bascule.monitoring.alerts.routing import Silence
from bascule.operations import Remote


class RemoteAlerts(Remote):
    """What commands do with alerts, at a server, whose clock counts."""

    def alerts(self, *, resolved: bool = False, model: str | None = None) -> list[Alert]:
        found = self.items(operations.ALERTS, resolved=str(resolved).lower(), model=model)
        return sorted(found, key=lambda one: one.since, reverse=True)

    def find(self, alert: str) -> Alert:
        return self.ask(operations.ALERT, alert=alert)

    def acknowledge(self, alert: str, *, by: str, why: str, now: datetime) -> Alert:  # noqa: ARG002
        return self.ask(operations.ACKNOWLEDGE, {"why": why}, by=by, alert=alert)

    def silence(
        self, *, by: str, why: str, until: datetime, now: datetime,  # noqa: ARG002
        model: str = "*", source: str = "", alert: str = "",
    ) -> Silence:  # fmt: skip
        matches = {"model": model, "source": source, "alert": alert}
        return self.ask(operations.SILENCE, {**matches, "until": until, "why": why}, by=by)

    def end_silence(self, silence: str, *, by: str, now: datetime) -> Silence:  # noqa: ARG002
        return self.ask(operations.END_SILENCE, by=by, silence=silence)

    def silences(self, now: datetime) -> list[Silence]:  # noqa: ARG002
        return self.items(operations.SILENCES)
