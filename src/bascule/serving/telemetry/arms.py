"""Counters per endpoint, plan and arm, in the shared file of `counters`.

The supervisor names an arm before a plan is loaded; each worker is the only writer of its region.
There is room for the arms of many plans, and the oldest ones that no plan needs make room for new
ones: a reader that looks every few seconds misses none. A place that is given to another arm has
another *generation*, so that a late answer of the arm before is counted nowhere.

Requests whose arm was not drawn for them are *bound*: a sticky key has the arm that it had, and a
tester names one. They are counted with all others, and apart. Of a key the first request counts as
evidence: of each unit of keys (`endpoints.KEY_UNITS`) one byte, written by whichever worker is
first, says that it was seen and how it was answered. So that a version that begins to fail later is
seen too, units are counted again in each *round*, by `ROUND_S` ever more seldom.
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
from bascule.endpoints import HOLDBACK, KEY_UNITS
from bascule.serving.calls import Answer
from bascule.serving.telemetry import texts
from bascule.serving.telemetry.answers import (
    LEAST_SAMPLE,
    AnswerCounter,
    AnswerCounts,
    AnswerRegions,
    Event,
    PairCounts,
    events_of,
)
from bascule.serving.telemetry.texts import TextFigures, TextTotals
from bascule.stats import durations as duration_bins

if TYPE_CHECKING:
    from bascule.endpoints import Plan


class Series(Protocol):
    """Where the answers of a version are counted; see `counters.MetricSeries`."""

    totals: Any

    def count(self, status: int, duration_ns: int, rows: int, protocol: str = "") -> None: ...

    def count_failure(self) -> None: ...

    def count_ending(self, ending: str, parts: int) -> None: ...

    def count_text(self, figures: TextFigures) -> None: ...


BOUNDS_NS, CLASS_PLACES = duration_bins.BOUNDS_NS, duration_bins.CLASS_PLACES
DURATION_PLACES = duration_bins.PLACES
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
_SET = _FIRST_SLOWER + _MAX_SLOWER
_TEXTS = 2 * _SET
_WORDS = _TEXTS + texts.WORDS
"""Of requests whose arm was drawn for them, then of others; then of texts of both."""
BOUND_UNIT = -1
"""In the place of a unit: a bound request that is not the first one of its unit."""
FIRST_CLAIMED, FIRST_ANSWERED, FIRST_FAILED, FIRST_FELL_BACK = 1, 2, 4, 8
"""Flags of the byte of a unit: its first request came, was answered, and how."""
ROUND_BITS = 4
"""The byte of a unit has its flags in the lower bits, and the number of the round in the upper."""
ROUND_S = tuple(600.0 * 1.6**number for number in range((1 << ROUND_BITS) - 1))
"""The age of a plan at which each round after the first one begins: 10 minutes to 5 days."""


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
        timed_parts: The parts of a composition whose durations are counted too.
    """

    endpoint: str
    plan: int
    arm: str
    version: str
    slower_than_s: tuple[float, ...] = ()
    is_compared: bool = False
    timed_parts: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """JSON, which contains no NUL."""
        label = [
            self.endpoint, self.plan, self.arm, self.version, self.slower_than_s, self.is_compared,
            self.timed_parts,
        ]  # fmt: skip
        return json.dumps(label).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> ArmLabel:
        endpoint, plan, arm, version, slower_than_s, is_compared, parts = json.loads(data)
        return cls(endpoint, plan, arm, version, tuple(slower_than_s), is_compared, tuple(parts))


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
        pairs: Likewise, of requests that the current version answered too.
        bound: Of the requests, those whose arm was not drawn for them.
        bound_errors: Of the errors, likewise.
        bound_fallbacks: Of the fallbacks, likewise.
        firsts: A byte for each unit of keys, see `FIRST_CLAIMED`; empty where no request has one.
        texts: Of generated answers; None where there are none.
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
    answers: AnswerCounts = field(default_factory=AnswerCounts)
    pairs: PairCounts = field(default_factory=PairCounts)
    bound: int = 0
    bound_errors: int = 0
    bound_fallbacks: int = 0
    firsts: bytes = b""
    texts: TextTotals | None = None


def labels_of(plan: Plan) -> list[ArmLabel]:
    """What a plan counts: each arm, held-back requests, and the shadow."""
    named = [(arm.name, arm.version) for arm in plan.arms]
    if plan.holdback_percent:
        named.append((HOLDBACK, plan.current.version))
    if plan.shadow is not None:
        named.append((SHADOW_ARM, plan.shadow.version))
    return [
        ArmLabel(
            plan.endpoint,
            plan.number,
            name,
            version,
            plan.slower_than_s,
            bool(plan.rollout),
            plan.timed_parts,
        )
        for name, version in named
    ]


