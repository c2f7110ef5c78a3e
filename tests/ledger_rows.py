"""Rows of a ledger without a server: by the real recorder into the spool, or as segments."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from bascule.monitoring.ledger import Chore, Ledger, Scribe, SpoolWriter, write_segment
from bascule.monitoring.ledger.manifest import commit, read_manifest
from bascule.serving.calls import Answer, AnsweredBy, Call
from bascule.serving.telemetry import LedgerRecorder, MetricLabels

COUNT = "select count(*) n, count(distinct (id, row)) d from predictions"


@dataclass(frozen=True)
class Answers:
    """Requests of one row each: `input.x` is the place of the id, and so is `output.label`."""

    ids: Sequence[str]
    model: str = "gb"
    caller: str = "me"
    at: datetime | None = None


def spool(home: Path, *answers: Answers) -> None:
    """What a worker that has ended leaves."""
    recorder = LedgerRecorder(SpoolWriter(home), max_rows_per_s=10**9)
    for one in answers:
        label, by = MetricLabels(one.model, "1"), AnsweredBy(one.model, "1", "onnx")
        at_ns = int((one.at or datetime.now(UTC)).timestamp() * 1e9)
        for number, name in enumerate(one.ids):
            context: Any = SimpleNamespace(
                prediction_id=name, caller=one.caller, protocol="oip", trace=(b"", b""),
                started_ns=at_ns - recorder._epoch_ns,
            )  # fmt: skip
            call = Call({"x": np.array([float(number)])}, 1)
            answer = Answer({"label": np.array([number])}, by)
            recorder.add(context, call, answer, label, 200, 10**6)
    recorder.close()


def take_in(home: Path, *chores: Chore) -> None:
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


def segments(home: Path, count: int, rows: int, *, day: str = "2026-11-01") -> None:
    """Commit segments of `gb` with numbered ids, each with so many rows."""
    at = datetime.fromisoformat(f"{day}T12:00:00+00:00")
    manifest = read_manifest(home)
    for number in range(count):
        ids = [f"{home.name}-{day}-{number}-{row}" for row in range(rows)]
        name = f"{manifest.sequence + 1:08d}-{home.name}-{number}.parquet"
        made = write_segment(home, table(ids, at), "gb", "1", day, name)
        manifest.segments.append(made)
    manifest.sequence += 1
    commit(home, manifest)


def table(ids: Sequence[str], at: datetime | None) -> pa.Table:
    """Answers as a segment has them."""
    count = len(ids)
    texts = {"model": "gb", "version": "1", "endpoint": "gb", "arm": "", "caller": "me",
             "protocol": "oip", "trace_id": ""}  # fmt: skip
    return pa.table(
        {
            "id": pa.array(ids),
            "row": pa.array(np.zeros(count, np.int32)),
            "time": pa.array([at] * count, pa.timestamp("us", "UTC")),
            **{name: pa.array([text] * count) for name, text in texts.items()},
            "status": pa.array(np.full(count, 200, np.int16)),
            "latency_s": pa.array(np.full(count, 0.001)),
            "kept_share": pa.array(np.ones(count)),
            "input.x": pa.array(np.arange(float(count))),
            "output.label": pa.array(np.arange(count)),
        }
    )


def counts(home: Path) -> tuple[int, int]:
    """How many rows a query finds, and how many different ones."""
    (row,) = Ledger(home).query(COUNT).to_pylist()
    return row["n"], row["d"]


def ids(home: Path) -> list[str]:
    """Those of all rows that a query finds."""
    return sorted(Ledger(home).query("select id from predictions")["id"].to_pylist())


@contextmanager
def killed_at(owner: Any, name: str, *, after: bool = False) -> Iterator[None]:
    """The process dies where it calls `owner.name`, before or after that has done its work."""
    real = getattr(owner, name)

    def die(*given: Any, **options: Any) -> None:
        if after:
            real(*given, **options)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, die)
        with pytest.raises(KeyboardInterrupt):
            yield


def parquet_files(home: Path) -> set[str]:
    """The segments on the disk."""
    folder = home / "ledger"
    return {str(file.relative_to(folder)) for file in folder.rglob("*.parquet")}
