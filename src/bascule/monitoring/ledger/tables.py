"""Blocks to columns of rows, and to Arrow tables: one line a row of a request, as SQL sees it.

The blocks of one layout are joined piece by piece. What is the same for many rows, such as the
model, is written once and referred to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from bascule.bundle.statements import split_columns
from bascule.core import Columns
from bascule.monitoring.ledger.blocks import (
    HASH,
    REQUEST,
    TEXT,
    Array,
    Block,
    Column,
    Head,
    Layout,
    Origin,
    read_layout,
)

FIXED = pa.schema(
    [
        ("id", pa.string()),
        ("row", pa.int32()),
        ("time", pa.timestamp("us", "UTC")),
        ("model", pa.string()),
        ("version", pa.string()),
        ("endpoint", pa.string()),
        ("arm", pa.string()),
        ("caller", pa.string()),
        ("protocol", pa.string()),
        ("status", pa.int16()),
        ("latency_s", pa.float64()),
        ("trace_id", pa.string()),
        ("kept_share", pa.float64()),
        ("unit", pa.int32()),
        ("plan", pa.int32()),
        ("parts", pa.int32()),
        ("ending", pa.string()),
        ("propensity", pa.float64()),
    ]
)
"""The columns of `predictions` for every model. `arm` is empty without a plan. `unit` is of the
request's key in a rollout, where this is its first request; -1 where another one counts, or none;
null where the arm was drawn for this request. `plan` is the number of the plan, 0 without one. Of
an answer in parts, `parts` is how many its caller was sent, and `ending` how it ended; null of
others. `propensity` is the probability of the arm for a request that was steered by its context,
null for others. What segments of earlier releases do not have is null."""

PRIVATE_KINDS = (".hash", ".encrypted", ".token")
"""What is added to the name of a private field."""


class Seal(Protocol):
    """Gives what is kept in place of the values of a private column."""

    def __call__(self, name: str, values: Sequence[object], /) -> list[str | None]: ...


INPUT, OUTPUT = "input.", "output."
_FIRST_COLUMN = 4
_DAY_NS = 86_400_000_000_000


@dataclass(frozen=True, slots=True)
class Answers:
    """The kept rows of one version, of blocks of one layout.

    Attributes:
        head: Of the first block.
        layout: Of all.
        requests: Of dtype `REQUEST`, one for each row.
        ids: One for each row.
        places: The number of each row within its request.
        shares: Of such rows, the share that is kept.
        origins: What `origin` refers to.
        origin: One for each row.
        inputs: By field: numbers of shape (rows, ...), or flat texts.
        outputs: The same.
    """

    head: Head
    layout: Layout
    requests: Array
    ids: pa.Array
    places: Array
    shares: Array
    origins: list[Origin]
    origin: Array
    inputs: dict[str, Array | pa.Array]
    outputs: dict[str, Array | pa.Array]

    def days(self) -> Iterator[tuple[str, Array]]:
        """Each UTC day, and which rows are of it."""
        days = self.requests["time_ns"] // _DAY_NS
        for day in range(int(days.min()), int(days.max()) + 1) if len(days) else ():
            rows = np.flatnonzero(days == day)
            if len(rows):
                yield str(np.datetime64(day, "D")), rows

    def columns(self, rows: Array) -> tuple[Columns, Columns]:
        """Inputs and outputs of some rows, one array for each column of a baseline.

        Private values are left out: a baseline has the values themselves.
        """
        made: list[Columns] = []
        for part, fields in (
            (self.inputs, self.layout.inputs),
            (self.outputs, self.layout.outputs),
        ):
            chosen: Columns = {}
            for field in fields:
                if field.dtype == HASH or field.name in self.layout.sealed:
                    continue
                names = self.layout.names.get(field.name, ())
                chosen |= split_columns(field.name, _rows_of(part[field.name], field, rows), names)
            made.append(chosen)
        return made[0], made[1]

    def take(self, rows: Array) -> Answers:
        """Some of the rows, by their places."""
        parts = [
            {one.name: _rows_of(part[one.name], one, rows, as_arrow=True) for one in fields}
            for part, fields in (
                (self.inputs, self.layout.inputs), (self.outputs, self.layout.outputs),
            )
        ]  # fmt: skip
        return replace(
            self, requests=self.requests[rows], ids=self.ids.take(numbers(rows)),
            places=self.places[rows], shares=self.shares[rows], origin=self.origin[rows],
            inputs=parts[0], outputs=parts[1],
        )  # fmt: skip

    def table(self, seal: Seal | None = None) -> pa.Table:
        """As SQL sees it; `seal` gives what is kept in place of values that are sealed."""
        requests = self.requests
        same = np.zeros(len(requests), np.int32)
        caller, protocol, trace = (_texts(self.origin, self.origins, at) for at in range(3))

        def constant(text: str) -> pa.Array:
            return pa.DictionaryArray.from_arrays(numbers(same), strings_of([text]))

        columns = {
            "id": self.ids,
            "row": numbers(self.places),
            "time": numbers(requests["time_ns"] // 1000).cast(FIXED.field("time").type),
            "model": constant(self.head.model),
            "version": constant(self.head.version),
            "endpoint": constant(self.head.endpoint),
            "arm": constant(self.head.arm),
            "caller": caller,
            "protocol": protocol,
            "status": numbers(requests["status"].astype(np.int16)),
            "latency_s": numbers(requests["latency_ns"] / 1e9),
            "trace_id": trace,
            "kept_share": numbers(self.shares),
            "unit": _further(self.origin, self.origins, 3, "unit"),
            "plan": numbers(np.full(len(requests), self.head.plan, np.int32)),
            "parts": _further(self.origin, self.origins, 4, "parts"),
            "ending": _further(self.origin, self.origins, 5, "ending"),
            "propensity": _further(self.origin, self.origins, 6, "propensity"),
        }
        for prefix, part, fields in (
            (INPUT, self.inputs, self.layout.inputs),
            (OUTPUT, self.outputs, self.layout.outputs),
        ):
            for one in fields:
                values = part[one.name]
                if one.name in self.layout.sealed and seal is not None:
                    columns[prefix + one.name] = _sealed(values, one, seal)
                else:
                    columns[prefix + one.name] = _arrow(values, one)
        return pa.table(columns)


def answers_of(blocks: Iterable[Block]) -> list[Answers]:
    """What the blocks of one writer hold, but for what was sampled out."""
    shares: dict[tuple[str, int], float] = {}
    alike: dict[tuple[object, ...], list[Block]] = {}
    for block in blocks:
        head = block.head
        interval = head.endpoint, head.interval
        shares[interval] = min(head.share, shares.get(interval, 1.0))
        kind = (
            head.model, head.version, head.endpoint, head.arm, head.plan, head.layout,
            head.is_anonymous,
        )  # fmt: skip
        alike.setdefault(kind, []).append(block)
    return [
        _joined(group, [shares[one.head.endpoint, one.head.interval] for one in group])
        for group in alike.values()
    ]


def tables_of(
    answers: Iterable[Answers], seal: Seal | None = None
) -> list[tuple[str, str, pa.Table]]:
    """By model and version, without what is anonymous."""
    found: dict[tuple[str, str], list[pa.Table]] = {}
    for one in answers:
        if len(one.requests) and not one.head.is_anonymous:
            found.setdefault((one.head.model, one.head.version), []).append(one.table(seal))
    return [(*key, table) for key, tables in found.items() for table in _merged(tables)]


def _merged(tables: Sequence[pa.Table]) -> Sequence[pa.Table]:
    """One table, unless a field has texts in one and numbers in another."""
    try:
        return [pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()]
    except pa.ArrowTypeError:
        return tables


def _joined(blocks: Sequence[Block], interval_shares: Sequence[float]) -> Answers:
    head = blocks[0].head
    layout = read_layout(head.layout)
    requests, origin, origins = _requests(blocks)
    ids = strings(_piece(blocks, 1), _piece(blocks, 2))
    lengths = [len(block.pieces[0]) // REQUEST.itemsize for block in blocks]
    shares = np.repeat(interval_shares, lengths)
    counts = requests["kept_rows"]
    has_rows = bool(layout.inputs or layout.outputs)
    of_request = np.repeat(np.arange(len(requests)), counts if has_rows else 1)
    places = _places(blocks, of_request, counts)
    is_kept = (requests["draw"] < shares)[of_request]
    chosen = None if is_kept.all() else np.flatnonzero(is_kept)
    if chosen is not None:
        of_request, places = of_request[chosen], places[chosen]
    if chosen is not None or len(of_request) != len(requests):
        ids = ids.take(numbers(of_request))
        shares, counts, requests = shares[of_request], counts[of_request], requests[of_request]
        origin = origin[of_request]
    kept = shares * counts / np.maximum(requests["rows"], 1)
    inputs, outputs = _columns(blocks, layout, chosen)
    return Answers(head, layout, requests, ids, places, kept, origins, origin, inputs, outputs)


def _columns(
    blocks: Sequence[Block], layout: Layout, chosen: Array | None
) -> list[dict[str, Array | pa.Array]]:
    """Inputs and outputs; of all rows where none are chosen."""
    parts: list[dict[str, Array | pa.Array]] = []
    at = _FIRST_COLUMN
    for fields in (layout.inputs, layout.outputs):
        parts.append({})
        for field in fields:
            values = _column(blocks, at, field)
            at += 2 if field.is_text else 1
            if chosen is not None:
                values = _rows_of(values, field, chosen, as_arrow=True)
            parts[-1][field.name] = values
    return parts


def _requests(blocks: Sequence[Block]) -> tuple[Array, Array, list[Origin]]:
    """The requests of all blocks, where each came from, and what that refers to."""
    requests = np.frombuffer(_piece(blocks, 0), REQUEST)
    codes = requests["origin"].astype(np.int32)
    known: dict[Origin, int] = {}
    start = 0
    for block in blocks:
        end = start + len(block.pieces[0]) // REQUEST.itemsize
        here = [known.setdefault(one, len(known)) for one in block.head.origins]
        if here != list(range(len(here))):
            codes[start:end] = np.array(here, np.int32)[codes[start:end]]
        start = end
    return requests, codes, list(known)


def _piece(blocks: Sequence[Block], at: int) -> bytes:
    return b"".join([block.pieces[at] for block in blocks])


def _places(blocks: Sequence[Block], of_request: Array, counts: Array) -> Array:
    """The number of each kept row within its request."""
    if len(of_request) != counts.sum():  # there are no fields, and one line for each request
        return np.zeros(len(of_request), np.int32)
    starts = np.cumsum(counts) - counts
    made: Array = (np.arange(len(of_request)) - starts[of_request]).astype(np.int32)
    row = 0
    for block in blocks:
        rows = int(block.requests["kept_rows"].sum())
        if len(block.pieces[3]):
            made[row : row + rows] = np.frombuffer(block.pieces[3], "<i4")
        row += rows
    return made


def _column(blocks: Sequence[Block], at: int, field: Column) -> Array | pa.Array:
    if field.is_text:
        return strings(_piece(blocks, at), _piece(blocks, at + 1))
    return np.frombuffer(_piece(blocks, at), field.dtype).reshape(-1, *field.shape)


def _rows_of(
    values: Array | pa.Array, field: Column, rows: Array, *, as_arrow: bool = False
) -> Array | pa.Array:
    """Some rows of a column; of texts as objects, or flat where `as_arrow`."""
    if not field.is_text:
        return values[rows]
    width = field.values_per_row
    flat = (rows[:, None] * width + np.arange(width)).ravel()
    taken = values.take(numbers(flat))
    if as_arrow:
        return taken
    made = np.empty(len(taken), object)
    made[:] = taken.to_pylist()
    return made.reshape(-1, *field.shape)


def _texts(origin: Array, origins: Sequence[Origin], at: int) -> pa.Array:
    """One of the three texts of each origin, without repetition."""
    known: dict[str, int] = {}
    codes = np.array([known.setdefault(one[at], len(known)) for one in origins], np.int32)
    return pa.DictionaryArray.from_arrays(numbers(codes[origin]), strings_of(list(known)))


def _further(origin: Array, origins: Sequence[Origin], at: int, field: str) -> pa.Array:
    """A column of `FIXED` that not every origin has; null where it has nothing."""
    texts = [one[at] or None if len(one) > at else None for one in origins]
    return pa.array(texts, pa.string()).cast(FIXED.field(field).type).take(numbers(origin))


def numbers(values: Array) -> pa.Array:
    """An Arrow array of a numpy array. PyArrow's own conversion would import pandas."""
    if values.dtype.kind not in "iuf":
        return pa.array(values)
    plain = np.ascontiguousarray(values)
    kind = pa.from_numpy_dtype(plain.dtype)
    return pa.Array.from_buffers(kind, len(plain), [None, pa.py_buffer(plain)])


