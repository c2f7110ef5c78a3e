"""Blocks to Arrow tables: one line a row of a request, as SQL sees the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from bascule.monitoring.ledger.blocks import Array, Block

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
"""The columns of `predictions` whatever the model. `arm` is empty without a rollout."""

INPUT, OUTPUT = "input.", "output."


def final_shares(blocks: Iterable[Block]) -> dict[tuple[str, int], float]:
    """By endpoint and interval: the least share that any of its blocks says."""
    shares: dict[tuple[str, int], float] = {}
    for block in blocks:
        key = block.endpoint, block.interval
        shares[key] = min(block.share, shares.get(key, 1.0))
    return shares


def tables_of(blocks: Sequence[Block]) -> list[tuple[str, str, pa.Table]]:
    """By model and version: what the blocks of one writer hold, but for what was sampled out."""
    shares = final_shares(blocks)
    alike: dict[Any, list[Block]] = {}
    for block in blocks:
        alike.setdefault(_kind(block), []).append(block)
    found: dict[tuple[str, str], list[pa.Table]] = {}
    for group in alike.values():
        table = _table_of(group, [shares[one.endpoint, one.interval] for one in group])
        if table.num_rows:
            found.setdefault((group[0].model, group[0].version), []).append(table)
    return [
        (model, version, pa.concat_tables(tables, promote_options="permissive"))
        for (model, version), tables in found.items()
    ]


def _kind(block: Block) -> Any:
    """What blocks must have in common to become one table."""
    fields = [
        (name, values.dtype.str, values.shape[1:])
        for part in (block.inputs, block.outputs)
        for name, values in part.items()
    ]
    return block.model, block.version, block.endpoint, bool(block.inputs), tuple(fields)


def _places(block: Block) -> Array:
    """The number of each kept row within its request."""
    if block.rows is not None:
        return block.rows
    counts = np.asarray(block.requests["kept_rows"])
    places: Array = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return places


def _table_of(blocks: Sequence[Block], shares: Sequence[float]) -> pa.Table:
    """The table of blocks of one kind; a conversion of each alone would cost ten times as much."""
    first = blocks[0]
    requests: dict[str, Any] = {
        name: [text for block in blocks for text in block.requests[name]]
        if isinstance(values, list)
        else np.concatenate([block.requests[name] for block in blocks])
        for name, values in first.requests.items()
    }
    share = np.repeat(shares, [len(block.requests["id"]) for block in blocks])
    counts = requests["kept_rows"]
    if first.inputs or first.outputs:
        places = np.concatenate([_places(block) for block in blocks])
    else:
        counts, places = np.ones_like(counts), np.zeros_like(counts)
    of_request = np.repeat(np.arange(len(counts)), counts)
    chosen = (requests["draw"] < share)[of_request]
    of_request = of_request[chosen]

    def texts(name: str) -> pa.Array:
        return pa.array(requests[name], pa.string()).take(pa.array(of_request))

    def numbers(name: str) -> Any:
        return np.asarray(requests[name])[of_request]

    def constant(value: str) -> pa.Array:
        return pa.repeat(pa.scalar(value, pa.string()), len(of_request))

    columns = {
        "id": texts("id"),
        "row": pa.array(places[chosen].astype(np.int32)),
        "time": pa.array(numbers("time_ns") // 1000).cast(pa.timestamp("us", "UTC")),
        "model": constant(first.model),
        "version": constant(first.version),
        "endpoint": constant(first.endpoint),
        "arm": constant(""),
        "caller": texts("caller"),
        "protocol": texts("protocol"),
        "status": pa.array(numbers("status").astype(np.int16)),
        "latency_s": pa.array(numbers("latency_ns") / 1e9),
        "trace_id": texts("trace"),
        "kept_share": pa.array((share * counts / np.maximum(requests["rows"], 1))[of_request]),
    }
    for prefix, part in ((INPUT, "inputs"), (OUTPUT, "outputs")):
        for name in getattr(first, part):
            column = np.concatenate([getattr(block, part)[name] for block in blocks])
            columns[prefix + name] = _arrow(column[chosen])
    return pa.table(columns)


def _arrow(values: Array) -> pa.Array:
    if values.dtype == object:
        made = pa.array(values.ravel().tolist(), pa.string())
    else:
        made = pa.array(np.ascontiguousarray(values).ravel())
    for length in reversed(values.shape[1:]):
        made = pa.FixedSizeListArray.from_arrays(made, length)
    return made
