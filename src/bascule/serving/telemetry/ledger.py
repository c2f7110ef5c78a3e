"""The recorder that fills the ledger: keeps references, and writes them in blocks.

A request that is kept costs the event loop a few references and its id in shared memory; every
`_BLOCK_REQUESTS` of them become the bytes of one block. The arrays of a request that is kept live
until then.

Above `max_rows_per_s` answers are sampled uniformly. Each has a draw from [0, 1) and is kept
below the share of its interval; the share is halved whenever the interval has its fill, which the
reader applies to all of the interval, so that what remains is a uniform sample (thinning, as in
Vitter 1985 without the replacement of places).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection
from time import perf_counter_ns
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bascule.core import Columns
from bascule.monitoring.ledger import Block, to_bytes
from bascule.serving.calls import Answer, AnsweredBy, Call, Context
from bascule.serving.telemetry.counters import MetricLabels

_BLOCK_REQUESTS = 64
_BLOCK_ROWS = 1_024
_MAX_REQUEST_ROWS = 1_024
"""Of a request with more rows, so many are kept, drawn uniformly."""
_MAX_VALUES_PER_ROW = 1_024
"""A field with more values a row, such as an image, is left out."""


Places = NDArray[np.integer[Any]]
_random = np.random.default_rng()


class Spool(Protocol):
    """Where blocks go; see `monitoring.ledger.SpoolWriter`."""

    def keep(self, request_id: str) -> None: ...

    def append(self, data: bytes, requests: int) -> None: ...

    def close(self) -> None: ...


class _Kept(NamedTuple):
    draw: float
    context: Context
    call: Call | None
    answer: Answer | None
    status: int
    duration_ns: int


class _Label:
    """What is kept of one version that is asked, and its share of this interval."""

    __slots__ = ("kept", "label", "room", "share")

    def __init__(self, label: MetricLabels, share: float, room: int) -> None:
        self.label = label
        self.share = share
        self.room = room
        self.kept: list[_Kept] = []


class LedgerRecorder:
    """See `Recorder`. Not for several threads."""

    def __init__(
        self,
        spool: Spool,
        *,
        keep: float = 1.0,
        max_rows_per_s: int = 5_000,
        private: Collection[str] = (),
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Record into `spool`.

        Args:
            spool: Takes the blocks.
            keep: The share of requests to keep, at most.
            max_rows_per_s: Of a version in this process; above, the share falls.
            private: Fields that are left out: `FIELD`, or `MODEL.FIELD`.
            draw: Uniform on [0, 1).
        """
        self._spool = spool
        self._keep = keep
        self._max_rows = max_rows_per_s
        self._private = frozenset(private)
        self._draw = draw
        self._labels: dict[int, _Label] = {}
        self._waiting_requests = self._waiting_rows = 0
        self._interval = 0
        self._epoch_ns = time.time_ns() - perf_counter_ns()

    def add(
        self,
        context: Context,
        call: Call | None,
        answer: Answer | None,
        label: MetricLabels,
        status: int,
        duration_ns: int,
    ) -> None:
        """See `Recorder`."""
        of = self._labels.get(id(label))
        if of is None:
            of = self._labels[id(label)] = _Label(label, self._keep, self._max_rows)
        draw = self._draw()
        if draw >= of.share:
            return
        of.kept.append(_Kept(draw, context, call, answer, status, duration_ns))
        self._spool.keep(context.prediction_id)
        rows = min(_row_count(call), _MAX_REQUEST_ROWS)
        of.room -= rows
        if of.room < 0:
            of.share /= 2
            of.room += self._max_rows // 2
        self._waiting_requests += 1
        self._waiting_rows += rows
        if self._waiting_requests >= _BLOCK_REQUESTS or self._waiting_rows >= _BLOCK_ROWS:
            self.flush()

    def tick(self) -> None:
        """Once a second: write what waits, and begin the next interval."""
        self.flush()
        self._interval += 1
        for of in self._labels.values():
            # An interval that was filled less than half lets the next one keep twice as much.
            if of.room > self._max_rows // 2:
                of.share = min(self._keep, of.share * 2)
            of.room = self._max_rows

    def flush(self) -> None:
        """Write what waits."""
        self._waiting_requests = self._waiting_rows = 0
        for of in self._labels.values():
            if of.kept:
                kept, of.kept = of.kept, []
                for (by, _), group in _grouped(kept).items():
                    block = self._block(of, by, group)
                    self._spool.append(to_bytes(block), len(group))

    def close(self) -> None:
        """Write what waits, and close the spool."""
        self.flush()
        self._spool.close()

    def _block(self, of: _Label, by: AnsweredBy | None, group: list[_Kept]) -> Block:
        answered = of.label if by is None else by
        chosen = [_rows_of(one.call) for one in group]
        pairs = list(zip(group, chosen, strict=True))
        return Block(
            model=answered.model, version=answered.version, endpoint=of.label.model,
            interval=self._interval, share=of.share, requests=self._requests(group, chosen),
            rows=None if all(rows is None for rows in chosen) else _places(pairs),
            inputs=self._joined(
                answered.model, [(one.call.columns, rows) for one, rows in pairs if one.call]
            ),
            outputs=self._joined(
                answered.model, [(one.answer.outputs, rows) for one, rows in pairs if one.answer]
            ),
        )  # fmt: skip

    def _joined(self, model: str, parts: list[tuple[Columns, Places | None]]) -> Columns:
        """The kept rows of several calls, without fields that are private or too wide."""
        made: Columns = {}
        for name, first in parts[0][0].items() if parts else ():
            if name in self._private or f"{model}.{name}" in self._private:
                continue
            if int(np.prod(first.shape[1:])) <= _MAX_VALUES_PER_ROW:
                values = [each[name] if rows is None else each[name][rows] for each, rows in parts]
                made[name] = values[0] if len(values) == 1 else np.concatenate(values)
        return made

    def _requests(self, group: list[_Kept], chosen: list[Places | None]) -> dict[str, Any]:
        contexts = [one.context for one in group]
        rows = [_row_count(one.call) for one in group]
        kept = [n if part is None else len(part) for n, part in zip(rows, chosen, strict=True)]
        return {
            "id": [context.prediction_id for context in contexts],
            "caller": [context.caller for context in contexts],
            "protocol": [context.transport for context in contexts],
            "trace": [_trace_id(context) for context in contexts],
            "time_ns": np.array([each.started_ns for each in contexts], np.int64) + self._epoch_ns,
            "latency_ns": np.array([one.duration_ns for one in group], np.int64),
            "status": np.array([one.status for one in group], np.int16),
            "rows": np.array(rows, np.int64),
            "kept_rows": np.array(kept, np.int64),
            "draw": np.array([one.draw for one in group]),
        }


