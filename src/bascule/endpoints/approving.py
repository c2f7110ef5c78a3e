"""Which changes of what an endpoint answers take an approval, where approvals are asked for. Pure.

Every act asks here, by whichever door it comes. A rollout asks by its last step.
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
    """Where no caller is there to approve: a move of an alias, or a door that names none."""
    raise Refused(f"{endpoint}: this takes an approval", hint="begin a rollout, which waits for it")


def takes_approval(before: Plan | None, after: Plan | None, free: Plan | None = None) -> bool:
    """Whether serving `after` and not `before` takes an approval.

    None stands for no endpoint, before it is made and once it is deleted. `free` is the plan that
    an emergency may return to without one.
    """
    return (
        before is None
        or after is None
        or all(
            plan is None or replace(plan, number=after.number, rollout=after.rollout) != after
            for plan in (before, free)
        )
    )


def last_good(plans: Sequence[Plan], history: Sequence[PlanEvent]) -> Plan | None:
    """The plan to return to, of an endpoint's plans, the newest first; None for no such plan.

    The last that served other versions or shares, was no step of a rollout, and was not itself
    rolled back from.
    """
    left = {event.body["from"] for event in history if event.kind == ROLLED_BACK}
    for plan in plans[1:]:
        # A step shares requests with a candidate, and no evidence is gathered any more.
        is_step = plan.rollout and len(shares(plan)) > 1
        if plan.number not in left and shares(plan) != shares(plans[0]) and not is_step:
            return plan
    return None


def shares(plan: Plan) -> list[tuple[str, float]]:
    """The versions that answer, with their shares."""
    return sorted((arm.version, arm.share_percent) for arm in plan.arms if arm.share_percent)
