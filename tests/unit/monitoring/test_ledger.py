"""The ledger from spool to SQL: each row once, whatever dies in between."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from tests.ledger_rows import counts, killed_at
from tests.tiers import first_of
from tests.waiting import until

from bascule.core import Conflict, Invalid, NotFound, Untrusted, limited_memory
from bascule.monitoring.ledger import Ledger, Retention, Scribe, SpoolWriter, scribe as scribing
from bascule.monitoring.ledger.manifest import Segment, read_manifest
from bascule.monitoring.ledger.scribe import kept_segments
from bascule.monitoring.ledger.spool import WriterFolder
from bascule.serving.calls import Answer, AnsweredBy, Call
from bascule.serving.telemetry import LedgerRecorder, MetricLabels

GB = MetricLabels("gb", "1")
BY = AnsweredBy("gb", "1", "onnx")


def context(name, started_ns=0):
    return SimpleNamespace(
        prediction_id=name, caller="me", protocol="oip", trace=(b"", b""), started_ns=started_ns
    )


def record(recorder, name, rows=1, *, label=GB, by=BY, status=200):
    call = Call({"x": np.arange(rows * 2.0).reshape(rows, 2)}, rows)
    answer = Answer({"label": np.array(["yes"] * rows, object)}, by)
    recorder.add(context(name), call, answer, label, status, 2_000_000)


@pytest.fixture
def recorder(tmp_path):
    spool = SpoolWriter(tmp_path)
    made = LedgerRecorder(spool)
    made.spool = spool
    yield made
    if not spool._pending.closed:
        made.close()


def killed(recorder):
    """End a writer as `kill -9` does: what it has not handed over is lost, and so is its lock."""
    recorder.spool._waiting.put(None)
    recorder.spool._writing.join()
    os.close(recorder.spool._pending_fd)
    recorder.spool._words.release()
    recorder.spool._pending.close()


def scribed(home, **options):
    scribe = Scribe(home, **options)
    take_turns(scribe)
    scribe.close()


def take_turns(scribe):
    while scribe.turn(everything=True):
        pass


def test_answers_are_found_before_and_after_the_scribe_and_only_once(tmp_path, recorder):
    for number in range(150):
        record(recorder, f"a-{number}", rows=2)
    recorder.close()
    assert counts(tmp_path) == (300, 300)
    scribed(tmp_path)
    assert counts(tmp_path) == (300, 300)
    scribed(tmp_path)
    assert counts(tmp_path) == (300, 300)
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_row_says_who_asked_what_and_who_answered_what(tmp_path, recorder):
    record(recorder, "a", rows=2)
    recorder.close()
    found = Ledger(tmp_path).query(
        'select id, row, model, version, endpoint, caller, protocol, status, latency_s, '
        'kept_share, "input.x" x, "output.label" label from predictions order by row',
        model="gb",
    )  # fmt: skip
    assert found.to_pylist()[1] == {
        "id": "a", "row": 1, "model": "gb", "version": "1", "endpoint": "gb", "caller": "me",
        "protocol": "oip", "status": 200, "latency_s": 0.002, "kept_share": 1.0,
        "x": [2.0, 3.0], "label": "yes",
    }  # fmt: skip


def test_a_failed_request_has_a_row_without_fields(tmp_path, recorder):
    recorder.add(context("bad"), None, None, GB, 400, 1)
    record(recorder, "good")
    recorder.close()
    sql = 'select id, status, "input.x" is null empty from predictions order by id'
    for _ in range(2):
        assert Ledger(tmp_path).query(sql, model="gb").to_pylist() == [
            {"id": "bad", "status": 400, "empty": True},
            {"id": "good", "status": 200, "empty": False},
        ]
        scribed(tmp_path)


def test_a_fallbacks_answer_is_of_the_version_that_gave_it(tmp_path, recorder):
    record(recorder, "a", by=AnsweredBy("old", "7", "onnx"))
    recorder.close()
    found = Ledger(tmp_path).query("select model, version, endpoint from predictions").to_pylist()
    assert found == [{"model": "old", "version": "7", "endpoint": "gb"}]


def test_what_a_killed_writer_had_not_written_is_told_by_its_ids(tmp_path, recorder):
    for number in range(70):
        record(recorder, f"a-{number}")
    killed(recorder)
    scribed(tmp_path)
    assert counts(tmp_path) == (64, 64)
    (gap,) = Ledger(tmp_path).gaps()
    assert (gap.requests, gap.why) == (6, "killed")
    assert gap.ids == tuple(f"a-{number}" for number in range(64, 70))


def test_a_writer_that_lives_is_read_while_it_writes(tmp_path, recorder):
    record(recorder, "a")
    recorder.flush()
    recorder.spool.append(b"", 0)
    until(lambda: list(recorder.spool.folder.glob("*.blocks")))
    scribed(tmp_path)
    record(recorder, "b")
    recorder.close()
    assert counts(tmp_path) == (2, 2)
    assert Ledger(tmp_path).gaps() == []


@pytest.mark.parametrize(
    ("owner", "name", "after"),
    [
        (scribing.pq, "write_table", False),
        (scribing, "commit", False),
        (scribing, "commit", True),
        (scribing.shutil, "rmtree", False),
    ],
    ids=["segment", "before the manifest", "after the manifest", "spool"],
)
def test_a_scribe_that_dies_at_a_step_leaves_each_row_once(tmp_path, recorder, owner, name, after):
    for number in range(10):
        record(recorder, f"a-{number}")
    recorder.close()
    dying = Scribe(tmp_path)
    with killed_at(owner, name, after=after):
        take_turns(dying)
    dying.close()
    assert counts(tmp_path) == (10, 10)
    scribed(tmp_path)
    assert counts(tmp_path) == (10, 10)
    files = {str(file.relative_to(tmp_path / "ledger")) for file in tmp_path.rglob("*.parquet")}
    assert files == {one.file for one in read_manifest(tmp_path).segments}


def test_two_scribes_do_not_write_one_ledger(tmp_path):
    first = Scribe(tmp_path)
    with pytest.raises(Conflict, match="another scribe"):
        Scribe(tmp_path)
    first.close()
    Scribe(tmp_path).close()


def test_the_scribe_of_a_second_server_leaves_the_spool_to_the_first(tmp_path, recorder):
    record(recorder, "a")
    recorder.close()
    # Its parent has ended, so that it takes one turn and ends.
    command = [sys.executable, "-m", "bascule.monitoring.ledger", str(tmp_path), "1000", "365", "1"]
    first = Scribe(tmp_path)
    assert subprocess.run(command, check=False).returncode == 0
    assert list((tmp_path / "spool").iterdir()) != []
    first.close()
    assert subprocess.run(command, check=False).returncode == 0
    assert list((tmp_path / "spool").iterdir()) == []


def test_blocks_are_dropped_and_counted_where_the_spool_is_full(tmp_path):
    spool = SpoolWriter(tmp_path, max_bytes=0)
    recorder = LedgerRecorder(spool)
    for number in range(64):
        record(recorder, f"a-{number}")
    recorder.close()
    scribed(tmp_path)
    (gap,) = Ledger(tmp_path).gaps()
    assert (gap.requests, gap.why) == (64, "dropped")


def test_a_disk_that_stands_still_costs_bounded_memory(tmp_path, monkeypatch):
    going_on = threading.Event()
    real = SpoolWriter._append
    monkeypatch.setattr(
        SpoolWriter, "_append", staticmethod(lambda *given: (going_on.wait(10), real(*given)))
    )
    spool = SpoolWriter(tmp_path)
    megabytes = bytes(1 << 20)
    for number in range(100):
        spool.keep(str(number))
        spool.append(megabytes, 1)
    assert WriterFolder(spool.folder).pending().dropped == 100 - 64
    going_on.set()
    spool.close()


def test_a_query_reads_no_other_file_and_writes_none(tmp_path, recorder):
    record(recorder, "a")
    recorder.close()
    scribed(tmp_path)
    ledger = Ledger(tmp_path)
    (segment,) = (tmp_path / "ledger").rglob("*.parquet")
    before, secret = segment.read_bytes(), pa.table({"secret": ["of this process"]})
    for sql in (
        f"copy predictions to '{segment}'",
        f"copy (select 1) to '{segment.parent}/new.parquet'",
        f"explain analyze copy (select 1) to '{segment}'",
        f"select 1; copy (select 1) to '{segment}'",
        f"attach '{segment.parent}/x.db' as x",
        f"export database '{segment.parent}'",
        "create temp table t as select 1",
        "call enable_logging(storage = 'file')",
        "select * from enable_logging(storage = 'file')",
        "select * from secret",
        "pragma database_list",
        "select * from query('copy (select 1) to x')",
        "",
        "select * from read_csv('/etc/passwd')",
        f"copy predictions to '{tmp_path}/out.csv'",
        "set enable_external_access = true",
        "attach '/tmp/x.db' as x",
    ):
        with pytest.raises(Invalid, match="the query is refused"):
            ledger.query(sql)
        with pytest.raises(Invalid, match="the query is refused"):
            ledger.stream(sql, lambda _, batches: list(batches))
    assert secret.num_rows == 1
    assert segment.read_bytes() == before
    assert {file.suffix for file in segment.parent.iterdir()} == {".parquet", ".profile"}


@pytest.mark.parametrize(
    "sql",
    first_of(
        [
            "select repeat('x', 3000000) from range(3000)",
            "select string_agg(repeat('x', 1000), '') from range(8000000)",
            "select list(range) from range(1000000000)",
            "select repeat('x', 4000000000)",
        ],
        2,
    ),
)
def test_a_query_that_grows_without_bound_is_ended(tmp_path, sql):
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ledger = Ledger(tmp_path)
    with limited_memory(1536 << 20), pytest.raises(Invalid, match="the query is refused"):
        ledger.stream(sql, lambda _, batches: sum(batch.num_rows for batch in batches))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 1_700_000


def test_rows_are_streamed(tmp_path):
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = Ledger(tmp_path).stream(
        "select range, md5(range::text) from range(1000000)",
        lambda _, batches: sum(batch.num_rows for batch in batches),
    )
    assert rows == 1_000_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 60_000


def test_a_query_that_is_wrong_says_what_and_what_there_is(tmp_path):
    with pytest.raises(Invalid, match="speling") as refused:
        Ledger(tmp_path).query("select speling from predictions")
    assert "predictions" in refused.value.hint
    with pytest.raises(NotFound, match="no answers of 'gb'"):
        Ledger(tmp_path).query("select 1", model="gb")


def test_an_empty_ledger_is_an_empty_table(tmp_path):
    assert counts(tmp_path) == (0, 0)


def test_versions_whose_fields_differ_in_type_are_one_table(tmp_path, recorder):
    recorder.add(
        context("one"), Call({"x": np.array([1], np.int64)}, 1), Answer({}, BY), GB, 200, 1
    )
    two = MetricLabels("gb", "2")
    recorder.add(
        context("two"), Call({"x": np.array([0.5])}, 1),
        Answer({}, AnsweredBy("gb", "2", "onnx")), two, 200, 1,
    )  # fmt: skip
    recorder.close()
    for _ in range(2):
        found = Ledger(tmp_path).query('select sum("input.x") s from predictions', model="gb")
        assert found.to_pylist() == [{"s": 1.5}]
        scribed(tmp_path)


def segment(day, size_bytes=10):
    return Segment(file=day, model="m", version="1", day=day, rows=1, size_bytes=size_bytes)


def test_the_oldest_days_make_room_and_those_past_the_retention_go():
    days = [segment(f"2026-11-{day:02d}") for day in range(1, 11)]
    now = datetime(2026, 11, 10, tzinfo=UTC)
    assert kept_segments(days, Retention(30, 365), now) == days[-3:]
    assert kept_segments(days, Retention(1_000, 4), now) == days[-5:]
    assert kept_segments(days, Retention(1_000, 365), now) == days


def test_a_manifest_of_a_newer_release_is_refused(tmp_path):
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger/manifest.json").write_text('{"format": 2}')
    with pytest.raises(Untrusted, match="format 2, and this bascule reads 1"):
        Ledger(tmp_path).gaps()
