"""Rows of a ledger, without a server: written as blocks into the spool, or as segments."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from bascule.monitoring.ledger import Block, Ledger, Scribe, SpoolWriter, to_bytes, write_segment
from bascule.monitoring.ledger.manifest import commit, read_manifest

COUNT = "select count(*) n, count(distinct (id, row)) d from predictions"


def block(ids, *, model="gb", version="1", caller="me", at=None):
    at_s = (at or datetime.now(UTC)).timestamp()
    count = len(ids)
    return Block(
        model=model, version=version, endpoint=model, interval=0, share=1.0,
        requests={
            "id": list(ids), "caller": [caller] * count, "protocol": ["http"] * count,
            "trace": [""] * count, "time_ns": np.full(count, int(at_s * 1e9)),
            "latency_ns": np.full(count, 10**6), "status": np.full(count, 200, np.int16),
            "rows": np.ones(count, int), "kept_rows": np.ones(count, int),
            "draw": np.zeros(count),
        },
        inputs={"x": np.arange(float(count))}, outputs={"label": np.arange(count)},
    )  # fmt: skip


def spool(home, *blocks):
    """What a worker that has ended leaves."""
    writer = SpoolWriter(home)
    for one in blocks:
        for name in one.requests["id"]:
            writer.keep(name)
        writer.append(to_bytes(one), len(one.requests["id"]))
    writer.close()


def take_in(home, *chores):
    """One life of a scribe: the spool, then its chores."""
    scribe = Scribe(home)
    try:
        while scribe.turn(everything=True):
            pass
        for chore in chores:
            chore.work(scribe, threading.Event())
    except KeyboardInterrupt:  # killed: nothing but its lock is given up
        scribe._lock.close()
        raise
    scribe.close()


def segments(home, count, rows, *, day="2026-11-01", model="gb"):
    """Commit `count` segments with `rows` rows each, of numbered ids."""
    at = datetime.fromisoformat(f"{day}T12:00:00+00:00")
    manifest = read_manifest(home)
    for number in range(count):
        ids = [f"{home.name}-{day}-{number}-{row}" for row in range(rows)]
        made = table(ids, at, model)
        name = f"{manifest.sequence + 1:08d}-{home.name}-{number}.parquet"
        manifest.segments.append(write_segment(home, made, model, "1", day, name))
    manifest.sequence += 1
    commit(home, manifest)


def table(ids, at, model="gb"):
    from bascule.monitoring.ledger.tables import tables_of

    ((_, _, made),) = tables_of([block(ids, model=model, at=at)])
    return made


def counts(home):
    (row,) = Ledger(home).query(COUNT).to_pylist()
    return row["n"], row["d"]


def parquet_files(home):
    return {str(one.relative_to(home / "ledger")) for one in (home / "ledger").rglob("*.parquet")}


__all__ = ["COUNT", "block", "counts", "pa", "parquet_files", "segments", "spool", "take_in"]
