"""The alerts over the control API of a server; see `store.AlertStore` for the methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any

import msgspec

from bascule.monitoring.alerts.advancing import Acknowledgement, Alert
from bascule.monitoring.alerts.findings import Finding
from bascule.monitoring.alerts.routing import Silence
from bascule_client.control import ControlClient, path_of


class RemoteAlerts:
    """What commands do with alerts, at a server."""

    def __init__(self, client: ControlClient) -> None:
        self._client = client

    def alerts(self, *, resolved: bool = False, model: str | None = None) -> list[Alert]:
        found = self._client.items(path_of("alerts"), resolved=str(resolved).lower(), model=model)
        return sorted(map(_alert, found), key=lambda one: one.since, reverse=True)

    def find(self, alert: str) -> Alert:
        return _alert(self._client.ask("GET", path_of("alerts", alert)))

    def acknowledge(self, alert: str, *, by: str, why: str, now: datetime) -> Alert:  # noqa: ARG002
        path = path_of("alerts", alert, "acknowledgement")
        return _alert(self._client.ask("PUT", path, {"why": why}, user=by))

    def silence(
        self,
        *,
        by: str,
        why: str,
        until: datetime,
        now: datetime,  # noqa: ARG002 -- the server's clock counts
        model: str = "*",
        source: str = "",
        alert: str = "",
    ) -> Silence:
        matches = {"model": model, "source": source, "alert": alert}
        wanted = {**matches, "until": until.isoformat(), "why": why}
        return _silence(self._client.ask("POST", path_of("silences"), wanted, user=by))

    def end_silence(self, silence: str, *, by: str, now: datetime) -> Silence:  # noqa: ARG002
        return _silence(self._client.ask("DELETE", path_of("silences", silence), user=by))

    def silences(self, now: datetime) -> list[Silence]:  # noqa: ARG002
        return [_silence(one) for one in self._client.items(path_of("silences"))]


def _alert(said: Mapping[str, Any]) -> Alert:
    noted = said["acknowledged"]
    of = noted and Acknowledgement(noted["by"], noted["why"], datetime.fromisoformat(noted["at"]))
    names = {one.name for one in fields(Finding)} - {"at"}
    finding = Finding.from_json({"at": said["seen_at"], **{name: said[name] for name in names}})
    since = datetime.fromisoformat(said["since"])
    return Alert(finding, said["state"], since, acknowledgement=of)


def _silence(said: Mapping[str, Any]) -> Silence:
    return msgspec.convert(said, Silence)
