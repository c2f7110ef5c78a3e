"""The routes about alerts: what is wrong, who works on it, and what is silenced."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Request
from pydantic import BaseModel, Field

from bascule.control.api.conventions import Moment, Page, Paged
from bascule.control.api.rights import Authorise, caller_of
from bascule.core import NotFound
from bascule.monitoring.alerts import shown
from bascule.security import ANY

if TYPE_CHECKING:
    from bascule.monitoring.alerts import Alert, AlertStore, Silence

_TAGS = "alerts"
_Why = Annotated[str, Field(min_length=1, max_length=1_000)]


class AcknowledgementView(BaseModel):
    """The person that works on an alert."""

    by: str
    why: str
    at: datetime


class AlertView(BaseModel):
    """One alert."""

    id: str
    state: Annotated[str, Field(description="pending, firing or resolved")]
    since: datetime
    source: Annotated[
        str, Field(description="health, ledger, silence, sunset, drift or performance")
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
    acknowledged: AcknowledgementView | None

    @classmethod
    def of(cls, alert: Alert) -> AlertView:
        return cls.model_validate(shown(alert))


class SilenceView(BaseModel):
    """Notifications that are kept back until a time."""

    id: str
    model: Annotated[str, Field(description="A name, or a pattern with *")]
    source: str
    alert: str
    by: str
    why: str
    created_at: datetime
    until: datetime

    @classmethod
    def of(cls, silence: Silence) -> SilenceView:
        return cls.model_validate(silence, from_attributes=True)


class NewAcknowledgement(BaseModel):
    """Why an alert need not be repeated."""

    model_config = {"extra": "forbid"}

    why: _Why


class NewSilence(BaseModel):
    """What to keep back, until when, and why."""

    model_config = {"extra": "forbid"}

    model: Annotated[str, Field(min_length=1, max_length=128)] = "*"
    source: Annotated[str, Field(max_length=32)] = ""
    alert: Annotated[str, Field(max_length=32)] = ""
    until: Moment
    why: _Why


def add_alerts(app: FastAPI, open_alerts: Callable[[], AlertStore], authorise: Authorise) -> None:
    """Add the routes to `app`."""

    @app.get("/api/v1/alerts", tags=[_TAGS])
    def alerts(paged: Paged, model: str | None = None, resolved: bool = False) -> Page[AlertView]:
        """The alerts by id: those that are not resolved, or all."""
        found = sorted(open_alerts().alerts(resolved=resolved, model=model), key=lambda one: one.id)
        return paged.page(found, AlertView.of, lambda one: one.id)

    @app.get("/api/v1/alerts/{alert}", tags=[_TAGS])
    def one(alert: str) -> AlertView:
        """One alert."""
        return AlertView.of(open_alerts().find(alert))

    @app.put("/api/v1/alerts/{alert}/acknowledgement", tags=[_TAGS])
    def acknowledge(alert: str, said: NewAcknowledgement, request: Request) -> AlertView:
        """Note that a person works on it: it is not repeated."""
        authorise(request, "write", open_alerts().find(alert).finding.model or ANY)
        by = caller_of(request).user
        made = open_alerts().acknowledge(alert, by=by, why=said.why, now=datetime.now(UTC))
        return AlertView.of(made)

    @app.get("/api/v1/silences", tags=[_TAGS])
    def silences(paged: Paged) -> Page[SilenceView]:
        """The silences that hold, by id."""
        found = sorted(open_alerts().silences(datetime.now(UTC)), key=lambda one: one.id)
        return paged.page(found, SilenceView.of, lambda one: one.id)

    @app.post("/api/v1/silences", tags=[_TAGS], status_code=201)
    def silence(wanted: NewSilence, request: Request) -> SilenceView:
        """Keep notifications back until a time."""
        authorise(request, "write", _model_of(wanted.model))
        said: dict[str, Any] = wanted.model_dump()
        by = caller_of(request).user
        return SilenceView.of(open_alerts().silence(**said, by=by, now=datetime.now(UTC)))

    @app.delete("/api/v1/silences/{silence}", tags=[_TAGS])
    def end(silence: str, request: Request) -> SilenceView:
        """End a silence now."""
        now = datetime.now(UTC)
        found = next((one for one in open_alerts().silences(now) if one.id == silence), None)
        if found is None:
            raise NotFound(f"no silence has the id {silence!r}", hint="GET /api/v1/silences")
        authorise(request, "write", _model_of(found.model))
        ended = open_alerts().end_silence(silence, by=caller_of(request).user, now=now)
        return SilenceView.of(ended)


def _model_of(pattern: str) -> str:
    """A pattern may match any model."""
    return ANY if any(sign in pattern for sign in "*?[") else pattern
