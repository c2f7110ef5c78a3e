"""The routes about rollouts: ask for one, look, command, read its decisions and its evidence."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from fastapi import FastAPI, Request, Response
from pydantic import AwareDatetime, BaseModel, Field

from bascule.control.conventions import Page, Paged
from bascule.control.rights import Authorise, caller_of
from bascule.core import Reference

if TYPE_CHECKING:
    from bascule.release.rollouts import Rollouts, StoredDecision, StoredRollout

_TAGS = "rollouts"
_Text = Annotated[str, Field(max_length=512)]
_Reason = Annotated[str, Field(max_length=4_096)]
_Seconds = Annotated[float, Field(ge=0, le=365 * 86_400)]


class NewRollout(BaseModel):
    """A version to roll out, and how; what is not said takes its default."""

    model_config = {"extra": "forbid"}

    version: Annotated[str, Field(min_length=1, max_length=512, description="late/5, late@next")]
    endpoint: Annotated[str, Field(max_length=128, description="Default: the model's name")] = ""
    strategy: Annotated[str, Field(max_length=32)] = "canary"
    guards: Annotated[list[_Text], Field(max_length=16, description="errors +1 pp")] = []
    steps_percent: Annotated[list[float] | None, Field(max_length=32)] = None
    step_s: _Seconds | None = None
    max_s: _Seconds | None = None
    min_requests: Annotated[int, Field(ge=0, le=10**9)] | None = None
    alpha: float | None = None
    beta: float | None = None
    bake_s: _Seconds | None = None
    needs_approval: bool = False
    reason: _Reason = ""
    dry_run: bool = False


class RolloutView(BaseModel):
    """A rollout and where it stands."""

    rollout: dict[str, Any]
    state: Annotated[str, Field(description="asked, running, waiting, paused, baking, promoted...")]
    decisions: int
    latest: dict[str, Any] | None
    intervals: int
    ended_at: AwareDatetime | None
    created_by: str
    reason: str

    @classmethod
    def of(cls, stored: StoredRollout) -> RolloutView:
        latest = msgspec.to_builtins(stored.latest)
        return cls(
            rollout=msgspec.to_builtins(stored.rollout),
            state="asked" if latest is None else latest["state"]["type"],
            decisions=stored.decisions, latest=latest, intervals=stored.intervals,
            ended_at=stored.ended_at, created_by=stored.created_by, reason=stored.reason,
        )  # fmt: skip


class BegunView(BaseModel):
    """What was asked for, and what a rollout like this finds."""

    rollout: dict[str, Any]
    sentence: str
    forecasts: list[dict[str, Any]]


class DecisionView(BaseModel):
    """A stored decision."""

    number: int
    at: AwareDatetime
    made_by: str
    before: dict[str, Any] | None
    decision: dict[str, Any]
    plan_number: int | None

    @classmethod
    def of(cls, stored: StoredDecision) -> DecisionView:
        return cls.model_validate(msgspec.to_builtins(stored))


class EvidenceView(BaseModel):
    """The evidence of harm of a rollout."""

    log_e: Annotated[
        list[float | None], Field(description="Natural logarithms; null before the first look")
    ]


class ReplayView(BaseModel):
    """What became of the decisions of a rollout when they were made again."""

    differing: Annotated[list[str], Field(description="A sentence for each that differs")]


class Order(BaseModel):
    """Why."""

    model_config = {"extra": "forbid"}

    reason: _Reason = ""


def add_rollouts(app: FastAPI, open_rollouts: Callable[[], Rollouts], authorise: Authorise) -> None:
    """Add the routes to `app`."""

    @app.get("/api/v1/rollouts", tags=[_TAGS])
    def rollouts(paged: Paged, endpoint: str | None = None) -> Page[RolloutView]:
        """Every rollout, the latest first; of one endpoint with `?endpoint=`."""
        found = list(enumerate(open_rollouts().rollouts(endpoint)))[::-1]
        return paged.page(
            found, lambda one: RolloutView.of(one[1]), lambda one: one[0], descending=True
        )

    @app.post("/api/v1/rollouts", tags=[_TAGS], status_code=201)
    def begin(wanted: NewRollout, request: Request, response: Response) -> BegunView:
        """Ask for a rollout, which the server that serves the endpoint begins."""
        from bascule.release.rollouts import RolloutRequest

        authorise(request, "deploy", wanted.endpoint or Reference.parse(wanted.version).model)
        authorise(request, "deploy", Reference.parse(wanted.version).model)
        asked = msgspec.convert(wanted.model_dump(exclude={"dry_run"}), RolloutRequest)
        begun = open_rollouts().begin(asked, by=caller_of(request).user, dry_run=wanted.dry_run)
        response.headers["Location"] = f"/api/v1/rollouts/{begun.rollout.id}"
        return BegunView(
            rollout=msgspec.to_builtins(begun.rollout), sentence=begun.sentence,
            forecasts=[msgspec.to_builtins(one) for one in begun.forecasts],
        )  # fmt: skip

    @app.get("/api/v1/rollouts/{rollout}", tags=[_TAGS])
    def one(rollout: str) -> RolloutView:
        """One rollout, by its id; or the latest of an endpoint, by its name."""
        return RolloutView.of(open_rollouts().get(rollout))

    @app.get("/api/v1/rollouts/{rollout}/decisions", tags=[_TAGS])
    def decisions(rollout: str, paged: Paged) -> Page[DecisionView]:
        """The decisions of a rollout, in order."""
        return paged.page(
            open_rollouts().decisions(rollout), DecisionView.of, lambda one: one.number
        )

    @app.get("/api/v1/rollouts/{rollout}/evidence", tags=[_TAGS])
    def evidence(rollout: str) -> EvidenceView:
        """The logarithm of the evidence of harm after each interval."""
        return EvidenceView(log_e=open_rollouts().evidence(rollout))

    @app.get("/api/v1/rollouts/{rollout}/replay", tags=[_TAGS])
    def replay(rollout: str) -> ReplayView:
        """Make every decision again from the stored evidence."""
        return ReplayView(differing=open_rollouts().replay(rollout))

    @app.post("/api/v1/rollouts/{rollout}/{command}", tags=[_TAGS])
    def order(rollout: str, command: str, said: Order, request: Request) -> dict[str, Any]:
        """Pause, resume, abort or promote a rollout."""
        from bascule.release.rollouts import check_command

        book = open_rollouts()
        wanted = check_command(command)
        endpoint = book.get(rollout).rollout.endpoint
        authorise(request, "approve" if wanted == "promote" else "deploy", endpoint)
        user = caller_of(request).user
        made: dict[str, Any] = msgspec.to_builtins(
            book.command(rollout, wanted, by=user, reason=said.reason)
        )
        return made