def strings(sizes: bytes, data: bytes) -> pa.Array:
    """An Arrow array of the two pieces of texts."""
    lengths = np.frombuffer(sizes, "<i4")
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(np.maximum(lengths, 0), out=offsets[1:])
    there = lengths >= 0
    known = None if there.all() else pa.py_buffer(np.packbits(there, bitorder="little"))
    return pa.StringArray.from_buffers(
        len(lengths), pa.py_buffer(offsets), pa.py_buffer(data), known
    )


def strings_of(values: Sequence[str]) -> pa.Array:
    """The same of a list."""
    raw = [value.encode() for value in values]
    return strings(np.array([len(one) for one in raw], "<i4").tobytes(), b"".join(raw))


def _flat(values: Array | pa.Array) -> list[Any]:
    flat: list[Any] = (
        values.ravel().tolist() if isinstance(values, np.ndarray) else values.to_pylist()
    )
    return flat


def _sealed(values: Array | pa.Array, field: Column, seal: Seal) -> pa.Array:
    made = pa.array(seal(field.name, _flat(values)), pa.string())
    return _arrow(made, Column(field.name, TEXT, field.shape))


def _arrow(values: Array | pa.Array, field: Column) -> pa.Array:
    made = values if field.is_text else numbers(np.ascontiguousarray(values).ravel())
    for length in reversed(field.shape):
        made = pa.FixedSizeListArray.from_arrays(made, length)
    return made
