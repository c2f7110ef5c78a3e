"""Blocks to columns of rows, and to Arrow tables: one line a row of a request, as SQL sees it.

The blocks of one layout are joined piece by piece. What is the same for many rows, such as the
model, is written once and referred to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from bascule.bundle.statements import split_columns
from bascule.core import Columns
from bascule.monitoring.ledger.blocks import (
    REQUEST,
    TEXT,
    Array,
    Block,
    Column,
    Head,
    Layout,
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
    ]
)
"""The columns of `predictions` for every model. `arm` is empty without a plan."""

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
        texts: What `caller`, `protocol` and `trace` of `requests` refer to.
        inputs: By field: numbers of shape (rows, ...), or flat texts.
        outputs: The same.
    """

    head: Head
    layout: Layout
    requests: Array
    ids: pa.Array
    places: Array
    shares: Array
    texts: list[str]
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
        """Inputs and outputs of some rows, one array for each column of a baseline."""
        made: list[Columns] = []
        for part, fields in (
            (self.inputs, self.layout.inputs),
            (self.outputs, self.layout.outputs),
        ):
            chosen: Columns = {}
            for field in fields:
                names = self.layout.names.get(field.name, ())
                chosen |= split_columns(field.name, _rows_of(part[field.name], field, rows), names)
            made.append(chosen)
        return made[0], made[1]

    def table(self) -> pa.Table:
        """As SQL sees it."""
        requests = self.requests
        one = np.zeros(len(requests), np.int32)

        def texts(codes: Array, values: Sequence[str]) -> pa.Array:
            return pa.DictionaryArray.from_arrays(
                pa.array(codes.astype(np.int32, copy=False)), strings_of(values)
            )

        columns = {
            "id": self.ids,
            "row": pa.array(self.places),
            "time": pa.array(requests["time_ns"] // 1000).cast(FIXED.field("time").type),
            "model": texts(one, [self.head.model]),
            "version": texts(one, [self.head.version]),
            "endpoint": texts(one, [self.head.endpoint]),
            "arm": texts(one, [self.head.arm]),
            "caller": texts(requests["caller"], self.texts),
            "protocol": texts(requests["protocol"], self.texts),
            "status": pa.array(requests["status"].astype(np.int16)),
            "latency_s": pa.array(requests["latency_ns"] / 1e9),
            "trace_id": texts(requests["trace"], self.texts),
            "kept_share": pa.array(self.shares),
        }
        for prefix, part, fields in (
            (INPUT, self.inputs, self.layout.inputs),
            (OUTPUT, self.outputs, self.layout.outputs),
        ):
            columns |= {prefix + one.name: _arrow(part[one.name], one) for one in fields}
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
            head.model, head.version, head.endpoint, head.arm, head.layout, head.is_anonymous
        )  # fmt: skip
        alike.setdefault(kind, []).append(block)
    return [
        _joined(group, [shares[one.head.endpoint, one.head.interval] for one in group])
        for group in alike.values()
    ]


def tables_of(answers: Iterable[Answers]) -> list[tuple[str, str, pa.Table]]:
    """By model and version, without what is anonymous."""
    found: dict[tuple[str, str], list[pa.Table]] = {}
    for one in answers:
        if len(one.requests) and not one.head.is_anonymous:
            found.setdefault((one.head.model, one.head.version), []).append(one.table())
    return [
        (
            model,
            version,
            pa.concat_tables(tables, promote_options="permissive").unify_dictionaries(),
        )
        for (model, version), tables in found.items()
    ]


