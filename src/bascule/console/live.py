"""What an endpoint does now: differences of looks at the counters, kept while a page is open.

A look reads shared memory, at most one a second for an endpoint however many pages are open. The
workers do nothing for it.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from bascule.charts import sparkline
from bascule.serving.telemetry import BUCKETS_S, quantile_s

if TYPE_CHECKING:
    from bascule.control import ServerLink
    from bascule.endpoints import Plan

_MAX_LOOKS = 90
_MAX_ENDPOINTS = 256
_EVERY_S = 1.0
_WINDOW_S = 30.0
"""Latencies are of the answers since then."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The counters of an endpoint at one moment.

    Attributes:
        at_s: By the monotonic clock.
        arms: By arm: requests and errors since the plan was loaded.
        buckets: Answers of the plan's versions by duration; see `BUCKETS_S`.
        plan: The number of the plan.
    """

    at_s: float
    arms: dict[str, tuple[int, int]]
    buckets: tuple[int, ...]
    plan: int


@dataclass(frozen=True, slots=True)
class ArmRate:
    """What one arm does now; `share` is of the requests of all arms, None without requests."""

    name: str
    version: str
    requests: int
    errors: int
    per_s: float
    share: float | None

    @property
    def error_share(self) -> float | None:
        return self.errors / self.requests if self.requests else None


def live_view(plan: Plan, samples: Sequence[Sample]) -> dict[str, Any]:
    """What an endpoint does, from looks in the order of time, of which there is at least one. Pure.

    Failures and durations are of the answers since the window began, and None without answers.
    """
    of_plan = [one for one in samples if one.plan == plan.number]
    latest = of_plan[-1]
    rates = [_rate(a, b) for a, b in pairwise(of_plan)]
    since = next(one for one in of_plan if latest.at_s - one.at_s <= _WINDOW_S)
    buckets = [max(0, b - a) for a, b in zip(since.buckets, latest.buckets, strict=True)]
    requests, errors = (_total(latest, place) - _total(since, place) for place in (0, 1))
    total = max(1, _total(latest, 0))
    before = of_plan[-2] if len(of_plan) > 1 else latest
    arms = [
        ArmRate(
            one.name, one.version, *latest.arms.get(one.name, (0, 0)),
            _rate(before, latest, one.name),
            latest.arms.get(one.name, (0, 0))[0] / total if _total(latest, 0) else None,
        )
        for one in plan.arms
    ]  # fmt: skip
    per_s = rates[-1] if rates else 0.0
    return {
        "endpoint": plan.endpoint, "arms": arms, "per_s": per_s,
        "error_share": errors / requests if requests else None,
        "p50_s": quantile_s(BUCKETS_S, buckets, 0.5), "p99_s": quantile_s(BUCKETS_S, buckets, 0.99),
        "requests_line": sparkline(rates, f"Requests a second, now {per_s:.1f}"),
        "over_s": latest.at_s - of_plan[0].at_s,
    }  # fmt: skip


class Looks:
    """The latest looks at each endpoint whose page is open."""

    def __init__(self, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._kept: OrderedDict[str, deque[Sample]] = OrderedDict()
        self._lock = threading.Lock()

    def look(self, server: ServerLink, plan: Plan) -> list[Sample]:
        """The looks until now, with a new one if the last is a second old."""
        now_s = self._clock_s()
        with self._lock:
            kept = self._kept.setdefault(plan.endpoint, deque(maxlen=_MAX_LOOKS))
            self._kept.move_to_end(plan.endpoint)
            while len(self._kept) > _MAX_ENDPOINTS:
                self._kept.popitem(last=False)
            is_old = not kept or now_s - kept[-1].at_s >= _EVERY_S or kept[-1].plan != plan.number
            if is_old:
                kept.append(sample(server, plan, now_s))
            return list(kept)


def sample(server: ServerLink, plan: Plan, now_s: float) -> Sample:
    """Look at the counters of an endpoint."""
    counted = [
        one
        for one in server.arm_totals()
        if one.endpoint == plan.endpoint and one.plan_number == plan.number
    ]
    buckets = [0] * (len(BUCKETS_S) + 1)
    for label, total in zip(server.labels, server.totals(), strict=False):
        if f"{label.model}/{label.version}" in plan.versions:
            buckets = [a + b for a, b in zip(buckets, total.buckets, strict=True)]
    return Sample(
        now_s, {one.arm: (one.requests, one.errors) for one in counted}, tuple(buckets), plan.number
    )


def _total(one: Sample, place: int) -> int:
    return sum(counts[place] for arm, counts in one.arms.items() if arm != "shadow")


def _rate(before: Sample, after: Sample, arm: str = "") -> float:
    """Requests a second between two looks: of an arm, or of all."""
    if after.at_s <= before.at_s:
        return 0.0
    if arm:
        more = after.arms.get(arm, (0, 0))[0] - before.arms.get(arm, (0, 0))[0]
    else:
        more = _total(after, 0) - _total(before, 0)
    return max(0.0, more / (after.at_s - before.at_s))
