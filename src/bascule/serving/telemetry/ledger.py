"""The recorder that fills the ledger: keeps columns of requests, and writes them in blocks.

A request that is kept costs the event loop a few references and its id in shared memory; every
`_BLOCK_REQUESTS` of them become the bytes of one block. The arrays of a request that
is kept live until then. The request itself does not: its memory serves the next one.

Above `max_rows_per_s` answers are sampled uniformly. Each has a draw from [0, 1) and is kept
below the share of its interval; the share is halved whenever the interval has its fill, which the
reader applies to all of the interval, so that what remains is a uniform sample (thinning, as in
Vitter 1985 without the replacement of places).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from time import perf_counter_ns
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from bascule.core import Columns
from bascule.monitoring.ledger import (
    HASH,
    SEALED,
    SEALING,
    TEXT,
    Column,
    Head,
    Layout,
    Origin,
    hashed,
    pack_request,
    text_pieces,
    to_bytes,
)
from bascule.serving.calls import Answer, AnsweredBy, Call, Context
from bascule.serving.telemetry.counters import MetricLabels
from bascule.serving.telemetry.texts import rules_of

_BLOCK_REQUESTS = 64
_BLOCK_ROWS = 1_024
_MAX_REQUEST_ROWS = 1_024
"""Of a request with more rows, so many are kept, drawn uniformly."""
_MAX_GROUPS = 64
"""Callers choose outputs, and their order: more layouts than these are not remembered."""

_random = np.random.default_rng()


class Spool(Protocol):
    """Where blocks go; see `monitoring.ledger.SpoolWriter`."""

    @property
    def kept(self) -> int: ...

    @property
    def dropped(self) -> int: ...

    def lag_s(self) -> float: ...

    def keep(self, request_id: str) -> None: ...

    def append(self, data: bytes | bytearray, requests: int) -> None: ...

    def drop(self, requests: int, why: str) -> None: ...

    def close(self) -> None: ...


_Kept = tuple[int, int, float, int, int, int, str, str, str, bytes, int | tuple[str, ...] | None]
"""A request, apart from its arrays: start and duration in ns, draw, rows, kept rows, status, id,
caller, protocol, `traceparent`, unit (see `calls.Context`). A plain tuple: it is made for each
request."""
_KEPT_ROWS: Final = 4
"""The place of the kept rows in it."""


class _Group:
    """Kept requests of one layout: answered by one version, with the same fields.

    `is_usual`: a call that names no outputs, of this version, belongs here.
    """

    __slots__ = (
        "asked", "by", "fields", "inputs", "is_usual", "kept_rows", "key", "layout", "names",
        "outputs", "places", "requests",
    )  # fmt: skip

    def __init__(
        self,
        by: AnsweredBy | None,
        inputs: Columns | None,
        outputs: Columns,
        column_of: Callable[[str, NDArray[Any]], Column | None],
        key: bytes,
    ) -> None:
        self.by = by
        self.asked = inputs is not None
        self.is_usual = False
        self.names = dict.fromkeys(outputs).keys()
        columns = [_fields(part, column_of) for part in (inputs or {}, outputs)]
        names = {} if by is None else dict(by.columns)
        asked, said = (tuple(part.values()) for part in columns)
        sealed = tuple(one.name for one in (*asked, *said) if one.name.endswith(SEALED))
        self.layout = Layout(asked, said, names, sealed).to_bytes()
        self.fields = [
            [(name, one.shape, _row_bytes(one), one.dtype == HASH) for name, one in part.items()]
            for part in columns
        ]
        self.key = key
        self.clear()

    def clear(self) -> None:
        self.kept_rows = 0
        self.requests: list[_Kept] = []
        self.inputs: list[Columns] = []
        self.outputs: list[Columns] = []
        self.places: dict[int, NDArray[np.int32]] = {}

    def pieces(self, epoch_ns: int) -> tuple[list[Any], list[int], tuple[Origin, ...]]:
        """Of a block: the parts, the sizes of the pieces, and the origins of the requests.

        Raises:
            ValueError: A field varies in shape from one request to the next.
            KeyError: A request lacks a field.
        """
        origins: dict[Origin, int] = {}
        records, ids = [], []
        for (
            started_ns, duration_ns, draw, rows, kept, status, name, caller, protocol, parent, unit
        ) in self.requests:  # fmt: skip
            origin: Origin = (caller, protocol, _trace_id(parent) if parent else "")
            if unit is not None:
                origin = (*origin, *(unit if isinstance(unit, tuple) else (str(unit),)))
            records.append(
                pack_request(
                    started_ns + epoch_ns, duration_ns, draw, rows, kept, status,
                    origins.setdefault(origin, len(origins)),
                )
            )  # fmt: skip
            ids.append(name)
        parts: list[Any] = [b"".join(records), *text_pieces(ids), self._row_numbers()]
        sizes = [len(one) for one in parts]
        for fields, columns in zip(self.fields, (self.inputs, self.outputs), strict=True):
            for name, shape, row_bytes, is_hashed in fields:
                arrays = [one[name] for one in columns]
                if shape and any(one.shape[1:] != shape for one in arrays):
                    raise ValueError(f"{name} varies in shape")
                if row_bytes:
                    parts += arrays
                    sizes.append(self.kept_rows * row_bytes)
                else:
                    whole = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
                    flat = whole.ravel().tolist()
                    texts = text_pieces(hashed(flat, self.key) if is_hashed else flat)
                    parts += texts
                    sizes += [len(one) for one in texts]
        return parts, sizes, tuple(origins)

    def _row_numbers(self) -> bytes:
        """The number of every kept row within its request; nothing where all requests are whole."""
        if not self.places:
            return b""
        counts = (one[_KEPT_ROWS] for one in self.requests)
        return b"".join(
            (self.places[at] if at in self.places else np.arange(count, dtype=np.int32)).tobytes()
            for at, count in enumerate(counts)
        )


class _Label:
    """What is kept of one version that is asked, and its share of this interval."""

    __slots__ = ("group", "groups", "label", "room", "share")

    def __init__(self, label: MetricLabels, share: float, room: int) -> None:
        self.label = label
        self.share = share
        self.room = room
        self.groups: dict[Any, _Group] = {}
        self.group: _Group | None = None


class LedgerRecorder:
    """See `Recorder`. Not for several threads."""

    def __init__(
        self,
        spool: Spool,
        *,
        keep: float = 1.0,
        max_rows_per_s: int = 5_000,
        max_values_per_row: int = 1_024,
        private: Mapping[str, str] = {},
        key: bytes = b"",
        open_key: Callable[[], bytes] = bytes,
        is_anonymous: bool = False,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Record into `spool`.

        Args:
            spool: Takes the blocks.
            keep: The share of requests to keep, at most.
            max_rows_per_s: Of a version in this process; above, the share falls.
            max_values_per_row: A field with more, such as an image, is left out.
            private: By `FIELD` or `MODEL.FIELD`, "omit", "hash", "encrypt" or "tokenise".
            key: Of the hashes; without one these fields are left out.
            open_key: Gives the key once a model with private texts is served.
            is_anonymous: Keep no id, caller or trace, and have no row in the ledger: for profiles.
            draw: Uniform on [0, 1).
        """
        self._told = (0, 0)
        self._spool = spool
        self._keep = keep
        self._max_rows = max_rows_per_s
        self._max_values = max_values_per_row
        self._private = private
        self._key = b"" if is_anonymous else key
        self._open_key = open_key
        self._is_anonymous = is_anonymous
        self._draw = draw
        self._labels: dict[MetricLabels, _Label] = {}
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
        of = self._labels.get(label)
        if of is None:
            of = self._labels[label] = _Label(label, self._keep, self._max_rows)
        draw = self._draw()
        if draw >= of.share:
            return
        if answer is not None and answer.inputs is not None and call is not None:
            call = call._replace(columns=answer.inputs)
        by, outputs = (
            (None, {}) if answer is None else (answer.by, answer.original or answer.outputs)
        )
        group = of.group
        if (
            group is None
            or group.by is not by
            or call is None
            or call.outputs is not None
            or call.extras
            or not group.is_usual
        ):
            group = self._choose(of, by, call, outputs)
        rows = kept = 1
        if call is not None:
            rows = kept = call.rows
            inputs = call.columns
            if rows > _MAX_REQUEST_ROWS:
                kept = _MAX_REQUEST_ROWS
                chosen = np.sort(_random.choice(rows, kept, replace=False)).astype(np.int32)
                inputs = {name: values[chosen] for name, values in inputs.items()}
                outputs = {name: values[chosen] for name, values in outputs.items()}
                group.places[len(group.requests)] = chosen
            group.inputs.append(inputs)
        if answer is not None:
            group.outputs.append(outputs)
        if self._is_anonymous:
            name, caller, parent, unit = "", "", b"", None
        else:
            name, caller, parent = context.prediction_id, context.caller, context.trace[0]
            unit = getattr(context, "unit", None)
        self._spool.keep(name)
        group.requests.append(
            (
                context.started_ns, duration_ns, draw, rows, kept, status, name, caller,
                context.protocol, parent, unit,
            )
        )  # fmt: skip
        group.kept_rows += kept
        of.room -= kept
        if of.room < 0:
            of.share /= 2
            of.room += self._max_rows // 2
        self._waiting_requests += 1
        self._waiting_rows += kept
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

    def keep_private(self, model: str) -> None:
        """Keep of the texts of a model what `texts.RULES` says, unless the settings say more."""
        self._private = rules_of(model) | {**self._private}
        self._key = self._key or (b"" if self._is_anonymous else self._open_key())

    def new_figures(self) -> tuple[int, int, float]:
        """Requests kept and dropped since the last call, and the lag of the scribe in seconds."""
        kept, dropped = self._spool.kept, self._spool.dropped
        told, self._told = self._told, (kept, dropped)
        return kept - told[0], dropped - told[1], self._spool.lag_s()

    def flush(self) -> None:
        """Write what waits, in one piece: a reader takes what a killed worker kept last as lost."""
        blocks: list[bytearray] = []
        written = 0
        for of in self._labels.values():
            for group in of.groups.values():
                if group.requests:
                    for block, requests in self._blocks(of, group):
                        blocks.append(block)
                        written += requests
                    group.clear()
        if blocks:
            self._spool.append(blocks[0] if len(blocks) == 1 else b"".join(blocks), written)
        if written < self._waiting_requests:
            self._spool.drop(self._waiting_requests - written, "an output has not one value a row")
        self._waiting_requests = self._waiting_rows = 0

    def close(self) -> None:
        """Write what waits, and close the spool."""
        self.flush()
        self._spool.close()

    def _choose(
        self, of: _Label, by: AnsweredBy | None, call: Call | None, outputs: Columns
    ) -> _Group:
        """The group that a request belongs to."""
        inputs = None if call is None else call.columns
        key = by, None if inputs is None else tuple(inputs), tuple(outputs)
        group = of.groups.get(key)
        if group is None:
            if len(of.groups) >= _MAX_GROUPS:
                self.flush()
                of.groups.clear()
            group = of.groups[key] = self._group(of, by, inputs, outputs)
        if by is not None and call is not None and call.outputs is None and not call.extras:
            group.is_usual = True
            of.group = group
        return group

    def _group(
        self, of: _Label, by: AnsweredBy | None, inputs: Columns | None, outputs: Columns
    ) -> _Group:
        model, sources = (of.label.model, {}) if by is None else (by.model, by.sources)

        def column_of(name: str, values: NDArray[Any]) -> Column | None:
            names = {name, *sources.get(name, ())}
            names |= {f"{model}.{one}" for one in names}
            rules = {self._private.get(one, "") for one in names}
            is_hashed, kinds = "hash" in rules, rules & SEALING.keys()
            if "omit" in rules or (is_hashed and not self._key) or (kinds and self._is_anonymous):
                return None
            kind = TEXT if values.dtype == object else values.dtype.str
            made = Column(name, kind, values.shape[1:])
            if is_hashed:  # under another name: readers of the values find none
                made = Column(f"{name}.hash", HASH, values.shape[1:])
            elif kinds:  # the scribe does that, off the path of requests
                made = Column(f"{name}{SEALING[max(kinds)]}", kind, values.shape[1:])
            return made if made.values_per_row <= self._max_values else None

        return _Group(by, inputs, outputs, column_of, self._key)

    def _blocks(self, of: _Label, group: _Group) -> Iterator[tuple[bytearray, int]]:
        """What is kept of a group, and how many requests; nothing of what cannot be written."""
        answered = of.label if group.by is None else group.by
        try:
            parts, sizes, origins = group.pieces(self._epoch_ns)
            head = Head(
                model=answered.model, version=answered.version,
                endpoint=of.label.endpoint or of.label.model, arm=of.label.arm,
                plan=of.label.plan,
                interval=self._interval, share=of.share, origins=origins,
                layout=group.layout, is_anonymous=self._is_anonymous, sizes=tuple(sizes),
            )  # fmt: skip
            block = to_bytes(head, parts)
        except (TypeError, ValueError, KeyError):
            if len(group.requests) > 1:
                for one in self._each(of, group):
                    yield from self._blocks(of, one)
        else:
            yield block, len(group.requests)

    def _each(self, of: _Label, group: _Group) -> Iterator[_Group]:
        """A group for each request: their fields vary in shape."""
        for at, request in enumerate(group.requests):
            inputs, outputs = group.inputs[at:][:1], group.outputs[at:][:1]
            asked = inputs[0] if inputs else None
            one = self._group(of, group.by, asked, outputs[0] if outputs else {})
            one.requests, one.kept_rows = [request], request[_KEPT_ROWS]
            one.inputs, one.outputs = inputs, outputs
            if at in group.places:
                one.places = {0: group.places[at]}
            yield one


def _fields(
    columns: Columns, column_of: Callable[[str, NDArray[Any]], Column | None]
) -> dict[str, Column]:
    """By field, the columns that are recorded."""
    found = {name: column_of(name, values) for name, values in columns.items()}
    return {name: one for name, one in found.items() if one is not None}


def _row_bytes(field: Column) -> int:
    """0 for texts."""
    return 0 if field.is_text else np.dtype(field.dtype).itemsize * field.values_per_row


def _trace_id(parent: bytes) -> str:
    """Of the `traceparent` header (W3C Trace Context, section 3.2): its second part."""
    return parent[3:35].decode("ascii", "replace") if len(parent) >= 55 else ""
