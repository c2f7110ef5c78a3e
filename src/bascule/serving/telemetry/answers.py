"""What the answers of an arm are: counted in blocks, in the shared file of `counters`.

A rollout compares the answers of two versions by the rates of a few *events*: "the label is 3",
"the value is at most 0.31". Which events is found from a sample of the current version's answers on
the same traffic (`events_of`), once for a rollout, so that no baseline and no ledger is needed. Of
a request with several rows one row is looked at, drawn at random: requests are what is assigned to
an arm. All rows are searched for values that are no finite number.

An answer costs the event loop a reference; blocks of `BLOCK` are counted together. Above
`_MOST_PER_S` answers a second blocks are left out at random.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from hashlib import blake2b
from math import prod
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from bascule.bundle.statements import USUAL
from bascule.core import Columns, DType, Field
from bascule.serving.calls import Answer, AnsweredBy
from bascule.serving.telemetry.texts import TextFigures

Floats = NDArray[np.float64]

BLOCK = 128
SAMPLE = 256
"""Answers of the current version, of each worker at most, from which the events are found."""
LEAST_SAMPLE = 200
MAX_EVENTS, MAX_VIEWS = 16, 4
_MOST_PER_S = 512
_LEVELS = 7
_BAND = 0.06
_MOST_CATEGORIES = 12
_FEW_ROWS = 256
_UNORDERED = ("text", "place")

_EVENTS_BYTES = 1_024
_UNUSABLE, _CHANGES, _FIRST_EVENT = 0, 1, 2
_COMPARED = _FIRST_EVENT + MAX_EVENTS
_LOOKED, _GAINED = _COMPARED + 1, _COMPARED + 2
_LOST = _GAINED + MAX_EVENTS
(
    _ALIKE, _CROSSED, _TIES, _STILL, _PAIRED, _SAMPLED, _LABELS, _TEXTS, _REFUSED, _CHECKED,
    _MALFORMED, _COUNTS,
) = range(_LOST + MAX_EVENTS, _LOST + MAX_EVENTS + 12)  # fmt: skip
"""Parts come before their totals: a reader goes up, and so finds no more parts than there are."""
_WORDS = _COUNTS + SAMPLE * MAX_VIEWS

_random = np.random.default_rng()


class Event(NamedTuple):
    """One way to tell answers apart.

    Attributes:
        view: The place of the number that is looked at; see `views_of`.
        value: That it is compared with.
        is_label: Whether it is to equal the value, a whole number; otherwise it may be less too.
    """

    view: int
    value: float
    is_label: bool


class View(NamedTuple):
    """A number of an answer: of an output, as it is, or the place or size of its greatest."""

    output: str
    take: str


class AnswerCounts(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of a sample of the answers of one arm.

    Attributes:
        looked: Answers that were searched for values that are no finite number.
        unusable: Of them, those that have one, of a model that did not declare them.
        compared: Answers that were compared with the values that the rollout has chosen.
        changes: Of them, those that differ from the answer before.
        texts: Generated answers.
        refused: Of them, those that begin as refusals do.
        checked: Of them, those that were asked for in a JSON schema.
        malformed: Of these, those that break it.
        events: Of them, those of which each event is true: a label, or a value up to a bound.
    """

    looked: int = 0
    unusable: int = 0
    compared: int = 0
    changes: int = 0
    texts: int = 0
    refused: int = 0
    checked: int = 0
    malformed: int = 0
    events: tuple[int, ...] = ()


