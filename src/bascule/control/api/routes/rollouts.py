"""The routes about rollouts: ask for one, look, command, read its decisions and its evidence."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from fastapi import FastAPI, Query, Request, Response
from pydantic import Field

from bascule.control.api.conventions import Encoded, Page, Paged, Taken
from bascule.control.api.rights import Authorise, caller_of, serves
from bascule.control.api.routes.endpoints import followed_model
from bascule.core import Reference, Refused
from bascule.release.rollouts import (
    Begun,
    Decision,
    Deleted,
    Deployment,
    Evidence,
    Replay,
    RolloutVerdict,
    SteeredValues,
    StoredDecision,
    StoredRollout,
    operations as of_rollouts,
)

if TYPE_CHECKING:
    from bascule.release.rollouts import Command, RolloutRequest, Rollouts

_Text = Annotated[str, Field(max_length=512)]
_Reason = Annotated[str, Field(max_length=4_096)]
_Why = Annotated[str, Query(max_length=4_096, description="Why, for the history")]
_Expected = Literal["promote", "hold", "abort"]
_Seconds = Annotated[float, Field(ge=0, le=365 * 86_400)]


class NewRollout(Taken):
    """A version to roll out, and how; what is not said takes its default."""

    version: Annotated[str, Field(min_length=1, max_length=512, description="late/5, late@next")]
    endpoint: Annotated[str, Field(max_length=128, description="Default: the model's name")] = ""
    strategy: Annotated[str, Field(max_length=32)] = ""
    guards: Annotated[list[_Text], Field(max_length=16, description="errors +1 pp")] = []  # noqa: RUF012 -- pydantic copies it
    steps_percent: Annotated[list[float] | None, Field(max_length=32)] = None
    step_s: _Seconds | None = None
    max_s: _Seconds | None = None
    min_requests: Annotated[int, Field(ge=0, le=10**9)] | None = None
    alpha: float | None = None
    beta: float | None = None
    bake_s: _Seconds | None = None
    needs_approval: bool | None = None
    outcomes_sample: Annotated[float, Field(gt=0, le=1)] | None = None
    load_tries: Annotated[int, Field(ge=1, le=1_000)] | None = None
    allow_answers: Annotated[
        bool, Field(description="Answers may differ by more than the guard `answers` allows")
    ] = False
    context: Annotated[
        list[_Text], Field(max_length=16, description="Of `contextual`: the inputs to steer by")
    ] = []  # noqa: RUF012 -- pydantic copies it
    reason: _Reason = ""
    follow: Annotated[
        str, Field(max_length=512, description="The alias that is its source: late@champion")
    ] = ""
    dry_run: bool = False


class Order(Taken):
    """Why; and, to promote, what is allowed."""

    reason: _Reason = ""
    allow_answers: Annotated[
        bool, Field(description="Promote also where the guard `answers` holds the rollout")
    ] = False


def _asked(wanted: NewRollout, request: Request, authorise: Authorise) -> RolloutRequest:
    """The request, of a caller who may deploy this version there, and follow that alias."""
    from bascule.release.rollouts import RolloutRequest

    model = Reference.parse(wanted.version).model
    for name in (wanted.endpoint or model, model, *followed_model(wanted.follow)):
        authorise(request, "deploy", name)
    return msgspec.convert(wanted.model_dump(exclude={"dry_run"}), RolloutRequest)


def add_rollouts(
    app: FastAPI, open_rollouts: Callable[..., Rollouts], authorise: Authorise
) -> None:
    """Add the routes to `app`; what opens the rollouts is given the caller's right to approve."""
    _add_list(app, open_rollouts, authorise)
    _add_deployments(app, open_rollouts, authorise)
    _add_reads(app, open_rollouts, authorise)
    _add_verdicts(app, open_rollouts)
    _add_commands(app, open_rollouts, authorise)


def _add_list(app: FastAPI, open_rollouts: Callable[..., Rollouts], authorise: Authorise) -> None:
    def may_read(endpoint: str, request: Request) -> bool:
        try:
            authorise(request, "read", endpoint)
        except Refused:
            return False
        return True

    @serves(app, of_rollouts.ROLLOUTS)
    def rollouts(
        paged: Paged, request: Request, endpoint: str | None = None
    ) -> Page[Encoded[StoredRollout]]:
        """The rollouts that the caller may read, the latest first; of one `?endpoint=`."""
        every = enumerate(open_rollouts().rollouts(endpoint))
        found = [one for one in every if may_read(one[1].rollout.endpoint, request)][::-1]
        return paged.page(found, lambda one: one[0], lambda one: one[1], descending=True)


