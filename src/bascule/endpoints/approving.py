"""Which changes of what an endpoint answers take an approval, where approvals are asked for. Pure.

Every act asks here, by whichever door it comes: a deployment, a plan of a document, a change of
one, a deletion, a rollback. A rollout asks by its last step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NoReturn

from bascule.core import Refused
from bascule.endpoints.plans import Plan
from bascule.endpoints.records import PlanEvent

Approve = Callable[[str], object]
"""Takes the approval of a caller for an endpoint; raises `Refused` where the caller may not."""

ROLLED_BACK = "rolled_back"
"""The kind of the events of rollbacks; `body["from"]` is the plan that was left."""


def by_anybody(endpoint: str) -> None:
    """The approval of a user that can write the catalogue, and so could give itself any right."""


def by_nobody(endpoint: str) -> NoReturn:
    """Where no caller is there to approve: of a move of an alias, or of a door that names none."""
    raise Refused(
        f"what endpoint {endpoint} answers changes with an approval alone",
        hint=f"deploy with the right approve:{endpoint}, or by a rollout, which waits for it",
    )


def takes_approval(
    before: Plan | None,
    after: Plan | None,
    *,
    last_good: Plan | None = None,
    drops_rule: bool = False,
) -> bool:
    """Whether an act takes an approval that has an endpoint served by `after`, not by `before`.

    Args:
        before: The plan of now; None for an endpoint that is made by the act, or again.
        after: The plan to serve; None for an endpoint that is deleted.
        last_good: What the act may return to in an emergency, without an approval; see `last_good`.
        drops_rule: Whether later moves of an alias would deploy without the approval of now.
    """
    if drops_rule or before is None or after is None:
        return True
    return not any(
        plan is not None and replace(plan, number=after.number, rollout=after.rollout) == after
        for plan in (before, last_good)
    )


def last_good(plans: Sequence[Plan], history: Sequence[PlanEvent]) -> Plan | None:
    """The plan that a rollback returns to: the last that served other versions or shares.

    It was no step of a rollout, and was not itself rolled back from. None for no such plan.

    Args:
        plans: Of the endpoint, the newest, which is served, first.
        history: Of the endpoint.
    """
    left = {event.body["from"] for event in history if event.kind == ROLLED_BACK}
    return next(
        (
            plan
            for plan in plans[1:]
            if plan.number not in left
            and shares(plan) != shares(plans[0])
            # A step shares requests with a candidate, and no evidence is gathered any more.
            and not (plan.rollout and len(shares(plan)) > 1)
        ),
        None,
    )


def is_return(plan: Plan, history: Sequence[PlanEvent]) -> bool:
    """Whether a plan is served by a rollback: another one in a row is no emergency."""
    return any(
        event.kind == ROLLED_BACK and event.body["number"] == plan.number for event in history
    )


def shares(plan: Plan) -> list[tuple[str, float]]:
    """The versions that answer, with their shares."""
    return sorted((arm.version, arm.share_percent) for arm in plan.arms if arm.share_percent)
