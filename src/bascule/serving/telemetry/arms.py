"""Counters per endpoint, plan and arm, in the shared file of `counters`.

The supervisor names an arm before a plan is loaded; each worker is the only writer of its region.
There is room for the arms of many plans, and the oldest ones that no plan needs make room for new
ones: a reader that looks every few seconds misses none. A place that is given to another arm has
another *generation*, so that a late answer of the arm before is counted nowhere.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bascule.core import Unavailable
from bascule.serving.telemetry.answers import (
    LEAST_SAMPLE,
    AnswerCounter,
    AnswerRegions,
    AnswerTotals,
    Event,
    events_of,
)
from bascule.stats.durations import BOUNDS_NS, CLASS_PLACES, PLACES as DURATION_PLACES, sparse

if TYPE_CHECKING:
    from bascule.endpoints import Plan


class Series(Protocol):
    """Where the answers of a version are counted; see `counters.MetricSeries`."""

    totals: Any

    def count(self, status: int, duration_ns: int, rows: int, protocol: str = "") -> None: ...

    def count_failure(self) -> None: ...


SHADOW_ARM = "shadow"
"""The name under which the answers of a shadow are counted."""
PLACES = 1_024
_LABEL_BYTES = 768
_FRONT_WORDS = 1 + _LABEL_BYTES // 8
"""Of a place: its generation, then its label as JSON, ended by NUL."""
_MODEL_FAILED = frozenset((500, 503, 504))
(
    _REQUESTS, _ERRORS, _FALLBACKS, _ROWS, _DISAGREEMENTS, _DROPPED, _FIRST_SLOWER,
) = range(7)  # fmt: skip
_MAX_SLOWER = 6
_WORDS = _FIRST_SLOWER + _MAX_SLOWER


@dataclass(frozen=True, slots=True)
class ArmLabel:
    """What a place counts.

    Attributes:
        endpoint: The endpoint.
        plan: The number of the plan.
        arm: The arm's name, or `shadow`.
        version: `MODEL/NUMBER`.
        slower_than_s: The durations above which answers are counted; see `Plan`.
        is_compared: Whether the plan is of a rollout: durations are counted in fine bins.
    """

    endpoint: str
    plan: int
    arm: str
    version: str
    slower_than_s: tuple[float, ...] = ()
    is_compared: bool = False

    def to_bytes(self) -> bytes:
        """JSON, which contains no NUL."""
        label = [
            self.endpoint, self.plan, self.arm, self.version, self.slower_than_s, self.is_compared,
        ]  # fmt: skip
        return json.dumps(label).encode()

    @classmethod
    def from_bytes(cls, said: bytes) -> ArmLabel:
        endpoint, plan, arm, version, slower_than_s, is_compared = json.loads(said)
        return cls(endpoint, plan, arm, version, tuple(slower_than_s), is_compared)


@dataclass(frozen=True, slots=True)
class ArmTotals:
    """What all workers of a server have counted for one arm of one plan.

    Attributes:
        endpoint: The endpoint.
        plan_number: The number of the plan.
        arm: The arm's name; `shadow` for the shadow.
        version: `MODEL/NUMBER`.
        requests: Answers; those of a shadow are comparisons.
        errors: Answers with 500, 503 or 504; failures of a shadow.
        fallbacks: Answers that the fallback gave.
        slower: Answers that took longer than each of `slower_than_s`.
        slower_than_s: The durations of the plan.
        rows: Rows answered.
        disagreements: Of a shadow: answers that differ from what the client got.
        dropped: Of a shadow: sampled requests that it did not answer, because it was busy.
        durations: Of an arm of a rollout, if asked for: places and counts of answers with 200; see
            `stats.durations`.
        answers: Likewise: what its answers are.
    """

    endpoint: str
    plan_number: int
    arm: str
    version: str
    requests: int
    errors: int
    fallbacks: int
    slower: tuple[int, ...]
    slower_than_s: tuple[float, ...] = ()
    rows: int = 0
    disagreements: int = 0
    dropped: int = 0
    durations: tuple[int, ...] = ()
    answers: AnswerTotals = field(default_factory=AnswerTotals)


def labels_of(plan: Plan) -> list[ArmLabel]:
    """What a plan counts: each arm, and the shadow."""
    named = [(arm.name, arm.version) for arm in plan.arms]
    if plan.shadow is not None:
        named.append((SHADOW_ARM, plan.shadow.version))
    return [
        ArmLabel(plan.endpoint, plan.number, name, version, plan.slower_than_s, bool(plan.rollout))
        for name, version in named
    ]


class ArmSeries:
    """The counters of one worker for one arm, on top of those of its version (a `MetricSeries`)."""

    __slots__ = (
        "_answers", "_base", "_count", "_durations", "_generation", "_generation_at", "_series",
        "_slower", "_words", "answers", "label", "totals",
    )  # fmt: skip

    def __init__(
        self,
        words: memoryview,
        place: tuple[int, int, int, int],
        of: ArmLabel,
        series: Series,
        label: Any,
        answers: Callable[[Callable[[], bool]], AnswerCounter],
    ) -> None:
        """`place`: where the generation is, the generation, and where counts and durations are."""
        self._words = words
        self._generation_at, self._generation, self._base, durations = place
        first = self._base + _FIRST_SLOWER
        places = enumerate(of.slower_than_s, first)
        # The lowest bound first: most answers are below all.
        self._slower = tuple(sorted((int(bound_s * 1e9), at) for at, bound_s in places))
        self._durations = durations if of.is_compared else 0
        self._series = series
        self._count = series.count
        self.label = label
        self.totals = series.totals
        self.answers: AnswerCounter | None = None
        self._answers = answers

    def count_answers(self) -> AnswerCounter:
        """Look at the answers from now on."""
        if self.answers is None:
            self.answers = self._answers(self._is_current)
        return self.answers

    def _is_current(self) -> bool:
        return bool(self._words[self._generation_at] == self._generation)

    def count(self, status: int, duration_ns: int, rows: int, protocol: str = "") -> None:
        """See `MetricSeries.count`."""
        self._count(status, duration_ns, rows, protocol)
        words, base = self._words, self._base  # as `count_arm`, without the call
        if words[self._generation_at] == self._generation:
            words[base + _REQUESTS] += 1
            if status == 200:
                words[base + _ROWS] += rows
                if at := self._durations:  # as `stats.durations.place_of`, without the call
                    if rows > 3:
                        at += CLASS_PLACES[rows.bit_length()]
                    words[at + bisect_left(BOUNDS_NS, duration_ns)] += 1
            elif status in _MODEL_FAILED:
                words[base + _ERRORS] += 1
            for bound_ns, at in self._slower:
                if duration_ns <= bound_ns:
                    break
                words[at] += 1

    def count_arm(self, duration_ns: int, rows: int, *, failed: bool) -> None:
        """Note an answer of the arm, and nothing of its version."""
        words, base = self._words, self._base
        if words[self._generation_at] != self._generation:
            return
        words[base + _REQUESTS] += 1
        words[base + _ROWS] += rows
        if failed:
            words[base + _ERRORS] += 1
        for bound_ns, at in self._slower:
            if duration_ns <= bound_ns:
                break
            words[at] += 1

    def count_failure(self) -> None:
        """See `MetricSeries.count_failure`."""
        self._series.count_failure()

    def count_fallback(self) -> None:
        """Note that the fallback answered in the place of the arm."""
        self._add(_FALLBACKS)

    def count_disagreement(self) -> None:
        """Note that the shadow's answer differs."""
        self._add(_DISAGREEMENTS)

    def count_dropped(self) -> None:
        """Note a sampled request that the shadow did not answer."""
        self._add(_DROPPED)

    def _add(self, what: int) -> None:
        if self._words[self._generation_at] == self._generation:
            self._words[self._base + what] += 1


