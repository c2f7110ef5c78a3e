"""Health of the server: failed and refused requests, latency, restarts of workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from typing import NamedTuple

from bascule.monitoring.alerts.findings import Finding, Observation, Severity, Source
from bascule.stats import exact_interval

WINDOW_S = 300.0
"""Shares and quantiles are of this window."""
MIN_REQUESTS = 20
"""Fewer requests in a window say nothing."""
P99_REQUESTS = 200
"""Requests of a window whose 99th percentile is compared."""
P99_WINDOWS = 12
"""Windows of history before latency is compared with it."""
P99_TIMES = 3.0
"""A 99th percentile of so many times the median of the history is a finding."""
_HISTORY = 288
_CRITICAL_SHARE = 0.1
_CRITICAL_RESTARTS = 3
_REFUSED = (429, 503)


class VersionCount(NamedTuple):
    """What was counted for one version since the server started."""

    by_status: Mapping[int, int]
    buckets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """A server at one moment.

    Attributes:
        at_s: By the monotonic clock.
        versions: By model and version.
        bounds_s: Upper bounds of the buckets of durations; one more bucket is above them.
        restarts: Of workers, all together.
        unserved: By endpoint whose plan the server cannot serve: why, in words.
    """

    at_s: float
    versions: Mapping[tuple[str, str], VersionCount]
    bounds_s: tuple[float, ...]
    restarts: int
    unserved: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HealthLimits:
    """Shares and times that are not to be crossed.

    Attributes:
        error_share: Of answers with a status of 500 or more.
        refused_share: Of answers 429 and 503, of a server that is full.
        latency_p99_s: 0 compares with the last 24 hours instead.
    """

    error_share: float = 0.01
    refused_share: float = 0.01
    latency_p99_s: float = 0.0


class HealthSource(Source):
    """Looks at the counters of the server beside this process."""

    name = "health"
    every_s = 0.0  # at each round

    def __init__(self, read: Callable[[], ServerFacts], limits: HealthLimits, place: str) -> None:
        self._read = read
        self._limits = limits
        self._place = place
        self._looks: deque[ServerFacts] = deque()
        self._slow: dict[tuple[str, str], deque[float]] = {}
        self._noted_s = float("-inf")

    def look(self, now: datetime) -> Sequence[Observation]:
        facts = self._read()
        looks = self._looks
        looks.append(facts)
        while len(looks) > 2 and facts.at_s - looks[1].at_s >= WINDOW_S:
            looks.popleft()
        before = looks[0]
        found = [*_restarts(before, facts, self._place, now)]
        found += _unserved(facts, self._place, now)
        observations = [Observation(self.name, self._place, "", tuple(found))]
        notes = facts.at_s - self._noted_s >= WINDOW_S
        by_model: dict[str, list[Finding]] = {}
        for label, count in facts.versions.items():
            counted = _between(before.versions.get(label), count)
            history = self._slow.setdefault(label, deque(maxlen=_HISTORY))
            found = by_model.setdefault(label[0], [])
            found += _findings(
                label, counted, facts.bounds_s, history, self._limits, self._place, now
            )
            p99_s = quantile_s(counted.buckets, facts.bounds_s, 0.99)
            if notes and p99_s is not None and sum(counted.buckets) >= P99_REQUESTS:
                history.append(p99_s)
        self._noted_s = facts.at_s if notes else self._noted_s
        return observations + [
            Observation(self.name, self._place, model, tuple(found))
            for model, found in by_model.items()
        ]


def _unserved(facts: ServerFacts, place: str, now: datetime) -> Iterator[Finding]:
    """Of the server itself: an endpoint need not have the name of a model."""
    for endpoint, sentence in facts.unserved.items():
        yield Finding(
            "health", "plan_not_served", "", "critical", sentence, None, None, now,
            column=endpoint, place=place, evidence=f"bascule endpoints {endpoint}",
        )  # fmt: skip


def _findings(
    label: tuple[str, str],
    counted: VersionCount,
    bounds_s: Sequence[float],
    history: Sequence[float],
    limits: HealthLimits,
    place: str,
    now: datetime,
) -> Iterator[Finding]:
    model, version = label
    requests = sum(counted.by_status.values())
    failed = sum(n for status, n in counted.by_status.items() if status >= 500)
    refused = sum(counted.by_status.get(status, 0) for status in _REFUSED)
    minutes = f"{WINDOW_S / 60:.0f} minutes"

    def made(kind: str, severity: Severity, sentence: str, value: float, limit: float) -> Finding:
        return Finding(
            "health", kind, model, severity, f"{model}/{version} on {place}: {sentence}", value,
            limit, now, version, place=place, evidence="bascule top",
        )  # fmt: skip

    for kind, count, limit, words in (
        ("error_share", failed, limits.error_share, "failed (status 500 or more)"),
        ("refused_share", refused, limits.refused_share, "were refused (status 429 or 503)"),
    ):
        # The lower end of the interval: one failure among few requests is no finding.
        if requests >= MIN_REQUESTS and exact_interval(count, requests)[0] > limit:
            share = count / requests
            severity: Severity = "critical" if share >= _CRITICAL_SHARE else "warning"
            said = f"{count:,} of {requests:,} requests {words} in {minutes}: {share:.1%}"
            yield made(kind, severity, f"{said}, limit {limit:.1%}", share, limit)
    p99_s = quantile_s(counted.buckets, bounds_s, 0.99)
    if p99_s is None or requests < P99_REQUESTS:
        return
    said = f"99 % of requests took up to {p99_s * 1e3:.4g} ms in {minutes}"
    if limits.latency_p99_s:
        limit = limits.latency_p99_s
        if p99_s > limit:
            yield made(
                "latency_p99", "warning", f"{said}, limit {limit * 1e3:.4g} ms", p99_s, limit
            )
    elif len(history) >= P99_WINDOWS:
        usual = median(history)
        if p99_s > (limit := P99_TIMES * usual):
            beside = f"{P99_TIMES:g} times the usual {usual * 1e3:.4g} ms is the limit"
            yield made("latency_p99", "warning", f"{said}; {beside}", p99_s, limit)


def _restarts(
    before: ServerFacts, after: ServerFacts, place: str, now: datetime
) -> Iterator[Finding]:
    count = after.restarts - before.restarts
    if count > 0:
        severity: Severity = "critical" if count >= _CRITICAL_RESTARTS else "warning"
        times = "once" if count == 1 else f"{count} times"
        said = f"workers on {place} were started again {times} in {WINDOW_S / 60:.0f} minutes"
        yield Finding(
            "health", "restarts", "", severity, said, count, 0, now, place=place,
            evidence="bascule top",
        )  # fmt: skip


def _between(before: VersionCount | None, after: VersionCount) -> VersionCount:
    if before is None:
        return after
    statuses = {
        status: count - before.by_status.get(status, 0) for status, count in after.by_status.items()
    }
    buckets = (n - m for n, m in zip(after.buckets, before.buckets, strict=True))
    return VersionCount(statuses, tuple(buckets))


def quantile_s(buckets: Sequence[int], bounds_s: Sequence[float], share: float) -> float | None:
    """The quantile, taken as linear inside of its bucket; None without requests.

    Above all bounds it is the last bound.
    """
    total = sum(buckets)
    if not total:
        return None
    rest = share * total
    for index, count in enumerate(buckets):
        if rest <= count and count:
            if index == len(bounds_s):
                break
            low = bounds_s[index - 1] if index else 0.0
            return low + (bounds_s[index] - low) * rest / count
        rest -= count
    return bounds_s[-1]
