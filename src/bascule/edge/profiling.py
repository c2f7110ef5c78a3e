"""What a version was asked and answered since the last report: profiles, and a sample of rows.

A request leaves its arrays in a buffer, and every so many requests go to the sketches together:
added one by one, they would take longer than the answer itself.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Collection
from threading import Lock
from typing import Any

import numpy as np

from bascule.bundle import Bundle
from bascule.bundle.statements import column_names, names_of_projections, split_columns
from bascule.core import Columns
from bascule.stats import WindowProfile

_BUFFER_CALLS, _BUFFER_BYTES = 128, 1 << 18
_CALL_ROWS = 1_024
"""Of a request with more rows, so many are looked at, drawn uniformly."""


class Traffic:
    """The answered rows of one version."""

    def __init__(self, bundle: Bundle, sample_rows: int, private: Collection[str]) -> None:
        """Nothing was answered yet.

        Args:
            bundle: Of the version.
            sample_rows: How many rows, drawn uniformly, a report holds.
            private: Fields whose values leave the device neither in profiles nor in rows.
        """
        manifest, signature = bundle.manifest, bundle.signature
        self._names = column_names(signature, manifest.classes, manifest.targets)
        self._names |= names_of_projections(bundle.path, manifest)
        self._fields = [
            [field for field in fields if field.name not in private and field.dates is None]
            for fields in (signature.inputs, signature.outputs)
        ]
        self._sample_rows, self._lock = sample_rows, Lock()
        self._clear()

    def add(self, inputs: Columns, outputs: Columns, rows: int, size_bytes: int) -> None:
        """Take in an answered request of this size; its arrays are not changed after it."""
        call = [inputs, outputs]
        if rows > _CALL_ROWS:
            places = random.sample(range(rows), _CALL_ROWS)
            call = [{name: part[name][places] for name in part} for part in call]
        with self._lock:
            self._window.rows += rows
            self._calls.append(call)
            self._bytes += size_bytes
            if len(self._calls) >= _BUFFER_CALLS or self._bytes >= _BUFFER_BYTES:
                self._fold()

    def take(self) -> dict[str, Any]:
        """As a report has it; the next one begins."""
        with self._lock:
            self._fold()
            window, rows = self._window, [row for _, _, row in self._sample]
            self._clear()
        report: dict[str, Any] = {"profile": window.to_json()} if window.rows else {}
        if rows:
            report["sample"] = {"share": len(rows) / window.rows, "rows": rows}
        return report

    def _clear(self) -> None:
        self._calls: list[list[Columns]] = []
        self._bytes, self._window = 0, WindowProfile()
        self._sample: list[tuple[float, int, list[dict[str, Any]]]] = []

    def _fold(self) -> None:
        """Add what the buffer holds to the profiles and to the sample."""
        window, calls = self._window, self._calls
        for call in calls:
            rows = len(next(iter(call[0].values())))
            window.profiled_rows += rows
            for row in range(rows if self._sample_rows else 0):
                self._draw(call, row)
        for part, profile in enumerate((window.inputs, window.outputs)):
            for field in self._fields[part]:
                arrays = [call[part][field.name] for call in calls if field.name in call[part]]
                is_joined = arrays and -1 not in field.shape
                for values in [np.concatenate(arrays)] if is_joined else arrays:
                    split = split_columns(field.name, values, self._names.get(field.name, ()))
                    profile.add({name: column.reshape(-1) for name, column in split.items()})
            profile.rows = window.profiled_rows
        self._calls, self._bytes = [], 0

    def _draw(self, call: list[Columns], row: int) -> None:
        """Keep the rows with the largest of uniform draws: every row is as likely."""
        draw = random.random()
        if len(self._sample) == self._sample_rows and draw < self._sample[0][0]:
            return
        row_values = [
            {
                field.name: np.asarray(columns[field.name][row]).tolist()
                for field in fields
                if field.name in columns
            }
            for columns, fields in zip(call, self._fields, strict=True)
        ]
        is_full = len(self._sample) == self._sample_rows
        (heapq.heapreplace if is_full else heapq.heappush)(self._sample, (draw, row, row_values))
