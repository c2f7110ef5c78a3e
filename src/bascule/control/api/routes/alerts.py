"""The routes about alerts: what is wrong, who works on it, and what is silenced."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Request
from pydantic import BaseModel, Field

from bascule.control.api.conventions import Moment, Page, Paged, Taken
from bascule.control.api.rights import Authorise, caller_of, serves
from bascule.core import NotFound
from bascule.monitoring.alerts import Acknowledgement, Silence, operations as of_alerts, shown
from bascule.security import ANY

if TYPE_CHECKING:
    from bascule.monitoring.alerts import Alert, AlertStore

_Why = Annotated[str, Field(min_length=1, max_length=1_000)]


class AlertView(BaseModel):
    """One alert."""

    id: str
    state: Annotated[str, Field(description="pending, firing or resolved")]
    since: datetime
    source: Annotated[
        str, Field(description="health, ledger, drift, performance, fairness, queries and so on")
    ]
    kind: str
    model: Annotated[str, Field(description="Empty for the server itself")]
    version: str
    column: str
    place: Annotated[str, Field(description="The host; empty for what all hosts see")]
    severity: Annotated[str, Field(description="info, warning or critical")]
    sentence: str
    value: float | None
    limit: float | None
    evidence: Annotated[str, Field(description="The command that shows more")]
    seen_at: datetime
    acknowledged: Acknowledgement | None

    @classmethod
    def of(cls, alert: Alert) -> AlertView:
        return cls.model_validate(shown(alert))


class NewAcknowledgement(Taken):
    """Why an alert need not be repeated."""

    why: _Why


class NewSilence(Taken):
    """What to keep back, until when, and why."""

    model: Annotated[str, Field(min_length=1, max_length=128)] = "*"
    source: Annotated[str, Field(max_length=32)] = ""
    alert: Annotated[str, Field(max_length=32)] = ""
    until: Moment
    why: _Why


def add_alerts(app: FastAPI, open_alerts: Callable[[], AlertStore], authorise: Authorise) -> None:
    """Add the routes to `app`."""

    @serves(app, of_alerts.ALERTS)
    def alerts(paged: Paged, model: str | None = None, resolved: bool = False) -> Page[AlertView]:
        """The alerts by id: those that are not resolved, or all."""
        found = sorted(open_alerts().alerts(resolved=resolved, model=model), key=lambda one: one.id)
        return paged.page(found, lambda one: one.id, AlertView.of)

    @serves(app, of_alerts.ALERT)
    def one(alert: str) -> AlertView:
        """One alert."""
        return AlertView.of(open_alerts().find(alert))

    @serves(app, of_alerts.ACKNOWLEDGE)
    def acknowledge(alert: str, said: NewAcknowledgement, request: Request) -> AlertView:
        """Note that a person works on it: it is not repeated."""
        authorise(request, "write", open_alerts().find(alert).finding.model or ANY)
        by = caller_of(request).user
        made = open_alerts().acknowledge(alert, by=by, why=said.why, now=datetime.now(UTC))
        return AlertView.of(made)

    @serves(app, of_alerts.SILENCES)
    def silences(paged: Paged) -> Page[Silence]:
        """The silences that hold, by id."""
        found = sorted(open_alerts().silences(datetime.now(UTC)), key=lambda one: one.id)
        return paged.page(found, lambda one: one.id)

    @serves(app, of_alerts.SILENCE)
    def silence(wanted: NewSilence, request: Request) -> Silence:
        """Keep notifications back until a time."""
        authorise(request, "write", _model_of(wanted.model))
        said: dict[str, Any] = wanted.model_dump()
        by = caller_of(request).user
        return open_alerts().silence(**said, by=by, now=datetime.now(UTC))

    @serves(app, of_alerts.END_SILENCE)
    def end(silence: str, request: Request) -> Silence:
        """End a silence now."""
        now = datetime.now(UTC)
        found = next((one for one in open_alerts().silences(now) if one.id == silence), None)
        if found is None:
            raise NotFound(f"no silence has the id {silence!r}", hint="GET /api/v1/silences")
        authorise(request, "write", _model_of(found.model))
        return open_alerts().end_silence(silence, by=caller_of(request).user, now=now)


def _model_of(pattern: str) -> str:
    """A pattern may match any model."""
    return ANY if any(sign in pattern for sign in "*?[") else pattern
