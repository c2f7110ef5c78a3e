"""Counters that every worker writes and anybody can read, in one shared file.

Each worker owns one region and is its only writer, so nothing is locked. The file outlives a
worker: one that is killed and started again goes on counting where it stood, and the sum over the
regions is what clients saw. Reading costs the writers nothing.

The front of the file has a few words by which the processes see that the others are alive: each
worker and the control process write when their event loops last turned, and the control process
when the keys last held.

What the slots of a region count is said at the front of the file, by the supervisor alone. A
version gets a slot when it is first loaded and keeps it: one that comes back counts on, so that a
counter never falls, and every reader knows all names that were ever given.
"""

from __future__ import annotations

import mmap
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bascule.core import PartCounts, Unavailable
from bascule.serving.telemetry import texts
from bascule.serving.telemetry.arms import ArmCounters
from bascule.serving.telemetry.part_counters import PartCounters


class Ending(StrEnum):
    """How an answer in parts ended."""

    COMPLETE = "complete"
    CANCELLED = "cancelled"
    """By the caller, who has gone."""
    FIRST_PART_LATE = "first_part_late"
    PART_LATE = "part_late"
    FAILED = "failed"
    DRAINED = "drained"
    """The worker stopped, and waited no longer."""
    REVOKED = "revoked"
    """The caller lost the right to it."""


STATUSES = (
    200, 207, 400, 401, 403, 404, 405, 408, 409, 410, 411, 413, 415, 417, 429, 431, 499, 500, 501,
    503, 504, 505, 507,
)  # fmt: skip
"""The statuses that are counted apart. 499: the client was gone before its answer."""

BUCKETS_S = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
)  # fmt: skip
"""Upper bounds of the histogram of durations; one more bucket takes what is above."""

_ENDING_INDEX: dict[str, int] = {ending: index for index, ending in enumerate(Ending)}
_STATUS_INDEX = {status: index for index, status in enumerate(STATUSES)}
_BOUNDS_NS = tuple(int(bound * 1e9) for bound in BUCKETS_S)
_ROWS = len(STATUSES)
_FAILURES = _ROWS + 1
_FALLBACKS = _FAILURES + 1
_OUTCOMES = _FALLBACKS + 1
_RUNS = _OUTCOMES + 1
_OPEN = _RUNS + 1
_PARTS = _OPEN + 1
_ENDINGS = _PARTS + 1
REFUSALS = ("rate", "budget", "catalogue", "outlier", "text")
"""Why a policy refuses a call; `catalogue`: the budget of its caller could not be reserved."""
_REFUSALS = _ENDINGS + len(Ending)
_HISTOGRAMS = _REFUSALS + len(REFUSALS)
_SUM_NS = len(BUCKETS_S) + 1
"""Of a histogram: behind its buckets."""
_HISTOGRAM_WORDS = _SUM_NS + 1
PROTOCOLS = ("oip", "tfserving", "invocations", "vertex", "azureml", "openai", "oip-grpc", "")
"""Protocols that have histograms of their own; the last is for answers before a route is known."""
STATUS_CLASSES = ("2xx", "4xx", "5xx")
_KINDS = tuple((protocol, kind) for protocol in PROTOCOLS for kind in STATUS_CLASSES)
_OF_PROTOCOL = {
    protocol: _HISTOGRAMS + index * len(STATUS_CLASSES) * _HISTOGRAM_WORDS
    for index, protocol in enumerate(PROTOCOLS)
}
_OF_STATUS = {
    status: STATUS_CLASSES.index(f"{status // 100}xx") * _HISTOGRAM_WORDS for status in STATUSES
}
_TEXTS = _HISTOGRAMS + len(_KINDS) * _HISTOGRAM_WORDS
_SLOT_WORDS = _TEXTS + texts.WORDS

_KEYS_HELD_NS, _KEYS_READ_NS, _SILENT_WORKERS, _CONTROL_BEAT, _CONTROL_RESTARTS = 1, 2, 3, 4, 5
_AWAY_NS = 6
_FIRST_BEAT = 7
"""Words at the front, after the number of names. Times are of the monotonic clock, which all
processes of a machine share."""

CAPACITY = 4096
"""How many versions can be counted from a server's start to its end. Pages that nothing was written
to take no memory."""
_LEDGER_WORDS = 3
"""Of each worker, after the beats: requests kept and dropped, and milliseconds of lag."""
_NAME_BYTES = 272
"""Two of length, then `model/version`: each is at most 128 characters of ASCII."""