def _joined(blocks: Sequence[Block], interval_shares: Sequence[float]) -> Answers:
    head = blocks[0].head
    layout = read_layout(head.layout)
    requests, texts = _requests(blocks)
    lengths = [len(block.pieces[0]) // REQUEST.itemsize for block in blocks]
    shares = np.repeat(interval_shares, lengths)
    counts = requests["kept_rows"]
    has_rows = bool(layout.inputs or layout.outputs)
    of_request = np.repeat(np.arange(len(requests)), counts if has_rows else 1)
    places = _places(blocks, of_request, counts)
    rows = np.flatnonzero((requests["draw"] < shares)[of_request])
    ids = strings(_piece(blocks, 1), _piece(blocks, 2))
    if len(rows) < len(of_request):
        of_request, places = of_request[rows], places[rows]
    if len(of_request) != len(requests):
        ids = ids.take(pa.array(of_request))
        shares, counts, requests = shares[of_request], counts[of_request], requests[of_request]
    parts: list[dict[str, Array | pa.Array]] = []
    at = _FIRST_COLUMN
    for fields in (layout.inputs, layout.outputs):
        parts.append({})
        for field in fields:
            parts[-1][field.name] = values = _column(blocks, at, field)
            at += 2 if field.dtype == TEXT else 1
            if len(rows) < len(values) // (field.values_per_row if field.dtype == TEXT else 1):
                parts[-1][field.name] = _rows_of(values, field, rows, as_arrow=True)
    kept = shares * counts / np.maximum(requests["rows"], 1)
    return Answers(head, layout, requests, ids, places, kept, texts, *parts)


def _requests(blocks: Sequence[Block]) -> tuple[Array, list[str]]:
    """The requests of all blocks, whose texts are in one list."""
    requests = np.frombuffer(bytearray(_piece(blocks, 0)), REQUEST)
    texts: dict[str, int] = {}
    if all(block.head.texts == blocks[0].head.texts for block in blocks):
        return requests, list(blocks[0].head.texts)
    start = 0
    for block in blocks:
        end = start + len(block.pieces[0]) // REQUEST.itemsize
        codes = np.array([texts.setdefault(one, len(texts)) for one in block.head.texts], "<u4")
        if len(texts) > np.iinfo("<u2").max:
            requests = requests.astype(_WIDE)
        for name in ("caller", "protocol", "trace"):
            requests[name][start:end] = codes[block.requests[name]]
        start = end
    return requests, list(texts)


_WIDE = np.dtype(
    [
        (name, "<u4" if name in ("caller", "protocol", "trace") else REQUEST[name])
        for name in REQUEST.names or ()
    ]
)


def _piece(blocks: Sequence[Block], at: int) -> bytes:
    return b"".join([block.pieces[at] for block in blocks])


def _places(blocks: Sequence[Block], of_request: Array, counts: Array) -> Array:
    """The number of each kept row within its request."""
    if len(of_request) == len(counts) == counts.sum() and not any(len(b.pieces[3]) for b in blocks):
        return np.zeros(len(of_request), np.int32)
    if len(of_request) != counts.sum():
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
    if field.dtype == TEXT:
        return strings(_piece(blocks, at), _piece(blocks, at + 1))
    return np.frombuffer(_piece(blocks, at), field.dtype).reshape(-1, *field.shape)


def _rows_of(
    values: Array | pa.Array, field: Column, rows: Array, *, as_arrow: bool = False
) -> Array | pa.Array:
    """Some rows of a column; of texts as objects, or flat where `as_arrow`."""
    if field.dtype != TEXT:
        return values[rows]
    width = field.values_per_row
    flat = (rows[:, None] * width + np.arange(width)).ravel()
    taken = values.take(pa.array(flat))
    return taken if as_arrow else taken.to_numpy(zero_copy_only=False).reshape(-1, *field.shape)


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
    """The same of a list. Arrow would import pandas to convert it."""
    raw = [value.encode() for value in values]
    return strings(np.array([len(one) for one in raw], "<i4").tobytes(), b"".join(raw))


def _arrow(values: Array | pa.Array, field: Column) -> pa.Array:
    made = values if field.dtype == TEXT else pa.array(np.ascontiguousarray(values).ravel())
    for length in reversed(field.shape):
        made = pa.FixedSizeListArray.from_arrays(made, length)
    return made
