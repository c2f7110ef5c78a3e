"""The routes about endpoints: their plans, deployments and rollbacks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import msgspec
from fastapi import FastAPI, Path, Request, Response
from pydantic import Field

from bascule.control import operations as of_server
from bascule.control.answers import ArmCounts, picked
from bascule.control.api.conventions import Page, Paged, Taken
from bascule.control.api.rights import Authorise, caller_of, serves
from bascule.control.link import ServerLink
from bascule.core import Reference, check_name
from bascule.endpoints import (
    BreakerRule,
    CallLimits,
    Deployed,
    Endpoint,
    PlanEvent,
    StoredPlan,
    operations,
)

if TYPE_CHECKING:
    from bascule.endpoints import Endpoints

_Reason = Annotated[str, Field(max_length=4_096)]
_Number = Annotated[int, Path(ge=1, lt=2**31)]


class NewPlan(Taken):
    """A version to deploy to the endpoint."""

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


class PlanChange(Taken):
    """What is to be different; a field that is not sent stays as it is."""

    sticky_header: Annotated[str, Field(max_length=64, description="Empty for none")] = ""
    sticky_field: Annotated[str, Field(max_length=512, description="Empty for none")] = ""
    fallback: Annotated[str, Field(max_length=512, description="late/3; empty: as settings")] = ""
    breaker: BreakerRule | None = None
    limits: CallLimits | None = None
    holdback_percent: Annotated[float, Field(ge=0, le=50, description="0 for none")] = 0.0
    reason: _Reason = ""
    dry_run: Annotated[bool, Field(description="Check and decide, and change nothing")] = False


class Rollback(Taken):
    """Why, and to which plan."""

    reason: Annotated[_Reason, Field(json_schema_extra={"minLength": 1})]
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

    @serves(app, of_server.SERVED_PLANS)
    def served_plans() -> dict[str, int]:
        """The number of the plan by which this server serves each of its endpoints."""
        return {plan.endpoint: plan.number for plan in server.plans}

    @serves(app, of_server.ARMS)
    def arms(endpoint: str, paged: Paged) -> Page[ArmCounts]:
        """What this server has counted for the arms of the latest plans, the oldest plan first."""
        check_name(endpoint, what="endpoint")
        counts = [arm for arm in server.arm_totals() if arm.endpoint == endpoint]
        return paged.numbered(counts, lambda arm: picked(ArmCounts, arm))

    def deploy(endpoint: str, wanted: NewPlan, request: Request) -> Deployed:
        from bascule.endpoints import DeployRequest

        for model in (Reference.parse(wanted.version).model, *followed_model(wanted.follow)):
            authorise(request, "deploy", model)
        said = wanted.model_dump(include=set(DeployRequest.__struct_fields__))
        asked = DeployRequest(**said, endpoint=endpoint)
        user, book = caller_of(request).user, open_endpoints(partial(authorise, request, "approve"))
        return book.deploy(asked, by=user, dry_run=wanted.dry_run)

    @serves(app, operations.CREATE)
    def create(wanted: NewEndpoint, request: Request, response: Response) -> Deployed:
        """Deploy a version to an endpoint, which is made where it is new."""
        authorise(request, "deploy", wanted.name)
        made = deploy(wanted.name, wanted, request)
        response.headers["Location"] = f"/api/v1/endpoints/{wanted.name}"
        return made

    @serves(app, operations.DEPLOY_TO)
    def deploy_to(endpoint: str, wanted: NewPlan, request: Request) -> Deployed:
        """Deploy a version: make the next plan, which every server follows within a second."""
        return deploy(endpoint, wanted, request)

    @serves(app, operations.CHANGE)
    def change(endpoint: str, wanted: PlanChange, request: Request) -> Deployed:
        """Change assignment, fallback, breaker or limits: make the next plan, of the same arms."""
        from bascule.endpoints import PlanChanges

        if wanted.fallback:
            authorise(request, "deploy", Reference.parse(wanted.fallback).model)
        said = wanted.model_dump(exclude_unset=True, exclude={"reason", "dry_run"})
        return open_endpoints(partial(authorise, request, "approve")).change(
            endpoint, msgspec.convert(said, PlanChanges), by=caller_of(request).user,
            reason=wanted.reason, dry_run=wanted.dry_run,
        )  # fmt: skip

    @serves(app, operations.ROLL_BACK)
    def roll_back(endpoint: str, wanted: Rollback, request: Request) -> Deployed:
        """Serve an earlier plan again, under the next number."""
        user, book = caller_of(request).user, open_endpoints(partial(authorise, request, "approve"))
        return book.roll_back(endpoint, by=user, reason=wanted.reason, to=wanted.to)


def _add_reads(app: FastAPI, open_endpoints: Callable[[], Endpoints]) -> None:
    @serves(app, operations.ENDPOINTS)
    def endpoints(paged: Paged) -> Page[Endpoint]:
        """Every endpoint that has a plan, by name."""
        return paged.page(open_endpoints().endpoints(), lambda one: one.name)

    @serves(app, operations.ENDPOINT)
    def one(endpoint: str) -> Endpoint:
        """One endpoint."""
        return open_endpoints().endpoint(endpoint)

    @serves(app, operations.PLANS)
    def plans(endpoint: str, paged: Paged) -> Page[StoredPlan]:
        """Every plan of an endpoint, the newest first."""
        plans = open_endpoints().plans(endpoint)
        return paged.page(plans, lambda one: one.plan.number, descending=True)

    @serves(app, operations.PLAN)
    def plan(endpoint: str, number: _Number) -> StoredPlan:
        """One plan."""
        return open_endpoints().plan(endpoint, number)

    @serves(app, operations.HISTORY)
    def history(endpoint: str, paged: Paged) -> Page[PlanEvent]:
        """What happened to an endpoint, the latest first."""
        book = open_endpoints()
        book.plans(endpoint)  # says if there never was one
        return paged.numbered(book.history(endpoint), descending=True)
