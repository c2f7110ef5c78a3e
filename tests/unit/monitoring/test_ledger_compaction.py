"""Compaction: few segments in place of many, each row once at any moment."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime

import pyarrow.parquet as pq
import pytest
from tests.ledger_rows import Answers, counts, killed_at, parquet_files, segments, spool, take_in

from bascule.monitoring.ledger import Compaction, Ledger, Scribe, scribe as scribing
from bascule.monitoring.ledger.compaction import MERGED_BYTES, to_merge
from bascule.monitoring.ledger.manifest import Segment, read_manifest

TODAY = "2026-11-26"
YESTERDAY = "2026-11-25"


def many(count, day=YESTERDAY, size_bytes=1_000, version="1"):
    return [
        Segment(
            file=f"gb/{version}/{day}/{n:08d}.parquet", model="gb", version=version, day=day,
            rows=10, size_bytes=size_bytes,
        )
        for n in range(count)
    ]  # fmt: skip


def test_small_segments_of_a_finished_day_are_merged_those_of_a_version_alone():
    one, two = many(3), many(2, version="2")
    assert to_merge([*one, *two], TODAY) == [one, two]
    assert to_merge(one[:1], TODAY) == []


def test_todays_segments_are_merged_once_there_are_sixteen():
    assert to_merge(many(15, TODAY), TODAY) == []
    assert to_merge(many(16, TODAY), TODAY) == [many(16, TODAY)]


def test_a_merged_segment_is_at_most_of_the_size_that_is_sensible():
    third = MERGED_BYTES // 3 - 1
    found = to_merge(many(7, size_bytes=third), TODAY)
    assert [len(group) for group in found] == [3, 3]
    assert to_merge(many(2, size_bytes=MERGED_BYTES // 2), TODAY) == []
    assert len(to_merge(many(2, size_bytes=MERGED_BYTES // 2 - 1), TODAY)) == 1


def test_a_query_finds_the_same_rows_in_fewer_files(tmp_path):
    segments(tmp_path, 20, 10)
    sql = "select * exclude (filename) from (select *, 1 filename from predictions) order by id"
    before = Ledger(tmp_path).query(sql, model="gb")
    take_in(tmp_path, Compaction())
    assert Ledger(tmp_path).query(sql, model="gb").equals(before)
    (merged,) = read_manifest(tmp_path).segments
    assert (merged.rows, parquet_files(tmp_path)) == (200, {merged.file})
    times = pq.read_table(tmp_path / "ledger" / merged.file)["time"].to_pylist()
    assert times == sorted(times)


def test_a_reader_in_flight_still_finds_the_files_that_were_merged(tmp_path):
    segments(tmp_path, 4, 10)
    scribe = Scribe(tmp_path)
    before = read_manifest(tmp_path)
    Compaction().work(scribe, threading.Event())
    assert all((tmp_path / "ledger" / one.file).exists() for one in before.segments)
    assert counts(tmp_path) == (40, 40)
    scribe.close()
    assert len(parquet_files(tmp_path)) == 1


@pytest.mark.parametrize(
    ("owner", "name"),
    [(os, "fsync"), (scribing, "commit"), (Scribe, "_leave")],
    ids=["write", "commit", "after"],
)
def test_killed_at_a_step_each_row_is_there_once(tmp_path, owner, name):
    segments(tmp_path, 4, 10)
    dying = Scribe(tmp_path)
    with killed_at(owner, name):
        Compaction().work(dying, threading.Event())
    dying._lock.close()
    assert counts(tmp_path) == (40, 40)
    take_in(tmp_path, Compaction())
    assert counts(tmp_path) == (40, 40)
    assert len(parquet_files(tmp_path)) == 1


def test_a_segment_that_cannot_be_read_is_left_and_the_others_go_on(tmp_path, caplog):
    segments(tmp_path, 2, 10, day="2026-11-01")
    segments(tmp_path, 2, 10, day="2026-11-02")
    broken = read_manifest(tmp_path).segments[0]
    (tmp_path / "ledger" / broken.file).write_bytes(b"PAR1 no")
    take_in(tmp_path, Compaction())
    assert len(read_manifest(tmp_path).segments) == 3
    assert "2 segments of gb are not merged" in caplog.text


def test_what_is_recorded_meanwhile_is_kept(tmp_path):
    segments(tmp_path, 3, 10)
    spool(tmp_path, Answers(["new"], at=datetime.now(UTC)))
    take_in(tmp_path, Compaction())
    assert counts(tmp_path) == (31, 31)