def _add_deployments(
    app: FastAPI, open_rollouts: Callable[..., Rollouts], authorise: Authorise
) -> None:
    @serves(app, of_rollouts.BEGIN)
    def begin(wanted: NewRollout, request: Request, response: Response) -> Encoded[Begun]:
        """Ask for a rollout, which the server that serves the endpoint begins."""
        asked = _asked(wanted, request, authorise)
        book = open_rollouts(partial(authorise, request, "approve"))
        begun = book.begin(asked, by=caller_of(request).user, dry_run=wanted.dry_run)
        response.headers["Location"] = f"/api/v1/rollouts/{begun.rollout.id}"
        return begun

    @serves(app, of_rollouts.DEPLOY)
    def deploy(wanted: NewRollout, request: Request) -> Encoded[Deployment]:
        """Deploy a version at once or by a rollout, as the request and the settings say."""
        asked = _asked(wanted, request, authorise)
        book = open_rollouts(partial(authorise, request, "approve"))
        made = book.deploy(asked, by=caller_of(request).user, dry_run=wanted.dry_run)
        return Deployment(None, made) if isinstance(made, Begun) else Deployment(made, None)

    @serves(app, of_rollouts.DELETE_ENDPOINT)
    def delete(endpoint: str, request: Request, reason: _Why) -> Deleted:
        """Delete an endpoint that has no rollout under way; its plans and its history stay."""
        user, book = caller_of(request).user, open_rollouts(partial(authorise, request, "approve"))
        return Deleted(book.delete_endpoint(endpoint, by=user, reason=reason))


def _add_reads(app: FastAPI, open_rollouts: Callable[..., Rollouts], authorise: Authorise) -> None:
    def readable(name: str, request: Request) -> StoredRollout:
        """A rollout of an endpoint that the caller may read."""
        found = open_rollouts().get(name)
        authorise(request, "read", found.rollout.endpoint)
        return found

    @serves(app, of_rollouts.ROLLOUT)
    def one(rollout: str, request: Request) -> Encoded[StoredRollout]:
        """One rollout, by its id; or the latest of an endpoint, by its name."""
        return readable(rollout, request)

    @serves(app, of_rollouts.DECISIONS)
    def decisions(rollout: str, paged: Paged, request: Request) -> Page[Encoded[StoredDecision]]:
        """The decisions of a rollout, in order."""
        found = open_rollouts().decisions(readable(rollout, request).rollout.id)
        return paged.page(found, lambda one: one.number)

    @serves(app, of_rollouts.EVIDENCE)
    def evidence(rollout: str, request: Request) -> Evidence:
        """The logarithm of the evidence of harm after each interval."""
        return Evidence(open_rollouts().evidence(readable(rollout, request).rollout.id))

    @serves(app, of_rollouts.REPLAY)
    def replay(rollout: str, request: Request) -> Replay:
        """Make every decision again from the stored evidence."""
        return Replay(open_rollouts().replay(readable(rollout, request).rollout.id))

    @serves(app, of_rollouts.VALUES)
    def values(rollout: str, request: Request) -> Encoded[SteeredValues]:
        """What each version, and a contextual bandit's policy, would have earned: off-policy."""
        return open_rollouts().values(readable(rollout, request).rollout.id)


def _add_verdicts(app: FastAPI, open_rollouts: Callable[..., Rollouts]) -> None:
    def latest_verdict(endpoint: str) -> RolloutVerdict:
        from bascule.release.rollouts import verdict_of

        latest = open_rollouts().rollouts(endpoint)[-1:]
        return verdict_of(latest[0] if latest else None, endpoint)

    @serves(
        app,
        of_rollouts.VERDICT,
        responses={409: {"description": "The verdict is another than `?expects=`"}},
    )
    def verdict(
        endpoint: str, response: Response, expects: _Expected | None = None
    ) -> RolloutVerdict:
        """The verdict on the latest rollout of an endpoint, for Argo Rollouts and Flagger.

        With `?expects=abort` or `?expects=promote`, the status is 409 for every other verdict.
        """
        latest = latest_verdict(endpoint)
        if expects is not None and latest.verdict != expects:
            response.status_code = 409
        return latest

    @serves(app, of_rollouts.VERDICT_QUERY)
    def verdict_query(endpoint: str, query: str) -> dict[str, Any]:
        """The verdict in the form of a query of Prometheus: 1 promotes, 0 holds, -1 aborts.

        For Flagger, whose metrics carry a key. `vector(1)`, by which Flagger looks whether a
        provider is there, is answered with 1.
        """
        latest = latest_verdict(endpoint).verdict
        value = 1 if query == "vector(1)" else {"promote": 1, "hold": 0, "abort": -1}[latest]
        sample = {"metric": {"endpoint": endpoint}, "value": [time.time(), str(value)]}
        return {"status": "success", "data": {"resultType": "vector", "result": [sample]}}


def _add_commands(
    app: FastAPI, open_rollouts: Callable[..., Rollouts], authorise: Authorise
) -> None:
    def commanded(
        rollout: str, wanted: Command, said: Order, request: Request
    ) -> Encoded[Decision]:
        book = open_rollouts(partial(authorise, request, "approve"))
        return book.command(
            rollout, wanted, by=caller_of(request).user, reason=said.reason,
            allow_answers=said.allow_answers,
        )  # fmt: skip

    @serves(app, of_rollouts.PROMOTE)
    def promote(rollout: str, said: Order, request: Request) -> Encoded[Decision]:
        """Approve the last step of a rollout, or give the candidate all traffic before it."""
        return commanded(rollout, "promote", said, request)

    @serves(app, of_rollouts.COMMAND)
    def order(
        rollout: str, command: Literal["pause", "resume", "abort", "promote"], said: Order,
        request: Request,
    ) -> Encoded[Decision]:  # fmt: skip
        """Pause, resume or abort a rollout."""
        authorise(request, "deploy", open_rollouts().get(rollout).rollout.endpoint)
        return commanded(rollout, command, said, request)