def _grouped(kept: list[_Kept]) -> dict[Any, list[_Kept]]:
    """By what answered, and by the fields of what was asked: requests of one shape."""
    groups: dict[Any, list[_Kept]] = {}
    for one in kept:
        by = None if one.answer is None else one.answer.by
        outputs = () if one.answer is None else tuple(one.answer.outputs)
        groups.setdefault((by, (one.call is None, outputs)), []).append(one)
    return groups


def _rows_of(call: Call | None) -> Places | None:
    """Which rows of a call are kept; None for all."""
    if call is None or call.rows <= _MAX_REQUEST_ROWS:
        return None
    return np.sort(_random.choice(call.rows, _MAX_REQUEST_ROWS, replace=False))


def _row_count(call: Call | None) -> int:
    return 1 if call is None else call.rows


def _places(pairs: list[tuple[_Kept, Places | None]]) -> Places:
    """The number of every kept row within its request."""
    return np.concatenate(
        [np.arange(_row_count(one.call)) if rows is None else rows for one, rows in pairs]
    ).astype(np.int32)


def _trace_id(context: Context) -> str:
    """Of the `traceparent` header (W3C Trace Context, section 3.2): its second part."""
    parent = context.trace[0]
    return parent[3:35].decode("ascii", "replace") if len(parent) >= 55 else ""
