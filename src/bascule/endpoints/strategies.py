"""From the plan of an endpoint to the next one, by strategy. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from bascule.core import Invalid
from bascule.endpoints.plans import CURRENT, PREVIOUS, Arm, Plan

WITH_EVIDENCE = ("canary", "shadow", "ab", "bandit", "contextual")
"""Strategies that a rollout decides step by step."""


def first_plan(endpoint: str, version: str) -> Plan:
    """One version that answers everything: what an endpoint without a plan does."""
    return Plan(endpoint, 1, (Arm(CURRENT, version, 100.0),))


def next_plan(before: Plan | None, endpoint: str, version: str, strategy: str) -> Plan:
    """The next plan, in which `version` answers.

    Args:
        before: The plan of now; None for a new endpoint.
        endpoint: Its name.
        version: `MODEL/NUMBER`.
        strategy: `all` or `blue-green`.

    Raises:
        Invalid: There is no such strategy, or it needs evidence.
    """
    make = _STRATEGIES.get(strategy)
    if make is None:
        known = ", ".join(_STRATEGIES)
        if strategy in WITH_EVIDENCE:
            raise Invalid(
                f"strategy {strategy} is decided by a rollout, step by step",
                hint=f"bascule deploy {version} --strategy {strategy}, or POST /api/v1/rollouts",
            )
        raise Invalid(f"strategy {strategy!r} is not known", hint=f"use one of {known}")
    if before is None:
        return first_plan(endpoint, version)
    return replace(
        before, number=before.number + 1, arms=make(before, version), shadow=None, rollout="",
        context=None, timed_parts=(),
    )  # fmt: skip


def _all(before: Plan, version: str) -> tuple[Arm, ...]:  # noqa: ARG001 -- of one form
    return (Arm(CURRENT, version, 100.0),)


def _blue_green(before: Plan, version: str) -> tuple[Arm, ...]:
    """The version of before stays in memory, so that a rollback loads nothing."""
    current = Arm(CURRENT, version, 100.0)
    if before.current.version == version:
        return (current,)
    return (current, Arm(PREVIOUS, before.current.version, 0.0))


_STRATEGIES: Mapping[str, Callable[[Plan, str], tuple[Arm, ...]]] = {
    "all": _all,
    "blue-green": _blue_green,
}
STRATEGIES = tuple(_STRATEGIES)