class ArmCounters:
    """The part of the shared file for arms: labels, counts by worker, durations by worker.

    Durations are counted for arms of rollouts alone; pages that are not touched take no memory.
    """

    def __init__(self, part: memoryview, workers: int, places: int = PLACES) -> None:
        """`part`: bytes of `size_of(workers, places)`, zeros at first."""
        answers_at = self._counts_bytes(workers, places)
        self._bytes = part
        self._words = part[:answers_at].cast("Q")
        self._workers = workers
        self._places = places
        self._answers = AnswerRegions(part[answers_at:], workers, places)

    @staticmethod
    def size_of(workers: int, places: int = PLACES) -> int:
        answers_bytes = AnswerRegions.size_of(workers, places)
        return ArmCounters._counts_bytes(workers, places) + answers_bytes

    @staticmethod
    def _counts_bytes(workers: int, places: int) -> int:
        return 8 * places * (_FRONT_WORDS + workers * (_WORDS + DURATION_PLACES))

    def name(self, labels: Iterable[ArmLabel], kept: Collection[ArmLabel]) -> None:
        """Give each of `labels` a place. By one process only, and one thread of it.

        Args:
            labels: Arms that are about to be served.
            kept: Arms that are served, which keep their places.

        Raises:
            Unavailable: There are more arms than places.
        """
        wanted = list(labels)
        keep = {one.to_bytes() for one in (*wanted, *kept)}
        taken = [self._said(place) for place in range(self._places)]
        # The oldest generation first; places that were never given have 0.
        free = sorted(
            (place for place, said in enumerate(taken) if said not in keep),
            key=lambda place: self._words[place * _FRONT_WORDS],
        )
        newest = max(self._words[place * _FRONT_WORDS] for place in range(self._places))
        for label in wanted:
            if (said := label.to_bytes()) in taken:
                continue
            if not free:
                raise Unavailable(
                    f"the plans of this server have more than {self._places:,} arms",
                    hint="serve fewer endpoints here",
                )
            newest += 1
            self._give(free.pop(0), said, newest)

    def _give(self, place: int, said: bytes, generation: int) -> None:
        front = place * _FRONT_WORDS
        before = self._said(place)
        is_compared = bool(before) and ArmLabel.from_bytes(before).is_compared
        self._words[front] = generation  # from now on nothing is counted for the arm before
        for worker in range(self._workers):
            self._clear(self._base(worker, place), _WORDS)
            if is_compared:
                self._clear(self._durations(worker, place), DURATION_PLACES)
        if is_compared:
            self._answers.clear(place)
        start = 8 * (front + 1)
        self._bytes[start : start + _LABEL_BYTES] = said.ljust(_LABEL_BYTES, b"\0")

    def _clear(self, start: int, words: int) -> None:
        self._words[start : start + words] = memoryview(bytes(words * 8)).cast("Q")

    def series(self, worker: int, label: ArmLabel, series: Series, metric_label: Any) -> ArmSeries:
        """The counters of a worker for an arm that was named; `series` are those of its version."""
        said = label.to_bytes()
        place = next(one for one in range(self._places) if self._said(one) == said)
        front = place * _FRONT_WORDS
        bases = self._base(worker, place), self._durations(worker, place)
        at = front, self._words[front], *bases
        answers = partial(self._answers.counter, worker, place)
        return ArmSeries(self._words, at, label, series, metric_label, answers)

    def events(self, endpoint: str, plan: int, arm: str) -> tuple[Event, ...] | None:
        """The events that tell other answers from the first ones of an arm; None for too few."""
        for place in self._places_of(endpoint, plan, arm):
            sample, are_labels = self._answers.sample(place)
            if len(sample) >= LEAST_SAMPLE:
                return events_of(sample, are_labels)
        return None

    def set_events(self, endpoint: str, plan: int, events: Sequence[Event]) -> None:
        """Have the workers compare the answers of all arms of a plan."""
        for place in self._places_of(endpoint, plan):
            self._answers.set_events(place, events)

    def _places_of(self, endpoint: str, plan: int, arm: str = "") -> list[int]:
        named = [(place, self._said(place)) for place in range(self._places)]
        labels = [(place, ArmLabel.from_bytes(said)) for place, said in named if said]
        return [
            place
            for place, label in labels
            if (label.endpoint, label.plan) == (endpoint, plan) and arm in ("", label.arm)
        ]

    def totals(self, compared: Collection[tuple[str, int]] = ()) -> list[ArmTotals]:
        """Every arm that has a place, the oldest plan first.

        Args:
            compared: Endpoints and numbers of plans, whose durations are read too.
        """
        found = []
        for place in range(self._places):
            generation = self._words[place * _FRONT_WORDS]
            said = self._said(place)
            if said:
                total = self._total(place, ArmLabel.from_bytes(said), compared)
                if self._words[place * _FRONT_WORDS] == generation:
                    found.append((generation, total))
        return [total for _, total in sorted(found, key=lambda one: one[0])]

    def _total(
        self, place: int, label: ArmLabel, compared: Collection[tuple[str, int]]
    ) -> ArmTotals:
        sums = self._summed(place, self._base, _WORDS).tolist()
        durations: tuple[int, ...] = ()
        answers = AnswerTotals()
        if label.is_compared and (label.endpoint, label.plan) in compared:
            durations = sparse(self._summed(place, self._durations, DURATION_PLACES))
            answers = self._answers.totals(place)
        slower = sums[_FIRST_SLOWER : _FIRST_SLOWER + len(label.slower_than_s)]
        return ArmTotals(
            endpoint=label.endpoint, plan_number=label.plan, arm=label.arm, version=label.version,
            requests=sums[_REQUESTS], errors=sums[_ERRORS], fallbacks=sums[_FALLBACKS],
            slower=tuple(slower), slower_than_s=label.slower_than_s, rows=sums[_ROWS],
            disagreements=sums[_DISAGREEMENTS], dropped=sums[_DROPPED], durations=durations,
            answers=answers,
        )  # fmt: skip

    def _summed(self, place: int, start_of: Callable[[int, int], int], words: int) -> Any:
        total = np.zeros(words, np.int64)
        for worker in range(self._workers):
            start = start_of(worker, place)
            total += np.array(self._words[start : start + words]).astype(np.int64)
        return total

    def _said(self, place: int) -> bytes:
        start = 8 * (place * _FRONT_WORDS + 1)
        return bytes(self._bytes[start : start + _LABEL_BYTES]).rstrip(b"\0")

    def _base(self, worker: int, place: int) -> int:
        return self._places * _FRONT_WORDS + (worker * self._places + place) * _WORDS

    def _durations(self, worker: int, place: int) -> int:
        behind = self._places * (_FRONT_WORDS + self._workers * _WORDS)
        return behind + (worker * self._places + place) * DURATION_PLACES