class MetricSeries:
    """The counters of one worker for one label."""

    __slots__ = ("_base", "_words", "count_parts", "label", "totals")
    answers = None
    """What is in the answers is counted for arms of a rollout; see `ArmSeries`."""

    def __init__(
        self,
        words: memoryview,
        base: int,
        label: MetricLabels,
        totals: Callable[[], Totals],
        count_parts: Callable[[Mapping[str, PartCounts]], None],
    ) -> None:
        """`totals` sums the label's counters over all workers.

        `count_parts` notes so much more that the parts of a composition did.
        """
        self._words = words
        self._base = base
        self.label = label
        self.totals = totals
        self.count_parts = count_parts

    def count(self, status: int, duration_ns: int, rows: int, protocol: str = "") -> None:
        """Note one answer: its status, duration, number of rows and one of `PROTOCOLS`."""
        words = self._words
        base = self._base
        words[base + _STATUS_INDEX[status]] += 1
        words[base + _ROWS] += rows
        histogram = base + _OF_PROTOCOL[protocol] + _OF_STATUS[status]
        words[histogram + _SUM_NS] += duration_ns
        words[histogram + bisect_left(_BOUNDS_NS, duration_ns)] += 1

    def count_failure(self) -> None:
        """Note that the model failed a call, also where its caller gets an answer in the end."""
        self._words[self._base + _FAILURES] += 1

    def count_fallback(self) -> None:
        """Note that another model answered in its place."""
        self._words[self._base + _FALLBACKS] += 1

    def count_refusal(self, reason: str) -> None:
        """Note that a policy has refused a call; one of `REFUSALS`."""
        self._words[self._base + _REFUSALS + REFUSALS.index(reason)] += 1

    def count_ending(self, ending: str, parts: int) -> None:
        """Note how an answer in parts ended, and how many parts its caller was sent."""
        self._words[self._base + _PARTS] += parts
        self._words[self._base + _ENDINGS + _ENDING_INDEX[ending]] += 1

    def count_text(self, figures: texts.TextFigures) -> None:
        """Note a generated answer."""
        texts.count_text(self._words, self._base + _TEXTS, figures)

    def count_check(self, side: str, kind: str, action: str, ns: int) -> None:
        """Note what a check of texts did and cost; see `texts.count_check`."""
        texts.count_check(self._words, self._base + _TEXTS, side, kind, action, ns)

    def note_work(self, runs: int, open_calls: int) -> None:
        """Note so many more runs of the program, and how many calls wait or run now."""
        self._words[self._base + _RUNS] += runs
        self._words[self._base + _OPEN] = open_calls

    def count_outcomes(self, count: int) -> None:
        """Note outcomes of the model that were kept."""
        self._words[self._base + _OUTCOMES] += count


class Histogram(NamedTuple):
    """Durations of answers over one protocol with one class of status.

    Attributes:
        protocol: One of `PROTOCOLS`.
        status_class: One of `STATUS_CLASSES`.
        buckets: See `Totals`.
        duration_s: Sum of the durations.
    """

    protocol: str
    status_class: str
    buckets: tuple[int, ...]
    duration_s: float


@dataclass(frozen=True, slots=True)
class Totals:
    """What all workers have counted for one label.

    Attributes:
        by_status: Answers by status, only those seen.
        rows: Rows answered.
        duration_s: Sum of the durations.
        buckets: Answers per bucket of `BUCKETS_S`, not cumulative, the last one above all bounds.
        failures: Calls that a model with a policy failed, also where the caller got an answer.
        fallbacks: Calls that another model answered in its place.
        outcomes: Outcomes that were kept while it was the default version.
        runs: Runs of the program, each of one call or several.
        open_calls: Calls that waited or ran within the last second.
        histograms: Those that have answers; `buckets` and `duration_s` are their sums.
        parts: Parts of answers in parts that were sent.
        endings: Answers in parts by how they ended, only those seen.
        refusals: Calls that policies refused, by reason, only those seen.
        of_composition: What the parts of a composition did, by name.
        texts: Of generated answers; None where there are none.
    """

    by_status: dict[int, int]
    rows: int
    duration_s: float
    buckets: tuple[int, ...]
    failures: int = 0
    fallbacks: int = 0
    outcomes: int = 0
    runs: int = 0
    open_calls: int = 0
    histograms: tuple[Histogram, ...] = ()
    parts: int = 0
    endings: Mapping[str, int] = field(default_factory=dict)
    refusals: Mapping[str, int] = field(default_factory=dict)
    of_composition: Mapping[str, PartCounts] = field(default_factory=dict)
    texts: texts.TextTotals | None = None

    @property
    def requests(self) -> int:
        return sum(self.by_status.values())