class ArmSeries:
    """The counters of one worker for one arm, on top of those of its version (a `MetricSeries`)."""

    __slots__ = (
        "_answers", "_base", "_count", "_durations", "_generation", "_generation_at", "_last_runs",
        "_series", "_slower", "_texts_at", "_timed_parts", "_words", "answers", "bound", "label",
        "totals",
    )  # fmt: skip

    def __init__(
        self,
        words: memoryview,
        place: tuple[int, int, int, int],
        of: ArmLabel,
        series: Series,
        label: Any,
        answers: Callable[[Callable[[], bool]], AnswerCounter],
        firsts: memoryview,
    ) -> None:
        """`place`: where the generation is, the generation, and where counts and durations are."""
        self._words = words
        self._generation_at, self._generation, self._base, durations = place
        self._texts_at = self._base + _TEXTS
        first = self._base + _FIRST_SLOWER
        places = enumerate(of.slower_than_s, first)
        # The lowest bound first: most answers are below all.
        self._slower = tuple(sorted((int(bound_s * 1e9), at) for at, bound_s in places))
        self._durations = durations if of.is_compared else 0
        self._timed_parts = of.timed_parts if of.is_compared else ()
        self._last_runs: dict[str, Any] = {}
        self._series = series
        self._count = series.count
        self.label = label
        self.totals = series.totals
        self.answers: AnswerCounter | None = None
        self._answers = answers
        self.bound = BoundSeries(self, firsts)

    def count_answers(self) -> AnswerCounter:
        """Look at the answers from now on."""
        if self.answers is None:
            self.answers = self._answers(self._is_current)
            if self._timed_parts:
                self.answers.count_parts = self._count_parts
        return self.answers

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

    def count_ending(self, ending: str, parts: int) -> None:
        """See `MetricSeries.count_ending`: by version alone."""
        self._series.count_ending(ending, parts)

    def count_text(self, figures: TextFigures) -> None:
        """See `MetricSeries.count_text`."""
        self._series.count_text(figures)
        if not self._is_current():
            return
        texts.count_text(self._words, self._texts_at, figures)
        if at := self._durations:
            for place in texts.duration_places(figures):
                self._words[at + place] += 1
        if self.answers is not None:
            self.answers.count_text(figures)

    def _count_parts(self, answers: Sequence[Answer]) -> None:
        """Count how long parts took in each run; see `CompositionProgram.complete`.

        Requests that ran together have one time, and are no evidence one by one.
        """
        for of, part in zip(duration_bins.PARTS, self._timed_parts, strict=False):
            name = f"{part}.ms"
            inputs = (answer.inputs or {} for answer in answers)
            times = [columns[name] for columns in inputs if name in columns]
            bases = [rows if rows.base is None else rows.base for rows in times]
            last = self._last_runs.get(part)  # a block of answers may end within a run
            runs = {id(base): base for base in bases if base is not last}
            self._last_runs[part] = bases[-1] if bases else last
            ns = np.array([np.fmax.reduce(run, initial=np.nan) for run in runs.values()]) * 1e6
            bins = duration_bins.bins_of(ns[ns >= 0])  # NaN where it ran for no row
            first = self._durations + of * duration_bins.BINS
            for place, count in enumerate(np.bincount(bins).tolist(), first):
                if count:
                    self._words[place] += count

    def count_disagreement(self) -> None:
        """Note that the shadow's answer differs."""
        self._add(_DISAGREEMENTS)

    def count_dropped(self) -> None:
        """Note a sampled request that the shadow did not answer."""
        self._add(_DROPPED)

    def _is_current(self) -> bool:
        return bool(self._words[self._generation_at] == self._generation)

    def _add(self, what: int) -> None:
        if self._words[self._generation_at] == self._generation:
            self._words[self._base + what] += 1


class BoundSeries(ArmSeries):
    """Counts requests whose arm was not drawn for them, in words of their own.

    Their answers are looked at where they are the first ones of their units.
    """

    __slots__ = ("_firsts", "drawn")

    def __init__(self, drawn: ArmSeries, firsts: memoryview) -> None:
        """`firsts`: a byte for each unit of keys, of all workers."""
        for name in ArmSeries.__slots__:
            if name != "bound":
                setattr(self, name, getattr(drawn, name))
        self.drawn = drawn
        self._base += _SET
        self._slower = tuple((bound_ns, at + _SET) for bound_ns, at in self._slower)
        self._firsts = firsts

    def leave_out_durations(self) -> None:
        """Compare no durations from now on: which requests come here depends on their inputs."""
        self._durations = 0

    def first_of(self, unit: int, round_number: int) -> FirstSeries | None:
        """Where the first request of a unit in a round is counted; None for any other one."""
        known = self._firsts[unit]
        if (known and known >> ROUND_BITS >= round_number) or not self._is_current():
            return None
        flags = round_number << ROUND_BITS | FIRST_CLAIMED
        self._firsts[unit] = flags
        return FirstSeries(self, unit, flags)

    def note_first(self, unit: int, flags: int) -> None:
        """Note how the first request of a unit was answered."""
        if self._is_current():
            self._firsts[unit] = flags


