"""What the clients of a storm saw, and what follows from it. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec
import numpy as np

SHED = (429, 503)
"""The statuses by which a server says that it is full."""


class Tally(msgspec.Struct, frozen=True):
    """Every request of one run, counted where the client stood.

    Latencies are from the moment a request was *due*, so that a request that had to wait to be
    sent is not made to look fast by it.

    Attributes:
        seconds: From the first due time to the end of the schedule.
        due: How many requests there should have been.
        accepted_ms: The latency of each right answer, in the order of their arrival.
        after_end: How many of them came when the schedule was over: what had queued up by then,
            which is no part of what was answered per second.
        statuses: How many answers of each status, of all that were answered.
        wrong: Answers 200 that were not the model's.
        shed_without_retry_after: 429 and 503 that do not say when to come back.
        unsent: Requests that were given up before they were sent: no connection was free within
            the deadline.
        broken: Connections that ended in the middle of a request.
        unanswered: Sent, and not answered before the run ended.
        send_lag_p99_ms: How late the generator itself was: in sending what was due, or, in a closed
            loop, in taking what had come. It is not the server's fault.
    """

    seconds: float
    due: int
    accepted_ms: list[float]
    statuses: dict[int, int]
    wrong: int
    shed_without_retry_after: int
    unsent: int
    broken: int
    unanswered: int
    send_lag_p99_ms: float
    after_end: int = 0

    @property
    def accepted(self) -> int:
        return len(self.accepted_ms)

    @property
    def accepted_hz(self) -> float:
        return (self.accepted - self.after_end) / self.seconds

    @property
    def shed(self) -> int:
        return sum(self.statuses.get(status, 0) for status in SHED)

    @property
    def errors(self) -> int:
        """What no load excuses: wrong answers, broken connections, statuses of another kind."""
        other = sum(
            count for status, count in self.statuses.items() if status not in (200, *SHED, 504)
        )
        return self.wrong + self.broken + other

    def within(self, deadline_ms: float) -> int:
        """How many right answers came in time, and before the end."""
        in_order = self.accepted_ms[: self.accepted - self.after_end]
        return sum(latency <= deadline_ms for latency in in_order)


def joined(tallies: Sequence[Tally]) -> Tally:
    """The pieces of a run as one; the generator is as late as it was in the worst."""
    statuses: Counter[int] = Counter()
    for tally in tallies:
        statuses.update(tally.statuses)
    return Tally(
        seconds=sum(tally.seconds for tally in tallies),
        due=sum(tally.due for tally in tallies),
        accepted_ms=list(chain.from_iterable(tally.accepted_ms for tally in tallies)),
        statuses=dict(statuses),
        wrong=sum(tally.wrong for tally in tallies),
        shed_without_retry_after=sum(tally.shed_without_retry_after for tally in tallies),
        unsent=sum(tally.unsent for tally in tallies),
        broken=sum(tally.broken for tally in tallies),
        unanswered=sum(tally.unanswered for tally in tallies),
        send_lag_p99_ms=max(tally.send_lag_p99_ms for tally in tallies),
        after_end=sum(tally.after_end for tally in tallies),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed; NaN of none.

    Not interpolated: a tail is not made of latencies that nobody had.
    """
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def slope_per_hour(seconds: Sequence[float], values: Sequence[float]) -> float:
    """How fast values grow, by least squares, in their unit an hour; 0 of fewer than three.

    The first quarter is left out: a server that has just begun still fills its pools.
    """
    start = len(values) // 4
    x, y = np.asarray(seconds[start:]), np.asarray(values[start:])
    if len(x) < 3:
        return 0.0
    return float(np.polyfit(x, y, 1)[0]) * 3600


def growth(values: Sequence[float]) -> float:
    """The median of the last quarter of values over that of the second, less one.

    The first quarter is the filling of pools; a share is what makes short and long runs compare.
    """
    quarter = len(values) // 4
    if not quarter:
        return 0.0
    before = float(np.median(values[quarter : 2 * quarter]))
    return float(np.median(values[-quarter:])) / before - 1


def described(tally: Tally) -> Mapping[str, Any]:
    """A tally for files and tables, without its single latencies."""
    return {
        "due": tally.due,
        "accepted_hz": tally.accepted_hz,
        "p50_ms": percentile(tally.accepted_ms, 0.5),
        "p99_ms": percentile(tally.accepted_ms, 0.99),
        "max_ms": max(tally.accepted_ms, default=math.nan),
        "statuses": {str(status): count for status, count in sorted(tally.statuses.items())},
        "wrong": tally.wrong,
        "shed_without_retry_after": tally.shed_without_retry_after,
        "unsent": tally.unsent,
        "broken": tally.broken,
        "unanswered": tally.unanswered,
        "send_lag_p99_ms": tally.send_lag_p99_ms,
    }
