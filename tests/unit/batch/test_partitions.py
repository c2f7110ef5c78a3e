"""Partitioned output: a folder, a Delta table, and the rows of partitions in databases."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from tests.tiers import first_of

from bascule.batch import job_of
from bascule.batch.databases.sqlalchemy import _Session
from bascule.batch.places import open_place
from bascule.batch.sinks.database import DatabaseSink
from bascule.batch.sinks.partitions import PartitionedSink
from bascule.core import Conflict, Invalid

from .conftest import flights


def days(path: Path, first: int, days: list[str], rows: int = 10) -> Path:
    """Rows with ids from `first`, so many for each day."""
    table = flights(rows * len(days), start=first)
    pq.write_table(table.append_column("day", pa.array(days * rows)), path)
    return path


def ids(folder: Path, form: str = "parquet") -> dict[str, list[int]]:
    """By day, the ids that a reader of the folder sees."""
    found = ds.dataset(folder, format=form, partitioning="hive").to_table().to_pylist()
    return {
        day: sorted(one["id"] for one in found if str(one["day"]) == day)
        for day in sorted({str(one["day"]) for one in found})
    }


def read_place(place: str, tmp_path: Path) -> dict[str, list[int]]:
    if place == "delta":
        import deltalake

        rows = deltalake.DeltaTable(str(tmp_path / "t")).to_pyarrow_table().to_pylist()
    elif place == "sqlite":
        with closing(sqlite3.connect(tmp_path / "t.db")) as connection:
            rows = [{"id": i, "day": d} for i, d in connection.execute("SELECT id, day FROM t")]
    else:
        with duckdb.connect(str(tmp_path / "t.db"), read_only=True) as connection:
            found = connection.execute("SELECT id, day FROM t").fetchall()
            rows = [{"id": i, "day": d} for i, d in found]
    known = sorted({str(one["day"]) for one in rows})
    return {day: sorted(one["id"] for one in rows if str(one["day"]) == day) for day in known}


@pytest.mark.parametrize(
    ("kind", "form"), [("parquet", "parquet"), ("csv", "csv"), ("arrow", "ipc")]
)
def test_a_folder_is_divided_by_the_values_of_columns(score, tmp_path, kind, form):
    source = days(tmp_path / "in.parquet", 0, ["d1", "d2"])
    options: dict[str, Any] = {"partition_by": ["day"], "format": kind, "chunk_rows": 7}
    for _ in range(2):  # the second time changes nothing
        assert score(source, f"{tmp_path}/out/", **options).rows == 20
    names = {
        str(one.relative_to(tmp_path / "out").parent) for one in (tmp_path / "out").rglob("part*")
    }
    assert names == {"day=d1", "day=d2"}
    assert ids(tmp_path / "out", form) == {"d1": [*range(0, 20, 2)], "d2": [*range(1, 20, 2)]}


def test_only_the_partitions_that_a_run_has_rows_of_are_replaced(score, tmp_path):
    out, how = f"{tmp_path}/out/", {"partition_by": ["day"], "mode": "replace_partitions"}
    score(days(tmp_path / "a.parquet", 0, ["d1", "d2"], 2), out, **how)
    second = days(tmp_path / "b.parquet", 100, ["d2", "d3"], 2)
    for _ in range(2):
        score(second, out, **how)
    assert ids(tmp_path / "out") == {"d1": [0, 2], "d2": [100, 102], "d3": [101, 103]}
    score(days(tmp_path / "c.parquet", 200, ["d1"], 1), out, **how)
    score(second, out, **how)  # its rows are there still
    assert ids(tmp_path / "out") == {"d1": [200], "d2": [100, 102], "d3": [101, 103]}
    score(days(tmp_path / "d.parquet", 300, ["d9"], 1), out, **how | {"mode": "replace"})
    assert ids(tmp_path / "out") == {"d9": [300]}


def test_a_run_whose_partition_was_replaced_since_writes_it_again(score, tmp_path):
    out, how = f"{tmp_path}/out/", {"partition_by": ["day"], "mode": "replace_partitions"}
    first = days(tmp_path / "a.parquet", 0, ["d1"], 2)
    score(first, out, **how)
    score(days(tmp_path / "b.parquet", 100, ["d1"], 2), out, **how)
    score(first, out, **how)
    assert ids(tmp_path / "out") == {"d1": [0, 1]}


@pytest.mark.parametrize("killed_at", first_of([1, 2, 3, 4], 2))
def test_a_kill_at_the_end_is_made_good_by_the_same_command(
    score, tmp_path, monkeypatch, killed_at
):
    out, how = f"{tmp_path}/out/", {"partition_by": ["day"], "mode": "replace_partitions"}
    score(days(tmp_path / "a.parquet", 0, ["d1", "d2", "d3"], 2), out, **how)
    show, calls = PartitionedSink._show, [0]

    class Killed(BaseException):
        pass

    def killed(self: Any, draft: Path, target: str) -> None:
        calls[0] += 1
        if calls[0] == killed_at:
            raise Killed
        show(self, draft, target)

    second = days(tmp_path / "b.parquet", 100, ["d1", "d2", "d3"], 2)
    with monkeypatch.context() as patch:
        patch.setattr(PartitionedSink, "_show", killed)
        if killed_at <= 3:
            with pytest.raises(Killed):
                score(second, out, **how)
    score(second, out, **how)
    assert ids(tmp_path / "out") == {"d1": [100, 103], "d2": [101, 104], "d3": [102, 105]}


def test_files_of_no_run_in_a_partition_are_not_removed(score, tmp_path):
    foreign = tmp_path / "out" / "day=d1" / "theirs.parquet"
    foreign.parent.mkdir(parents=True)
    pq.write_table(flights(3), foreign)
    how: dict[str, Any] = {"partition_by": ["day"], "mode": "replace_partitions"}
    with pytest.raises(Conflict, match="no run of bascule"):
        score(days(tmp_path / "a.parquet", 0, ["d1"]), f"{tmp_path}/out/", **how)
    assert foreign.is_file()
    score(days(tmp_path / "b.parquet", 0, ["d2"]), f"{tmp_path}/out/", **how)


@pytest.mark.parametrize("place", ["delta", "sqlite", "duckdb"])
def test_tables_have_their_partitions_replaced(score, tmp_path, place):
    sink = f"delta://{tmp_path}/t" if place == "delta" else f"{place}:///{tmp_path}/t.db#t"
    how: dict[str, Any] = {"partition_by": ["day"], "mode": "replace_partitions"}
    score(days(tmp_path / "a.parquet", 0, ["d1", "d2"], 2), sink, **how)
    for _ in range(2):
        score(days(tmp_path / "b.parquet", 100, ["d2", "it's"], 2), sink, **how)
    assert read_place(place, tmp_path) == {
        "d1": [0, 2], "d2": [100, 102], "it's": [101, 103]
    }  # fmt: skip
    if place == "delta":
        assert (tmp_path / "t" / "day=d1").is_dir()


@pytest.mark.parametrize(
    ("sink", "options"),
    [
        ("out/", {"partition_by": ["speed"]}), ("out/", {"partition_by": ["gust"]}),
        ("out/", {"mode": "replace_partitions"}), ("out.parquet", {"partition_by": ["day"]}),
        ("out/", {"partition_by": ["day"], "format": "jsonl"}),
        ("sqlite:///t.db#t", {"partition_by": ["day"]}),
    ],
)  # fmt: skip
def test_what_cannot_be_divided_is_refused_before_a_row_is_scored(
    score, tmp_path, monkeypatch, sink, options
):
    monkeypatch.chdir(tmp_path)
    source = days(tmp_path / "in.parquet", 0, ["d1"])
    with pytest.raises(Invalid, match="partition"):
        score(source, sink, **options)


def test_rows_of_partitions_are_replaced_in_postgresql(score, tmp_path, postgresql_url):
    from adbc_driver_postgresql import dbapi

    sink, how = f"{postgresql_url}#parts", {"partition_by": ["day"], "mode": "replace_partitions"}
    score(days(tmp_path / "a.parquet", 0, ["d1", "d2"], 2), sink, **how)
    for _ in range(2):
        score(days(tmp_path / "b.parquet", 100, ["d2", "d3"], 2), sink, **how)
    with dbapi.connect(postgresql_url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT id, day FROM parts ORDER BY id")
        assert cursor.fetchall() == [
            (0, "d1"), (2, "d1"), (100, "d2"), (101, "d3"), (102, "d2"), (103, "d3")
        ]  # fmt: skip


def test_partitions_of_a_folder_in_a_bucket_are_replaced(score, tmp_path, s3_url):
    out, how = f"{s3_url}/out/", {"partition_by": ["day"], "mode": "replace_partitions"}
    score(days(tmp_path / "a.parquet", 0, ["d1", "d2"], 2), out, **how)
    for _ in range(2):
        score(days(tmp_path / "b.parquet", 100, ["d2", "d3"], 2), out, **how)
    filesystem, path = open_place(out)
    found = ds.dataset(path, format="parquet", partitioning="hive", filesystem=filesystem)
    rows = found.to_table().sort_by("id").select(["id", "day"]).to_pylist()
    assert [(one["id"], one["day"]) for one in rows] == [
        (0, "d1"), (2, "d1"), (100, "d2"), (101, "d3"), (102, "d2"), (103, "d3")
    ]  # fmt: skip
    with pytest.raises(Conflict, match="already has rows"):
        score(days(tmp_path / "c.parquet", 0, ["d4"]), out, partition_by=["day"])


def test_partitions_are_compared_in_the_quotes_of_the_database():
    from sqlalchemy.dialects import mysql

    job = job_of({"model": "m", "from": "x", "to": "sqlite:///t.db#t", "partition_by": ["order"],
                  "mode": "replace_partitions"})  # fmt: skip
    sink = DatabaseSink(job)
    sink._target = "new"
    session = _Session(SimpleNamespace(dialect=mysql.dialect()), None)  # type: ignore[arg-type]
    assert "(t.`order` = n.`order` OR" in sink._replaced(session)