class FirstSeries:
    """Where one request is counted: the first one of its unit of keys in a round."""

    __slots__ = ("_bound", "_flags", "_unit", "label")

    def __init__(self, bound: BoundSeries, unit: int, flags: int) -> None:
        self._bound = bound
        self._unit = unit
        self._flags = flags | FIRST_ANSWERED
        self.label = bound.label

    @property
    def answers(self) -> AnswerCounter | None:
        """See `ArmSeries.answers`."""
        return self._bound.drawn.answers

    def count(self, status: int, duration_ns: int, rows: int, protocol: str = "") -> None:
        """See `MetricSeries.count`."""
        self._bound.count(status, duration_ns, rows, protocol)
        failed = FIRST_FAILED if status in _MODEL_FAILED else 0
        self._bound.note_first(self._unit, self._flags | failed)

    def count_fallback(self) -> None:
        """See `ArmSeries.count_fallback`."""
        self._bound.count_fallback()
        self._flags |= FIRST_FELL_BACK

    def count_ending(self, ending: str, parts: int) -> None:
        """See `MetricSeries.count_ending`."""
        self._bound.count_ending(ending, parts)

    def count_text(self, figures: TextFigures) -> None:
        """See `MetricSeries.count_text`."""
        self._bound.count_text(figures)
        if self.answers is not None:
            self.answers.count_text(figures)


class ArmCounters:
    """The part of the shared file for arms: labels, counts and durations by worker, units of keys.

    Durations and keys are counted for arms of rollouts alone; pages that are not touched take no
    memory.
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
        return ArmCounters._counts_bytes(workers, places) + answers_bytes + places * KEY_UNITS

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
        named = list(labels)
        keep = {arm.to_bytes() for arm in (*named, *kept)}
        taken = [self._said(place) for place in range(self._places)]
        # The oldest generation first; places that were never given have 0.
        free = sorted(
            (place for place, data in enumerate(taken) if data not in keep),
            key=lambda place: self._words[place * _FRONT_WORDS],
        )
        newest = max(self._words[place * _FRONT_WORDS] for place in range(self._places))
        for label in named:
            if (data := label.to_bytes()) in taken:
                continue
            if not free:
                raise Unavailable(
                    f"the plans of this server have more than {self._places:,} arms",
                    hint="serve fewer endpoints here",
                )
            newest += 1
            self._give(free.pop(0), data, newest)

    def _give(self, place: int, data: bytes, generation: int) -> None:
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
            self._firsts(place)[:] = bytes(KEY_UNITS)
        start = 8 * (front + 1)
        self._bytes[start : start + _LABEL_BYTES] = data.ljust(_LABEL_BYTES, b"\0")

    def _clear(self, start: int, words: int) -> None:
        self._words[start : start + words] = memoryview(bytes(words * 8)).cast("Q")

    def series(self, worker: int, label: ArmLabel, series: Series, metric_label: Any) -> ArmSeries:
        """The counters of a worker for an arm that was named; `series` are those of its version."""
        data = label.to_bytes()
        place = next(number for number in range(self._places) if self._said(number) == data)
        front = place * _FRONT_WORDS
        bases = self._base(worker, place), self._durations(worker, place)
        at = front, self._words[front], *bases
        answers = partial(self._answers.counter, worker, place)
        return ArmSeries(self._words, at, label, series, metric_label, answers, self._firsts(place))

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
        labels = [(place, ArmLabel.from_bytes(data)) for place, data in named if data]
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
        known = []
        for place in range(self._places):
            generation = self._words[place * _FRONT_WORDS]
            data = self._said(place)
            if data:
                total = self._total(place, ArmLabel.from_bytes(data), compared)
                if self._words[place * _FRONT_WORDS] == generation:
                    known.append((generation, total))
        return [total for _, total in sorted(known, key=lambda item: item[0])]

    def _total(
        self, place: int, label: ArmLabel, compared: Collection[tuple[str, int]]
    ) -> ArmTotals:
        words = self._summed(place, self._base, _WORDS)
        both = words[:_TEXTS].reshape(2, _SET)
        sums, bound = both.sum(axis=0).tolist(), both[1].tolist()
        durations: tuple[int, ...] = ()
        answers, pairs = AnswerCounts(), PairCounts()
        if label.is_compared and (label.endpoint, label.plan) in compared:
            durations = duration_bins.sparse(self._summed(place, self._durations, DURATION_PLACES))
            answers, pairs = self._answers.totals(place)
        slower = sums[_FIRST_SLOWER : _FIRST_SLOWER + len(label.slower_than_s)]
        return ArmTotals(
            endpoint=label.endpoint, plan_number=label.plan, arm=label.arm, version=label.version,
            requests=sums[_REQUESTS], errors=sums[_ERRORS], fallbacks=sums[_FALLBACKS],
            slower=tuple(slower), slower_than_s=label.slower_than_s, rows=sums[_ROWS],
            disagreements=sums[_DISAGREEMENTS], dropped=sums[_DROPPED], durations=durations,
            answers=answers, pairs=pairs, bound=bound[_REQUESTS], bound_errors=bound[_ERRORS],
            bound_fallbacks=bound[_FALLBACKS],
            firsts=bytes(self._firsts(place)) if bound[_REQUESTS] else b"",
            texts=texts.totals_of(words[_TEXTS:].tolist()),
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

    def _firsts(self, place: int) -> memoryview:
        start = self.size_of(self._workers, self._places) - (self._places - place) * KEY_UNITS
        return self._bytes[start : start + KEY_UNITS]
