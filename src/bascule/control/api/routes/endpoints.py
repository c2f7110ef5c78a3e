"""The routes about endpoints: their plans, deployments and rollbacks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from fastapi import FastAPI, Path, Request, Response
from pydantic import AwareDatetime, BaseModel, Field

from bascule.control.api.conventions import Page, Paged
from bascule.control.api.rights import Authorise, caller_of
from bascule.control.link import ServerLink
from bascule.core import Reference

if TYPE_CHECKING:
    from bascule.endpoints import Deployed, Endpoint, Endpoints, PlanEvent, StoredPlan

_TAGS = "endpoints"
_Reason = Annotated[str, Field(max_length=4_096)]
_Number = Annotated[int, Path(ge=1, lt=2**31)]


class ArmView(BaseModel):
    """One version of a plan, and its share of the requests."""

    name: str
    version: str
    share_percent: float


class ShadowView(BaseModel):
    """The version that answers a sample of the requests again, for comparison."""

    version: str
    share_percent: float
    tolerance: float


class BreakerView(BaseModel):
    """When an arm is not asked any more: so many failures in a row, for so long."""

    failures: int
    open_s: float


class CallLimitsView(BaseModel):
    """What a call of an arm may take."""

    timeout_s: float
    retry_percent: float


class PlanView(BaseModel):
    """A plan, in its stored form."""

    model_config = {"populate_by_name": True}

    schema_: Annotated[int, Field(alias="schema", description="Of this form")]
    endpoint: str
    number: int
    arms: list[ArmView]
    shadow: ShadowView | None
    sticky_header: str
    sticky_field: str
    fallback: str
    slower_than_s: list[float]
    rollout: str
    breaker: Annotated[
        BreakerView | None, Field(description="null for the settings of the model")
    ] = None
    limits: Annotated[
        CallLimitsView | None, Field(description="null for the settings of the model")
    ] = None


class StoredPlanView(BaseModel):
    """A plan, and who made it."""

    plan: PlanView
    made_at: AwareDatetime
    made_by: str
    reason: str

    @classmethod
    def of(cls, stored: StoredPlan) -> StoredPlanView:
        return cls.model_validate(stored.to_json())


class EndpointView(BaseModel):
    """An endpoint, and the plan that is served."""

    name: str
    follows: Annotated[str, Field(description="The alias that is its source; empty for none")]
    current: StoredPlanView

    @classmethod
    def of(cls, endpoint: Endpoint) -> EndpointView:
        return cls.model_validate(endpoint.to_json())


class ArmCountsView(BaseModel):
    """What the workers of this server have counted for one arm of one plan."""

    plan_number: int
    arm: Annotated[str, Field(description="`shadow` for the shadow")]
    version: str
    requests: Annotated[int, Field(description="Answers; comparisons of a shadow")]
    errors: Annotated[int, Field(description="Answers with 500, 503 or 504; failures of a shadow")]
    fallbacks: int
    slower: Annotated[list[int], Field(description="Answers over each of `slower_than_s`")]
    slower_than_s: list[float]
    rows: int
    disagreements: Annotated[int, Field(description="Shadow answers that differ")]
    dropped: Annotated[int, Field(description="Requests that a busy shadow did not answer")]


class PlanEventView(BaseModel):
    """One line of an endpoint's history."""

    kind: str
    at: AwareDatetime
    by: str
    reason: str
    sentence: str
    body: dict[str, Any]

    @classmethod
    def of(cls, event: PlanEvent) -> PlanEventView:
        return cls.model_validate(event.to_json())


class DeployedView(BaseModel):
    """The plan that was made, or would be."""

    plan: PlanView
    before: PlanView | None
    sentence: str

    @classmethod
    def of(cls, deployed: Deployed) -> DeployedView:
        before = deployed.before
        return cls.model_validate(
            {
                "plan": deployed.plan.to_json(),
                "before": None if before is None else before.to_json(),
                "sentence": deployed.sentence,
            }
        )


class NewPlan(BaseModel):
    """A version to deploy to the endpoint."""

    model_config = {"extra": "forbid"}

    version: Annotated[str, Field(min_length=1, max_length=512, description="late/4, late@best")]
    strategy: Annotated[str, Field(max_length=32, description="all or blue-green")] = "all"
    reason: _Reason = ""
    follow: Annotated[
        str, Field(max_length=512, description="The alias that is its source: late@champion")
    ] = ""
    dry_run: Annotated[bool, Field(description="Check and decide, and change nothing")] = False


class NewEndpoint(NewPlan):
    """An endpoint and its first version."""

    name: Annotated[str, Field(min_length=1, max_length=128)]


class PlanChange(BaseModel):
    """What is to be different; a field that is not sent stays as it is."""

    model_config = {"extra": "forbid"}

    sticky_header: Annotated[str, Field(max_length=64, description="Empty for none")] = ""
    sticky_field: Annotated[str, Field(max_length=512, description="Empty for none")] = ""
    fallback: Annotated[str, Field(max_length=512, description="late/3; empty: as settings")] = ""
    breaker: BreakerView | None = None
    limits: CallLimitsView | None = None
    reason: _Reason = ""
    dry_run: Annotated[bool, Field(description="Check and decide, and change nothing")] = False


class Rollback(BaseModel):
    """Why, and to which plan."""

    model_config = {"extra": "forbid"}

    reason: _Reason
    to: Annotated[
        int | None, Field(ge=1, lt=2**31, description="Default: the last that served others")
    ] = None


