"""What the parts of compositions have done, in the shared file of `counters`: see there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from bascule.core import PartCounts

_MOST_PARTS = 16
_NAME_WORDS, _COUNTERS = 4, 4
_PART_WORDS = _NAME_WORDS + _COUNTERS
_SLOT_WORDS = _MOST_PARTS * _PART_WORDS


class PartTotals(NamedTuple):
    """Of one part, over all workers."""

    runs: int
    rows: int
    failures: int
    duration_s: float


class PartCounters:
    """A region for each worker, of a slot for each label of `Counters`, with the names of parts."""

    def __init__(self, memory: memoryview, workers: int, labels: int) -> None:
        self._words = memory.cast("Q")
        self._workers = workers
        self._labels = labels

    @staticmethod
    def size_of(workers: int, labels: int) -> int:
        """In bytes. Pages that nothing was written to take no memory."""
        return workers * labels * _SLOT_WORDS * 8

    def add(self, worker: int, place: int, counts: Mapping[str, PartCounts]) -> None:
        """Note so much more of each part of the label at a place."""
        first = (worker * self._labels + place) * _SLOT_WORDS
        for part, counted in list(counts.items())[:_MOST_PARTS]:
            name = part.encode()[: _NAME_WORDS * 8].ljust(_NAME_WORDS * 8, b"\0")
            for word in range(_NAME_WORDS):
                start = word * 8
                self._words[first + word] = int.from_bytes(name[start : start + 8], "little")
            for word, value in enumerate(counted, first + _NAME_WORDS):
                self._words[word] += value
            first += _PART_WORDS

    def totals(self, place: int) -> dict[str, PartTotals]:
        """By part of the label at a place; nothing for a model without parts."""
        sums: dict[str, list[int]] = {}
        for worker in range(self._workers):
            first = (worker * self._labels + place) * _SLOT_WORDS
            end = first + _SLOT_WORDS
            while first < end and self._words[first]:
                words = self._words[first : first + _PART_WORDS].tolist()
                name = b"".join(word.to_bytes(8, "little") for word in words[:_NAME_WORDS])
                known = sums.setdefault(name.rstrip(b"\0").decode("ascii"), [0] * _COUNTERS)
                for number, value in enumerate(words[_NAME_WORDS:]):
                    known[number] += value
                first += _PART_WORDS
        return {
            part: PartTotals(runs, rows, failures, ns / 1e9)
            for part, (runs, rows, failures, ns) in sums.items()
        }
