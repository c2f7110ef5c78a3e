"""Objectives of a model: the share of good requests, and how fast its allowance is spent.

Alerts by burn rate over two windows, after Beyer et al., *The Site Reliability Workbook* (2018),
chapter 5, "Multiwindow, Multi-Burn-Rate Alerts": the long window says that it matters, the short
one that it goes on. A rate of 1 spends the allowance of 30 days in 30 days. In place of the share
itself its lower bound decides, so that few requests raise nothing by chance.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from bascule.monitoring.alerts.findings import Finding, Observation, Severity, Source
from bascule.monitoring.alerts.sources.health import ServerFacts
from bascule.stats import exact_interval

PERIOD_H = 720.0
"""The allowance is for so many hours."""
_CONFIDENCE = 0.99
_SAMPLE_S = 30.0


@dataclass(frozen=True, slots=True)
class Objective:
    """What share of a model's requests must be good.

    Attributes:
        availability: The share that must be answered, and not with a status of 500 or more; None
            for no such objective.
        latency_share: The share that must be answered within `latency_s`; None for no objective.
        latency_s: Raised to the next bound of the server's histogram of durations.
    """

    availability: float | None = None
    latency_share: float | None = None
    latency_s: float = 0.0


class Burn(NamedTuple):
    """Two windows, and the rate at which both must spend for an alert."""

    severity: Severity
    rate: float
    long_s: float
    short_s: float


BURNS = (
    Burn("critical", 14.4, 3_600.0, 300.0),  # 2 % of the allowance in an hour
    Burn("warning", 6.0, 21_600.0, 1_800.0),  # 5 % in six hours
)


class Tally(NamedTuple):
    """Requests since the server started, and those of them that were not good, by objective."""

    requests: int
    failed: int
    slow: int


class ObjectiveSource(Source):
    """Looks at the counters of the server beside this process.

    Windows begin at the start of this process at the earliest: what was counted before it is not
    known by time.
    """

    name = "objectives"
    every_s = 0.0  # at each round

    def __init__(
        self, read: Callable[[], ServerFacts], objectives: Mapping[str, Objective], place: str
    ) -> None:
        self._read = read
        self._objectives = objectives
        self._place = place
        self._looks: deque[tuple[float, Mapping[str, Tally]]] = deque()

    def look(self, now: datetime) -> Sequence[Observation]:
        facts = self._read()
        tallies = {
            model: tally_of(facts, model, objective)
            for model, objective in self._objectives.items()
        }
        findings = {
            model: tuple(self._findings(model, objective, facts, tallies[model], now))
            for model, objective in self._objectives.items()
        }
        if not self._looks or facts.at_s - self._looks[-1][0] >= _SAMPLE_S:
            self._looks.append((facts.at_s, tallies))
        while len(self._looks) > 2 and facts.at_s - self._looks[1][0] >= BURNS[-1].long_s:
            self._looks.popleft()
        return [
            Observation(self.name, self._place, model, found) for model, found in findings.items()
        ]

    def _findings(
        self, model: str, objective: Objective, facts: ServerFacts, tally: Tally, now: datetime
    ) -> Iterator[Finding]:
        promised = {"failed": objective.availability, "slow": objective.latency_share}
        for kind, share in promised.items():
            if share is None:
                continue
            for burn in BURNS:
                windows = [self._between(model, facts.at_s, s, tally) for s in burn[2:]]
                if all(is_spent(counted, kind, share, burn.rate) for counted in windows):
                    rate = getattr(windows[0], kind) / windows[0].requests / (1 - share)
                    sentence = self._sentence(model, kind, objective, windows[0], rate)
                    yield Finding(
                        self.name, kind, model, burn.severity, sentence, rate, burn.rate,
                        now, place=self._place, evidence="bascule top",
                    )  # fmt: skip
                    break  # the more severe is enough

    def _between(self, model: str, at_s: float, window_s: float, tally: Tally) -> Tally:
        """What was counted in a window, or since the first look where that is later."""
        if not self._looks:
            return Tally(0, 0, 0)
        old = [tallies for looked_s, tallies in self._looks if looked_s <= at_s - window_s]
        before = old[-1] if old else self._looks[0][1]
        return Tally(*(new - old for new, old in zip(tally, before[model], strict=True)))

    def _sentence(
        self, model: str, kind: str, objective: Objective, counted: Tally, rate: float
    ) -> str:
        share = objective.availability if kind == "failed" else objective.latency_share
        assert share is not None
        how = "failed" if kind == "failed" else f"took over {objective.latency_s * 1e3:g} ms"
        bad, requests = getattr(counted, kind), counted.requests
        return (
            f"{model} on {self._place}: {bad:,} of {requests:,} requests {how}; the objective "
            f"allows {1 - share:.3%}. At this pace the allowance of 30 days is "
            f"spent in {PERIOD_H / rate:.3g} hours"
        )


def tally_of(facts: ServerFacts, model: str, objective: Objective) -> Tally:
    """What all versions of a model have answered since the server started."""
    first = bisect_left(facts.bounds_s, objective.latency_s) + 1
    counts = [count for (name, _), count in facts.versions.items() if name == model]
    by_status = [pair for count in counts for pair in count.by_status.items()]
    return Tally(
        sum(number for _, number in by_status),
        sum(number for status, number in by_status if status >= 500),
        sum(sum(count.buckets[first:]) for count in counts),
    )


def is_spent(tally: Tally, kind: str, share: float, rate: float) -> bool:
    """Whether the allowance is spent at least so many times as fast as allowed, beyond chance."""
    bad, limit = getattr(tally, kind), rate * (1 - share)
    # The interval of many requests is costly: only that of a share over the limit is asked for.
    if not tally.requests or bad / tally.requests < limit:
        return False
    return exact_interval(bad, tally.requests, confidence=_CONFIDENCE)[0] >= limit