class MetricLabels(NamedTuple):
    """What a slot counts: the inference requests of one version, or (empty) everything else.

    `endpoint`, `arm` and `plan` are for recorders; they are set where a plan chose the version.
    """

    model: str = ""
    version: str = ""
    endpoint: str = ""
    arm: str = ""
    plan: int = 0


EVERYTHING_ELSE = MetricLabels()


@dataclass(frozen=True, slots=True)
class Pulse:
    """How the processes of a server are.

    Attributes:
        keys_age_s: Since the keys were last read from the catalogue; 0 where callers need none.
        silent_workers: Workers that were killed because their event loop did not turn.
        control_restarts: How often the control process was started again.
        ledger_kept: Requests that workers kept for the ledger.
        ledger_dropped: Those of them that were not written, for want of space.
        ledger_lag_s: The age of what the scribe has not taken in, at most.
        catalogue_away_s: Since the watcher of alerts cannot read the catalogue; 0 while it can.
    """

    keys_age_s: float = 0.0
    silent_workers: int = 0
    control_restarts: int = 0
    ledger_kept: int = 0
    ledger_dropped: int = 0
    ledger_lag_s: float = 0.0
    catalogue_away_s: float = 0.0


class Counters:
    """The shared file: the names of what is counted, and one region of slots per worker."""

    def __init__(self, path: Path, workers: int, capacity: int = CAPACITY) -> None:
        """Open the file at `path`, made at the right size if it is not there.

        Args:
            path: The file.
            workers: How many regions it has.
            capacity: How many versions can be named.
        """
        self._capacity = capacity
        self._workers = workers
        self._ledger = _FIRST_BEAT + workers
        self._front_bytes = 8 * (self._ledger + _LEDGER_WORDS * workers)
        self._names_bytes = self._front_bytes + capacity * _NAME_BYTES
        arms_at = self._names_bytes + workers * (capacity + 1) * _SLOT_WORDS * 8
        parts_at = arms_at + ArmCounters.size_of(workers)
        size = parts_at + PartCounters.size_of(workers, capacity + 1)
        with path.open("a+b") as file:
            if file.seek(0, 2) < size:
                file.truncate(size)
            self._map = mmap.mmap(file.fileno(), size)
        self._bytes = memoryview(self._map)
        self._words = self._bytes.cast("Q")
        self.arms = ArmCounters(self._bytes[arms_at:parts_at], workers)
        self._parts = PartCounters(self._bytes[parts_at:size], workers, capacity + 1)
        self._labels = [EVERYTHING_ELSE]

    def name(self, label: MetricLabels) -> None:
        """Give a version a series, unless it has one. By one process only, and one thread of it.

        Raises:
            Unavailable: As many versions were named as there are slots.
        """
        labels = self.labels()
        if label in labels:
            return
        taken = len(labels) - 1
        if taken == self._capacity:
            raise Unavailable(
                f"{taken:,} versions were served since the server started, as many as it can count",
                hint="start it again",
            )
        name = f"{label.model}/{label.version}".encode()
        start = self._front_bytes + taken * _NAME_BYTES
        self._bytes[start : start + 2 + len(name)] = len(name).to_bytes(2, "little") + name
        # Last of all: a reader of the number finds the name.
        self._words[0] = taken + 1

    def labels(self) -> list[MetricLabels]:
        """Everything else first, then each version that was ever named, in that order."""
        known = self._labels
        named = self._words[0]
        if len(known) <= named:
            # Replaced, not grown: several threads may read.
            new = map(self._label, range(len(known) - 1, named))
            known = self._labels = [*known, *new]
        return known

    def _label(self, place: int) -> MetricLabels:
        start = self._front_bytes + place * _NAME_BYTES
        length = int.from_bytes(self._bytes[start : start + 2], "little")
        name = bytes(self._bytes[start + 2 : start + 2 + length]).decode()
        model, _, version = name.partition("/")
        return MetricLabels(model, version)

    def series(self, worker: int, label: MetricLabels = EVERYTHING_ELSE) -> MetricSeries:
        """The slot of a worker for a label that was named."""
        place = self.labels().index(label)
        totals = partial(self._total, place)
        count_parts = partial(self._parts.add, worker, place)
        return MetricSeries(self._words, self._base(worker, place), label, totals, count_parts)

    def beat(self, worker: int) -> None:
        """Note that the event loop of a worker turns."""
        self._words[_FIRST_BEAT + worker] = time.monotonic_ns()

    def beat_of(self, worker: int) -> int:
        """When the event loop of a worker last turned."""
        return self._words[_FIRST_BEAT + worker]

    def hold_keys(self, read_ns: int) -> None:
        """Note that the keys hold at this moment; they were last read at `read_ns`."""
        self._words[_KEYS_READ_NS] = read_ns
        self._words[_KEYS_HELD_NS] = time.monotonic_ns()

    def keys_held_ns(self) -> int:
        """When the control process last said that the keys hold."""
        return self._words[_KEYS_HELD_NS]

    def keys_read_ns(self) -> int:
        """When the keys that hold were read from the catalogue; 0 if none were."""
        return self._words[_KEYS_READ_NS]

    def beat_control(self) -> None:
        """Note that the event loop of the control process turns."""
        self._words[_CONTROL_BEAT] = time.monotonic_ns()

    def control_beat(self) -> int:
        """When the event loop of the control process last turned."""
        return self._words[_CONTROL_BEAT]

    def note_catalogue(self, is_away: bool) -> None:
        """Note that the catalogue goes away now, or is back."""
        self._words[_AWAY_NS] = time.monotonic_ns() if is_away else 0

    def count_control_restart(self) -> None:
        """Note that the control process was started again."""
        self._words[_CONTROL_RESTARTS] += 1

    def count_silent_worker(self) -> None:
        """Note that a worker was killed because it was silent."""
        self._words[_SILENT_WORKERS] += 1

    def count_ledger(self, worker: int, kept: int, dropped: int, lag_s: float) -> None:
        """Note so many more requests that a worker kept and dropped, and its lag."""
        first = self._ledger + _LEDGER_WORDS * worker
        self._words[first] += kept
        self._words[first + 1] += dropped
        self._words[first + 2] = int(lag_s * 1e3)

    def pulse(self) -> Pulse:
        """How the processes are."""
        read_ns = self._words[_KEYS_READ_NS]
        age_s = (time.monotonic_ns() - read_ns) / 1e9 if read_ns else 0.0
        away_ns = self._words[_AWAY_NS]
        ledger = self._words[self._ledger : self._front_bytes // 8].tolist()
        return Pulse(
            age_s, self._words[_SILENT_WORKERS], self._words[_CONTROL_RESTARTS],
            sum(ledger[0::_LEDGER_WORDS]), sum(ledger[1::_LEDGER_WORDS]),
            max(ledger[2::_LEDGER_WORDS], default=0) / 1e3,
            (time.monotonic_ns() - away_ns) / 1e9 if away_ns else 0.0,
        )  # fmt: skip

    def totals(self) -> list[Totals]:
        """One `Totals` per label, in the order of `labels`, summed over the workers."""
        return [self._total(place) for place in range(len(self.labels()))]

    def _base(self, worker: int, place: int) -> int:
        return self._names_bytes // 8 + (worker * (self._capacity + 1) + place) * _SLOT_WORDS

    def _total(self, place: int) -> Totals:
        regions = [
            self._words[base : base + _SLOT_WORDS].tolist()
            for base in (self._base(worker, place) for worker in range(self._workers))
        ]
        sums = regions[0] if len(regions) == 1 else [sum(one) for one in zip(*regions, strict=True)]
        sums = sums or [0] * _SLOT_WORDS  # a control process alone has no worker
        histograms = tuple(_histograms(sums))
        buckets = zip(*(one.buckets for one in histograms), strict=True)
        return Totals(
            by_status={
                status: sums[index] for status, index in _STATUS_INDEX.items() if sums[index]
            },
            rows=sums[_ROWS],
            duration_s=sum(one.duration_s for one in histograms),
            buckets=tuple(map(sum, buckets)) or (0,) * _SUM_NS,
            failures=sums[_FAILURES],
            fallbacks=sums[_FALLBACKS],
            outcomes=sums[_OUTCOMES],
            runs=sums[_RUNS],
            open_calls=sums[_OPEN],
            histograms=histograms,
            parts=sums[_PARTS],
            endings={
                ending: sums[_ENDINGS + index]
                for ending, index in _ENDING_INDEX.items()
                if sums[_ENDINGS + index]
            },
            refusals={
                reason: sums[_REFUSALS + index]
                for index, reason in enumerate(REFUSALS)
                if sums[_REFUSALS + index]
            },
            of_composition=self._parts.totals(place),
            texts=texts.totals_of(sums[_TEXTS:]),
        )


def _histograms(sums: Sequence[int]) -> Iterator[Histogram]:
    for index, (protocol, kind) in enumerate(_KINDS):
        first = _HISTOGRAMS + index * _HISTOGRAM_WORDS
        buckets = tuple(sums[first : first + _SUM_NS])
        if any(buckets):
            yield Histogram(protocol, kind, buckets, sums[first + _SUM_NS] / 1e9)
