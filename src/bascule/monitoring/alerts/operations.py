"""What the control API does with alerts and silences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any

from bascule.monitoring.alerts.advancing import Acknowledgement, Alert
from bascule.monitoring.alerts.findings import Finding
from bascule.monitoring.alerts.routing import Silence
from bascule.operations import Listing, Operation
from bascule.security import ANY


def _alert(said: Mapping[str, Any]) -> Alert:
    noted = said["acknowledged"]
    of = noted and Acknowledgement(noted["by"], noted["why"], datetime.fromisoformat(noted["at"]))
    names = {one.name for one in fields(Finding)} - {"at"}
    finding = Finding.from_json({"at": said["seen_at"], **{name: said[name] for name in names}})
    since = datetime.fromisoformat(said["since"])
    return Alert(finding, said["state"], since, acknowledgement=of)


ALERTS = Listing("GET alerts", "read", ANY, Alert, reads=_alert)
ALERT = Operation("GET alerts/{alert}", "read", ANY, Alert, reads=_alert)
# Of which model is known by the alert, or in the body: asked then.
ACKNOWLEDGE = Operation(
    "PUT alerts/{alert}/acknowledgement", "write", "", Alert, history="alert_acknowledged",
    reads=_alert,
)  # fmt: skip
SILENCES = Listing("GET silences", "read", ANY, Silence, "alerts")
SILENCE = Operation("POST silences", "write", "", Silence, "alerts", status=201, history="silenced")
END_SILENCE = Operation(
    "DELETE silences/{silence}", "write", "", Silence, "alerts", history="silence_ended"
)
