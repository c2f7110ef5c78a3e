"""The ledger with many rows: what a query takes, and how much memory the scribe does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from tests.ledger_rows import counts, table

from bascule.monitoring.ledger import Ledger, SpoolWriter, write_segment
from bascule.monitoring.ledger.manifest import Manifest, commit
from bascule.serving.calls import Answer, AnsweredBy, Call
from bascule.serving.telemetry import LedgerRecorder, MetricLabels

FIELDS = 8
ROWS_AT_ONCE = 64


def many_rows(home, rows):
    """Ten days in segments of 100,000 rows; those of one day are the same file."""
    random, manifest = np.random.default_rng(0), Manifest(sequence=1)
    for day in range(1, 11):
        date = f"2026-11-{day:02d}"
        at = np.datetime64(date) + random.integers(0, 86_400 * 10**6, 100_000).astype("m8[us]")
        made = table([f"{day}-{row}" for row in range(100_000)], None)
        made = made.set_column(2, "time", pa.array(np.sort(at), pa.timestamp("us", "UTC")))
        for number in range(FIELDS):
            made = made.append_column(f"input.x{number}", pa.array(random.normal(size=100_000)))
        first = write_segment(home, made, "gb", "1", date, "0.parquet")
        for copy in range(rows // 1_000_000):
            file = first.file.replace("0.parquet", f"copy-{copy}.parquet")
            (home / "ledger" / file).hardlink_to(home / "ledger" / first.file)
            manifest.segments.append(msgspec.structs.replace(first, file=file))
    commit(home, manifest)


@pytest.mark.slow
@pytest.mark.serial
def test_ten_million_rows_are_aggregated_by_day_within_three_seconds_of_two_cores(tmp_path):
    """Of processor time, which other work on the machine does not change."""
    many_rows(tmp_path, 10_000_000)
    sql = """select time::date as day, count(*) n, avg(latency_s), avg("output.label")
        from predictions group by day order by day"""
    times_s = []
    for _ in range(3):
        started_s = time.process_time()
        found = Ledger(tmp_path).query(sql, model="gb")
        times_s.append(time.process_time() - started_s)
    assert found["n"].to_pylist() == [1_000_000] * 10
    assert min(times_s) <= 2 * 3.0


def spool_rows(home, rows):
    recorder = LedgerRecorder(SpoolWriter(home), max_rows_per_s=10**9)
    label, by = MetricLabels("gb", "1"), AnsweredBy("gb", "1", "onnx")
    random = np.random.default_rng(0)
    for number in range(rows // ROWS_AT_ONCE):
        context = SimpleNamespace(
            prediction_id=str(number), caller="me", protocol="oip", trace=(b"", b""), started_ns=0
        )
        call = Call(
            {f"x{n}": random.normal(size=ROWS_AT_ONCE) for n in range(FIELDS)}, ROWS_AT_ONCE
        )
        answer = Answer({"label": np.zeros(ROWS_AT_ONCE, np.int64)}, by)
        recorder.add(context, call, answer, label, 200, 10**6)
        if number % 100 == 99:
            recorder.tick()
            while recorder._spool._handed_bytes > recorder._spool._taken_bytes:
                time.sleep(0.001)
    recorder.close()


def peak_mb(home):
    """Of the scribe that takes in the spool of a home, and ends."""
    figures = (str(1 << 40), "365", str(os.getpid()))
    scribe = subprocess.Popen([sys.executable, "-m", "bascule.monitoring.ledger", home, *figures])
    deadline_s = time.monotonic() + 120
    while any((home / "spool").iterdir()) and time.monotonic() < deadline_s:
        time.sleep(0.2)
    scribe.terminate()
    _, status, used = os.wait4(scribe.pid, 0)
    scribe.returncode = status
    assert status == 0
    return used.ru_maxrss / 1024


@pytest.mark.slow
def test_the_memory_of_the_scribe_does_not_grow_with_the_rows(tmp_path):
    peaks = {}
    for rows in (100_000, 1_000_000):
        home = tmp_path / str(rows)
        home.mkdir()
        spool_rows(home, rows)
        peaks[rows] = peak_mb(home)
        assert counts(home)[0] == rows // ROWS_AT_ONCE * ROWS_AT_ONCE
    assert peaks[1_000_000] <= peaks[100_000] + 150