class PairCounts(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of requests of the candidate that the current version answered too.

    Attributes:
        alike: Of two such requests, so often both versions put the same one first.
        crossed: So often they do not.
        ties: So often one of them puts none first.
        still: So often the candidate answers both alike, and the current version does not.
        compared: Requests whose two answers were compared with the values of the rollout.
        gained: Of them, those with an event that is true of the candidate's answer alone, by event.
        lost: Those with an event that is true of the current version's answer alone.
    """

    alike: int = 0
    crossed: int = 0
    ties: int = 0
    still: int = 0
    compared: int = 0
    gained: tuple[int, ...] = ()
    lost: tuple[int, ...] = ()


def views_of(outputs: Sequence[Field]) -> tuple[View, ...]:
    """What of an answer is compared: four numbers at most, the answer proper first."""
    views: list[View] = []
    for field in outputs:
        width = prod(field.shape) if min(field.shape, default=1) >= 0 else 0
        if width == 1:
            takes = [_TAKES.get(field.dtype, "label")]
        elif field.dtype is DType.BYTES or not width:
            continue
        else:  # of two probabilities the other one says the same
            takes = ["last"] if width == 2 else ["place", "greatest"]
        views += [View(field.name, take) for take in takes]
    return tuple(views[:MAX_VIEWS])


_TAKES = {
    DType.BYTES: "text", DType.FP16: "number", DType.FP32: "number", DType.FP64: "number",
}  # fmt: skip
_TEXT_CODES: dict[object, float] = {}


def _code(text: object) -> float:
    """A number for a text, exact in FP64 and the same in every process."""
    known = _TEXT_CODES.get(text)
    if known is None:
        digest = blake2b(str(text).encode("utf-8", "surrogatepass"), digest_size=6).digest()
        known = float(int.from_bytes(digest))
        if len(_TEXT_CODES) < 10_000:
            _TEXT_CODES[text] = known
    return known


def _taken(take: str, rows: NDArray[Any]) -> Floats:
    """A number of each row. Shape (rows, ...) to (rows,)."""
    if take == "text":
        return np.array([_code(text) for text in rows.ravel().tolist()], np.float64)
    flat = rows.reshape(len(rows), -1)
    if take == "place":
        column = flat.argmax(axis=1)
    else:
        column = flat.max(axis=1) if take == "greatest" else flat[:, -1]
    numbers: Floats = column.astype(np.float64)
    return numbers


def events_of(sample: Floats, are_labels: NDArray[np.bool_]) -> tuple[Event, ...]:
    """The events that tell other answers from those of a sample.

    Few different whole numbers are labels: each of the most frequent ones, but for the last. Other
    numbers: at most the value at each of seven quantiles, set in the widest gap near it, so that a
    version whose answers are alike but for rounding is not told apart. Many labels are such numbers
    too, of which each bound divides them in two groups. A single value tells nothing, unless it is
    a label.

    Args:
        sample: Answers of the current version. Shape (answers, views); NaN for no view.
        are_labels: Of each view, whether its values are labels. Shape (views,).
    """
    columns = [(place, column[np.isfinite(column)]) for place, column in enumerate(sample.T)]
    columns = [(place, column) for place, column in columns if len(column)]
    each = min(_LEVELS, MAX_EVENTS // max(len(columns), 1))
    events: list[Event] = []
    for place, column in columns:
        values, counts = np.unique(column, return_counts=True)
        is_whole = bool((values == np.round(values)).all())
        if len(values) == 1 and not are_labels[place]:
            continue
        if is_whole and len(values) <= _MOST_CATEGORIES:
            frequent = values[np.argsort(-counts, kind="stable")]
            frequent = frequent[: min(each, max(len(values) - 1, 1))]
            events += [Event(place, float(value), True) for value in frequent]
        else:
            events += [Event(place, edge, False) for edge in _edges(values, counts, each)]
    return tuple(events)


def _edges(values: Floats, counts: NDArray[np.int64], count: int) -> list[float]:
    """Values between those of the sample, near `count` evenly spaced quantiles."""
    below = np.cumsum(counts)[:-1] / counts.sum()
    gaps = np.diff(values)
    edges: list[float] = []
    for level in np.arange(1, count + 1) / (count + 1):
        near = np.flatnonzero(np.abs(below - level) <= _BAND)
        if not len(near):
            near = np.array([int(np.abs(below - level).argmin())])
        gap = int(near[gaps[near].argmax()])
        edges.append(float((values[gap] + values[gap + 1]) / 2))
    return sorted(set(edges))


_Events = tuple[NDArray[np.intp], Floats, NDArray[np.bool_]]
"""Events as arrays: view, value, and whether it is a label."""


def _are_true(values: Floats, events: _Events) -> NDArray[np.bool_]:
    """Of answers, shape (answers, views), which events are true. Shape (answers, events)."""
    views, edges, are_labels = events
    looked = values[:, views]
    return np.where(are_labels, np.abs(looked - edges) < 0.5, looked <= edges)


def agreement(first: Floats, second: Floats, are_labels: NDArray[np.bool_]) -> int:
    """Whether two versions order two rows alike (1), otherwise (-1), or neither.

    Args:
        first: What the candidate and the current version answer to a row. Shape (2, views).
        second: The same of another row.
        are_labels: Of each view, whether its values have no order. Shape (views,).

    Returns:
        The least of the votes of the labels; where both versions give both rows one label, the
        majority of the others. An exchange of labels that leaves the probabilities beside them
        alone is one all the same. Two versions that share no label vote against, for two of many
        classes seldom meet. If the candidate's answers do not depend on the row, 1 is at most as
        likely as -1, as the rows may be exchanged (Kendall 1938).
    """
    matches = (first[0] == first[1]) * 1 + (second[0] == second[1])
    crossed = (first[0] == second[1]) * 1 + (second[0] == first[1])
    votes = np.where(matches + crossed, np.sign(matches - crossed), -1)[are_labels]
    if votes.any():
        return int(votes[votes != 0].min())
    if (matches[are_labels] == 1).any():
        return 0
    numbers = first[:, ~are_labels]
    moves = numbers - second[:, ~are_labels]
    moves[np.abs(moves) <= USUAL * np.abs(numbers)] = 0.0  # rounding would order them otherwise
    return int(np.sign(np.nansum(np.sign(moves[0] * moves[1]))))


class AnswerCounter:
    """Counts the answers of one arm in one worker. On the event loop only."""

    __slots__ = (
        "_block", "_counts", "_events", "_events_bytes", "_fields", "_is_current", "_kept_share",
        "_last", "_sample", "_seen", "_skips", "_views", "allows_non_finite", "by", "count_parts",
    )  # fmt: skip

    def __init__(
        self, region: memoryview, events: memoryview, is_current: Callable[[], bool]
    ) -> None:
        """`region`: of this worker and arm; `events`: of the arm, see `AnswerRegions`.

        `is_current`: whether the place is still that of this arm.
        """
        words = np.frombuffer(region, np.int64)
        self._counts = words[:_COUNTS]
        self._sample = np.frombuffer(region, np.float64)[_COUNTS:].reshape(SAMPLE, MAX_VIEWS)
        self._events_bytes = events
        self._is_current = is_current
        self._events: _Events | None = None
        self._fields: tuple[Field, ...] = ()
        self._views: tuple[View, ...] = ()
        self.allows_non_finite = True
        self.by: AnsweredBy | None = None
        self.count_parts: Callable[[Sequence[Answer]], None] | None = None
        self._block: list[Answer] = []
        self._last: Floats | None = None
        self._skips = self._seen = 0
        self._kept_share = 1.0

    def describe(
        self, by: AnsweredBy, outputs: Sequence[Field], *, allows_non_finite: bool
    ) -> None:
        """Say whose answers are counted, and what their outputs are."""
        self.by = by
        self._fields, self._views = tuple(outputs), views_of(outputs)
        self.allows_non_finite = allows_non_finite

    @property
    def is_comparing(self) -> bool:
        """Whether the events are known by which answers are compared."""
        return (self._events or self._read_events()) is not None

    @property
    def are_labels(self) -> NDArray[np.bool_]:
        """Of each view, whether its values have no order: also those of labels that are numbers."""
        return np.array(
            [
                view.take in _UNORDERED or view.output.partition(".")[0] == "label"
                for view in self._views
            ],
            np.bool_,
        )

    def add(self, answer: Answer | None) -> None:
        """Take an answer in. It may be of another version, as that of a fallback."""
        if self._skips:
            self._skips -= 1
            return
        if answer is None or answer.by is not self.by:
            return
        self._block.append(answer)
        if len(self._block) >= BLOCK or len(next(iter(answer.outputs.values()), ())) > _FEW_ROWS:
            self._flush()

    def count_text(self, text: TextFigures) -> None:
        """Count a generated answer; parts come after their totals, see `_WORDS`."""
        if self._is_current() and text.is_whole:
            counts = self._counts
            counts[_TEXTS] += 1
            counts[_REFUSED] += text.is_refusal
            counts[_CHECKED] += text.is_malformed is not None
            counts[_MALFORMED] += bool(text.is_malformed)

    def tick(self) -> None:
        """Once a second: count what has come, and set the share that is counted from now on."""
        self._flush()
        self._kept_share = min(1.0, _MOST_PER_S / max(self._seen, 1))
        self._seen = 0

    def count_pairs(self, first: Floats, second: Floats) -> None:
        """Compare two requests that both versions answered.

        Args:
            first: What the candidate and the current version answered to one. Shape (2, views).
            second: To the other. The same shape.
        """
        if not self._is_current():
            return
        counts, order = self._counts, agreement(first, second, self.are_labels)
        is_still = (first[0] == second[0]).all() and (first[1] != second[1]).any()
        counts[_STILL] += is_still
        counts[(_TIES, _ALIKE, _CROSSED)[order]] += 1
        if (events := self._events or self._read_events()) is None:
            return
        counts[_PAIRED] += 2
        for pair in (first, second):
            candidate, current = _are_true(pair, events)
            counts[_GAINED : _GAINED + len(candidate)] += candidate & ~current
            counts[_LOST : _LOST + len(candidate)] += current & ~candidate

    def _flush(self) -> None:
        block, self._block = self._block, []
        if not block:
            return
        if self._kept_share < 1.0:
            self._skips = BLOCK * int(_random.geometric(self._kept_share) - 1)
        self._seen += len(block) + self._skips
        if self._is_current():
            self._count([answer.original or answer.outputs for answer in block])
            if self.count_parts is not None:
                self.count_parts(block)

    def _count(self, answers: list[Columns]) -> None:
        """Parts are written after their totals; see `_WORDS`."""
        counts = self._counts
        values, unusable = self.values(answers)
        counts[_LOOKED] += len(answers)
        if unusable and not self.allows_non_finite:
            counts[_UNUSABLE] += unusable
        if values is None:
            return
        events = self._events or self._read_events()
        if events is None:
            self._keep(values)
            return
        counts[_COMPARED] += len(values)
        true = _are_true(values, events).sum(axis=0)
        counts[_FIRST_EVENT : _FIRST_EVENT + len(true)] += true
        before = values[:1] if self._last is None else self._last
        all_values = np.concatenate([before, values])
        counts[_CHANGES] += (all_values[1:] != all_values[:-1]).any(axis=1).sum()
        self._last = values[-1:]

    def values(self, answers: list[Columns]) -> tuple[Floats | None, int]:
        """The views of a row of each answer, and how many answers have a value that is not finite.

        None where an answer lacks an output, as where its caller chose some, or rows differ in
        shape.
        """
        columns: dict[str, NDArray[Any]] = {}
        is_unusable = np.zeros(len(answers), bool)
        starts: Any = None
        for field in self._fields:
            try:
                arrays = [outputs[field.name] for outputs in answers]
                rows = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
            except (KeyError, ValueError):
                return None, int(is_unusable.sum())
            if starts is None and len(rows) > len(answers):
                sizes = np.fromiter(map(len, arrays), np.intp, len(arrays))
                starts = np.cumsum(sizes) - sizes
                picks = starts + (_random.random(len(sizes)) * sizes).astype(np.intp)
            if rows.dtype.kind == "f" and not (finite := np.isfinite(rows)).all():
                is_bad = ~finite.reshape(len(rows), -1).all(axis=1)
                is_unusable |= is_bad if starts is None else np.logical_or.reduceat(is_bad, starts)
            columns[field.name] = rows if starts is None else rows[picks]
        views = [_taken(view.take, columns[view.output]) for view in self._views]
        values = np.stack(views, axis=1) if views else None
        return values, int(is_unusable.sum())

    def _keep(self, values: Floats) -> None:
        sampled = int(self._counts[_SAMPLED])
        part = values[: SAMPLE - sampled]
        self._sample[sampled : sampled + len(part)] = np.nan
        self._sample[sampled : sampled + len(part), : part.shape[1]] = part
        labels = [view.take in ("label", *_UNORDERED) for view in self._views]
        self._counts[_LABELS] = sum(is_label << place for place, is_label in enumerate(labels))
        self._counts[_SAMPLED] += len(part)

    def _read_events(self) -> _Events | None:
        if not self._events_bytes[0]:
            return None
        events = [Event(*one) for one in json.loads(bytes(self._events_bytes).rstrip(b"\0"))]
        self._events = (
            np.array([one.view for one in events], np.intp),
            np.array([one.value for one in events], np.float64),
            np.array([one.is_label for one in events], np.bool_),
        )
        return self._events


class AnswerRegions:
    """The part of the shared file for answers: events of each arm, then a region per worker."""

    def __init__(self, part: memoryview, workers: int, places: int) -> None:
        """`part`: bytes of `size_of(workers, places)`, zeros at first."""
        self._bytes, self._workers, self._places = part, workers, places

    @staticmethod
    def size_of(workers: int, places: int) -> int:
        return places * (_EVENTS_BYTES + workers * _WORDS * 8)

    def clear(self, place: int) -> None:
        """Give a place to another arm."""
        self._front(place)[:] = bytes(_EVENTS_BYTES)
        for worker in range(self._workers):
            self._region(worker, place)[: 8 * _COUNTS] = bytes(8 * _COUNTS)

    def counter(self, worker: int, place: int, is_current: Callable[[], bool]) -> AnswerCounter:
        """Of a worker."""
        return AnswerCounter(self._region(worker, place), self._front(place), is_current)

    def totals(self, place: int) -> tuple[AnswerCounts, PairCounts]:
        """The sum over the workers."""
        totals = np.zeros(_COUNTS, np.int64)
        for worker in range(self._workers):
            totals += np.frombuffer(self._region(worker, place), np.int64, _COUNTS)
        sums: list[int] = totals.tolist()
        events = tuple(sums[_FIRST_EVENT:_COMPARED])
        return AnswerCounts(
            sums[_LOOKED], sums[_UNUSABLE], sums[_COMPARED], sums[_CHANGES],
            sums[_TEXTS], sums[_REFUSED], sums[_CHECKED], sums[_MALFORMED],
            events if any(events) else (),
        ), PairCounts(
            sums[_ALIKE], sums[_CROSSED], sums[_TIES], sums[_STILL], sums[_PAIRED],
            tuple(sums[_GAINED:_LOST]), tuple(sums[_LOST:_ALIKE]),
        )  # fmt: skip

    def sample(self, place: int) -> tuple[Floats, NDArray[np.bool_]]:
        """The first answers, of all workers, and which views are labels; see `events_of`."""
        parts, labels = [np.zeros((0, MAX_VIEWS))], 0
        for worker in range(self._workers):
            region = self._region(worker, place)
            counts = np.frombuffer(region, np.int64, _COUNTS)
            whole = np.frombuffer(region, np.float64)[_COUNTS:].reshape(SAMPLE, MAX_VIEWS)
            parts.append(whole[: counts[_SAMPLED]].copy())
            labels |= int(counts[_LABELS])
        are_labels = np.array([labels >> view & 1 for view in range(MAX_VIEWS)], np.bool_)
        return np.concatenate(parts), are_labels

    def set_events(self, place: int, events: Sequence[Event]) -> None:
        """Have the workers compare from now on; nothing where they already do."""
        front = self._front(place)
        if front[0]:
            return
        encoded = json.dumps(events).encode().ljust(_EVENTS_BYTES, b"\0")
        front[1:] = encoded[1:]
        front[0] = encoded[0]  # last of all: a reader that finds it finds the rest

    def _front(self, place: int) -> memoryview:
        return self._bytes[place * _EVENTS_BYTES : (place + 1) * _EVENTS_BYTES]

    def _region(self, worker: int, place: int) -> memoryview:
        start = self._places * _EVENTS_BYTES + (worker * self._places + place) * _WORDS * 8
        return self._bytes[start : start + _WORDS * 8]
