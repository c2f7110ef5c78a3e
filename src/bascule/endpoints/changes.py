"""Changes of a plan that leave its versions alone: assignment, fallback, breaker, limits. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import msgspec
from msgspec import UNSET, UnsetType

from bascule.core import Conflict, Invalid
from bascule.endpoints.plans import BreakerRule, CallLimits, Plan


class PlanChanges(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """Fields of `Plan`; a field that is not given stays as it is.

    Attributes:
        sticky_header: See `Plan`; empty for none.
        sticky_field: See `Plan`; empty for none.
        fallback: A reference of the registry: `late/3`, `late@safe`. Empty for that of the
            settings of the model.
        breaker: None for that of the settings of the model.
        limits: Likewise.
        holdback_percent: See `Plan`; 0 for none.
    """

    sticky_header: str | UnsetType = UNSET
    sticky_field: str | UnsetType = UNSET
    fallback: str | UnsetType = UNSET
    breaker: BreakerRule | UnsetType | None = UNSET
    limits: CallLimits | UnsetType | None = UNSET
    holdback_percent: float | UnsetType = UNSET


def changed(before: Plan, changes: PlanChanges) -> Plan:
    """The next plan of an endpoint.

    Raises:
        Conflict: A rollout decides on the plan, or nothing changes.
        Invalid: A field is not one of a plan.
    """
    if before.rollout:
        raise Conflict(
            f"endpoint {before.endpoint} has a rollout under way, whose evidence is of plan "
            f"{before.number} as it is: {before.rollout}",
            hint=f"bascule rollout abort {before.rollout}, or wait for its end",
        )
    given = {
        name: value
        for name in changes.__struct_fields__
        if (value := getattr(changes, name)) is not UNSET
    }
    plan = replace(before, number=before.number + 1, **given)
    if plan.numbered(before.number) == before:
        raise Conflict(
            f"plan {before.number} of endpoint {before.endpoint} says that already",
            hint=f"bascule endpoints {before.endpoint} --json shows it",
        )
    if plan.fallback and plan.fallback == plan.current.version and len(plan.arms) == 1:
        raise Invalid(
            f"fallback: {plan.fallback} is the version that answers",
            hint="name another version, which answers where it fails",
        )
    return plan


def differences(before: Plan, after: Plan) -> Iterator[str]:
    """What `changed` made different, in words."""
    if (before.sticky_header, before.sticky_field) != (after.sticky_header, after.sticky_field):
        yield _sticky(after)
    if before.fallback != after.fallback:
        yield (
            f"{after.fallback} answers where an arm fails"
            if after.fallback
            else "the fallback is that of serving.models"
        )
    if before.breaker != after.breaker:
        yield _breaker(after.breaker)
    if before.limits != after.limits:
        yield _limits(after.limits)
    if before.holdback_percent != after.holdback_percent:
        yield f"{after.holdback_percent:g} % of the requests are held back"


def _sticky(plan: Plan) -> str:
    keys = [f"header {plan.sticky_header}"] if plan.sticky_header else []
    keys += [f"input {plan.sticky_field}"] if plan.sticky_field else []
    if not keys:
        return "each request gets an arm by chance"
    return f"requests with the same {', else '.join(keys)} get the same arm"


def _breaker(rule: BreakerRule | None) -> str:
    if rule is None:
        return "the breaker is that of serving.models"
    if not rule.failures:
        return "arms have no breaker"
    many = "1 failure opens" if rule.failures == 1 else f"{rule.failures} failures in a row open"
    return f"{many} the breaker of an arm for {rule.open_s:g} s"


def _limits(limits: CallLimits | None) -> str:
    if limits is None:
        return "limits of calls are those of serving.models"
    most = f"{limits.timeout_s:g} s" if limits.timeout_s else "the deadline of its request"
    return f"a call may take {most}, and {limits.retry_percent:g} % may be tried once more"
