"""What the parts of compositions have done, in the shared file of `counters`: see there."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bascule.core import PartCounts

_MOST_PARTS = 16
_PART = np.dtype([("name", "S32"), ("counts", "<u8", 4)])


class PartCounters:
    """A region for each worker, of a slot for each label of `Counters`, with the names of parts."""

    def __init__(self, memory: memoryview, workers: int, labels: int) -> None:
        self._parts = np.frombuffer(memory, _PART).reshape(workers, labels, _MOST_PARTS)

    @staticmethod
    def size_of(workers: int, labels: int) -> int:
        """In bytes. Pages that nothing was written to take no memory."""
        return workers * labels * _MOST_PARTS * _PART.itemsize

    def add(self, worker: int, place: int, counts: Mapping[str, PartCounts]) -> None:
        """Note so much more of each part of the label at a place; 0 is of several models."""
        counts = counts if place else {}
        for part, (name, counted) in zip(self._parts[worker, place], counts.items(), strict=False):
            part["counts"] += np.array(counted, np.uint64)
            part["name"] = name.encode()

    def totals(self, place: int) -> dict[str, PartCounts]:
        """By part of the label at a place, over all workers; nothing for a model without parts."""
        totals: dict[str, PartCounts] = {}
        for parts in self._parts[:, place].T:
            if name := max(parts["name"], default=b""):  # by no worker, where there is no server
                totals[name.decode("ascii")] = PartCounts(*parts["counts"].sum(axis=0).tolist())
        return totals