def followed_model(follow: str) -> list[str]:
    """The model of an alias to follow, whose moves will deploy; raises `Invalid`."""
    from bascule.endpoints import check_follow

    check_follow(follow)
    return [follow.partition("@")[0]] if "@" in follow else []


def add_endpoints(
    app: FastAPI,
    server: ServerLink,
    open_endpoints: Callable[..., Endpoints],
    authorise: Authorise,
) -> None:
    """Add the routes to `app`; what opens the endpoints is given the caller's right to approve."""
    _add_reads(app, open_endpoints)

    @app.get("/api/v1/server/plans", tags=["server"])
    def served_plans() -> dict[str, int]:
        """The number of the plan by which this server serves each of its endpoints."""
        return {plan.endpoint: plan.number for plan in server.plans}

    @app.get("/api/v1/endpoints/{endpoint}/arms", tags=[_TAGS])
    def arms(endpoint: str, paged: Paged) -> Page[ArmCountsView]:
        """What this server has counted for the arms of the latest plans, the oldest plan first."""
        found = [one for one in server.arm_totals() if one.endpoint == endpoint]
        return paged.page(
            list(enumerate(found)),
            lambda one: ArmCountsView.model_validate(one[1], from_attributes=True),
            lambda one: one[0],
        )

    def deploy(endpoint: str, wanted: NewPlan, request: Request) -> Deployed:
        from bascule.endpoints import DeployRequest

        for model in (Reference.parse(wanted.version).model, *followed_model(wanted.follow)):
            authorise(request, "deploy", model)
        said = wanted.model_dump(include=set(DeployRequest.__struct_fields__))
        asked = DeployRequest(**said, endpoint=endpoint)
        user, book = caller_of(request).user, open_endpoints(partial(authorise, request, "approve"))
        return book.deploy(asked, by=user, dry_run=wanted.dry_run)

    @app.post("/api/v1/endpoints", tags=[_TAGS], status_code=201)
    def create(wanted: NewEndpoint, request: Request, response: Response) -> DeployedView:
        """Deploy a version to an endpoint, which is made where it is new."""
        authorise(request, "deploy", wanted.name)
        made = deploy(wanted.name, wanted, request)
        response.headers["Location"] = f"/api/v1/endpoints/{wanted.name}"
        return DeployedView.of(made)

    @app.post("/api/v1/endpoints/{endpoint}/plans", tags=[_TAGS], status_code=201)
    def deploy_to(endpoint: str, wanted: NewPlan, request: Request) -> DeployedView:
        """Deploy a version: make the next plan, which every server follows within a second."""
        return DeployedView.of(deploy(endpoint, wanted, request))

    @app.patch("/api/v1/endpoints/{endpoint}", tags=[_TAGS])
    def change(endpoint: str, wanted: PlanChange, request: Request) -> DeployedView:
        """Change assignment, fallback, breaker or limits: make the next plan, of the same arms."""
        from bascule.endpoints import PlanChanges

        if wanted.fallback:
            authorise(request, "deploy", Reference.parse(wanted.fallback).model)
        said = wanted.model_dump(exclude_unset=True, exclude={"reason", "dry_run"})
        made = open_endpoints(partial(authorise, request, "approve")).change(
            endpoint, msgspec.convert(said, PlanChanges), by=caller_of(request).user,
            reason=wanted.reason, dry_run=wanted.dry_run,
        )  # fmt: skip
        return DeployedView.of(made)

    @app.post("/api/v1/endpoints/{endpoint}/rollback", tags=[_TAGS], status_code=201)
    def roll_back(endpoint: str, wanted: Rollback, request: Request) -> DeployedView:
        """Serve an earlier plan again, under the next number."""
        user, book = caller_of(request).user, open_endpoints(partial(authorise, request, "approve"))
        made = book.roll_back(endpoint, by=user, reason=wanted.reason, to=wanted.to)
        return DeployedView.of(made)


def _add_reads(app: FastAPI, open_endpoints: Callable[[], Endpoints]) -> None:
    @app.get("/api/v1/endpoints", tags=[_TAGS])
    def endpoints(paged: Paged) -> Page[EndpointView]:
        """Every endpoint that has a plan, by name."""
        return paged.page(open_endpoints().endpoints(), EndpointView.of, lambda one: one.name)

    @app.get("/api/v1/endpoints/{endpoint}", tags=[_TAGS])
    def one(endpoint: str) -> EndpointView:
        """One endpoint."""
        return EndpointView.of(open_endpoints().endpoint(endpoint))

    @app.get("/api/v1/endpoints/{endpoint}/plans", tags=[_TAGS])
    def plans(endpoint: str, paged: Paged) -> Page[StoredPlanView]:
        """Every plan of an endpoint, the newest first."""
        return paged.page(
            open_endpoints().plans(endpoint), StoredPlanView.of, lambda one: one.plan.number,
            descending=True,
        )  # fmt: skip

    @app.get("/api/v1/endpoints/{endpoint}/plans/{number}", tags=[_TAGS])
    def plan(endpoint: str, number: _Number) -> StoredPlanView:
        """One plan."""
        return StoredPlanView.of(open_endpoints().plan(endpoint, number))

    @app.get("/api/v1/endpoints/{endpoint}/history", tags=[_TAGS])
    def history(endpoint: str, paged: Paged) -> Page[PlanEventView]:
        """What happened to an endpoint, the latest first."""
        book = open_endpoints()
        book.plans(endpoint)  # says if there never was one
        events = list(enumerate(book.history(endpoint)))[::-1]
        return paged.page(
            events, lambda one: PlanEventView.of(one[1]), lambda one: one[0], descending=True
        )
