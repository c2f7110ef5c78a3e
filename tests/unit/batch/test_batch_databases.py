"""What is particular to one database; what all share is in tests/conformance."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.tiers import first_of

from bascule.batch import job_of, planned
from bascule.core import Conflict, Invalid, MissingExtra, NotFound, Unavailable

from .conftest import flights


@pytest.fixture
def source(tmp_path: Path) -> Path:
    pq.write_table(flights(100), tmp_path / "flights.parquet", row_group_size=30)
    return tmp_path / "flights.parquet"


def sqlite_with(path: Path, *statements: str) -> str:
    with closing(sqlite3.connect(path)) as connection:
        for one in statements:
            connection.execute(one)
        connection.commit()
    return f"sqlite:///{path}"


FLIGHTS = (
    "CREATE TABLE flights (id INTEGER, carrier TEXT, airport TEXT, month INTEGER, wind REAL, "
    "gust REAL)"
)
ROW = "INSERT INTO flights VALUES ({id}, 'AA', 'EWR', 3, 0.5, {gust})"


def test_a_value_that_is_not_of_its_columns_type_is_one_bad_row(score, tmp_path):
    """Also in a column that the model does not read."""
    values = [(n, 1.5) for n in range(200)]
    values[3], values[77], values[150] = (3, "'calm'"), (77, "'calm'"), ("'old'", 1.5)
    rows = [ROW.format(id=one, gust=gust) for one, gust in values]
    url = sqlite_with(tmp_path / "f.db", FLIGHTS, *rows)
    made = score(f"{url}#flights", tmp_path / "s/", chunk_rows=60, max_quarantined=0.015)
    assert (made.rows, made.quarantined) == (197, 3)
    bad = sorted((tmp_path / "s" / "_bascule" / made.manifest.run).glob("quarantine-*"))
    found = pa.concat_tables(map(pq.read_table, bad)).to_pylist()
    assert [one["chunk"] for one in found] == [0, 1, 2]
    assert "'gust' holds text" in found[0]["reason"]
    assert '"id":77' in found[1]["content"]
    assert found[2]["reason"] == "column 'id' holds text that is no int64"


@pytest.mark.slow
def test_a_view_needs_a_key(score, tmp_path):
    url = sqlite_with(
        tmp_path / "f.db", FLIGHTS, *(ROW.format(id=n, gust=1) for n in range(9)),
        "CREATE VIEW late AS SELECT * FROM flights WHERE id > 2",
    )  # fmt: skip
    with pytest.raises(Invalid, match="no column is known to be different") as refused:
        score(f"{url}#late", tmp_path / "s/")
    assert "--key COLUMN" in refused.value.hint
    assert score(f"{url}#late", tmp_path / "s/", key="id").rows == 6


@pytest.mark.slow
def test_a_query_is_read_by_its_key_in_its_order(score, tmp_path):
    rows = [ROW.format(id=n, gust=1) for n in range(50)]
    url = sqlite_with(tmp_path / "f.db", FLIGHTS, *rows)
    query = "SELECT *, id * -1 AS back FROM flights WHERE carrier <> 'x:y'"
    job = {"query": query, "key": "back", "chunk_rows": 20, "keep": ["id"], "workers": 1}
    made = score(url, tmp_path / "s.csv", **job)
    assert len(made.manifest.chunks) == 3
    lines = (tmp_path / "s.csv").read_text().splitlines()[1:]
    assert [int(line.split(",")[0]) for line in lines] == list(range(49, -1, -1))


@pytest.mark.parametrize("key", ["month", "wind"])
def test_a_key_that_rows_share_or_lack_is_refused(score, tmp_path, key):
    rows = [ROW.format(id=n, gust=1) for n in range(5)]
    url = sqlite_with(tmp_path / "f.db", FLIGHTS, *rows, "UPDATE flights SET wind = NULL")
    with pytest.raises(Invalid, match=f"have no '{key}' or share it"):
        score(f"{url}#flights", tmp_path / "s/", key=key)


def test_a_table_that_changes_during_a_run_ends_it_before_its_chunk_is_committed(
    score, tmp_path, monkeypatch
):
    from bascule.batch.scoring import Scorer

    score_batch = Scorer.score
    url = sqlite_with(tmp_path / "f.db", FLIGHTS, *(ROW.format(id=n, gust=1) for n in range(90)))

    def changing(self: Scorer, *arguments: Any) -> Any:
        monkeypatch.setattr(Scorer, "score", score_batch)
        sqlite_with(tmp_path / "f.db", "UPDATE flights SET gust = 2 WHERE id = 70")
        return score_batch(self, *arguments)

    monkeypatch.setattr(Scorer, "score", changing)
    with pytest.raises(Conflict, match="has changed while it was read"):
        score(f"{url}#flights", tmp_path / "s/", chunk_rows=30, workers=1)
    assert len(list((tmp_path / "s").glob("part-*"))) == 2


@pytest.mark.slow
def test_rows_that_are_added_at_the_end_during_a_run_are_left_to_the_next(bundle, tmp_path):
    url = sqlite_with(tmp_path / "f.db", FLIGHTS, *(ROW.format(id=n, gust=1) for n in range(9)))
    job = job_of({"model": "m", "from": f"{url}#flights", "to": str(tmp_path / "s/")})
    with planned(job, bundle) as plan:
        sqlite_with(tmp_path / "f.db", ROW.format(id=100, gust=1))
        read = [batch for chunk in plan.chunks for batch in plan.source.read(chunk, 100)]
    assert sum(batch.num_rows for batch in read) == 9


def test_the_columns_of_a_table_that_is_there_are_filled_by_name(score, source, tmp_path):
    columns = "label TEXT, id INTEGER, note TEXT, prediction_id TEXT, model_version TEXT"
    url = sqlite_with(tmp_path / "s.db", f"CREATE TABLE s ({columns})")
    score(source, f"{url}#s", columns=["prediction"], keep=["id"])
    with closing(sqlite3.connect(tmp_path / "s.db")) as connection:
        found = connection.execute("SELECT id, note, label IS NULL FROM s ORDER BY id").fetchall()
    assert found == [(n, None, 0) for n in range(100)]
    with pytest.raises(Invalid, match="no column 'carrier'"):
        score(source, f"{url}#s", mode="append")


@pytest.mark.slow
def test_decimals_of_duckdb_are_numbers_to_the_model(score, tmp_path):
    with closing(duckdb.connect(str(tmp_path / "f.db"))) as connection:
        rows = flights(50)  # noqa: F841 - read by its name
        connection.execute(
            "CREATE TABLE f AS SELECT * REPLACE (gust::DECIMAL(9, 2) AS gust), "
            "{'a': id} AS more, id::HUGEINT AS big FROM rows"
        ).fetchall()
    made = score(f"duckdb:///{tmp_path}/f.db#f", f"duckdb:///{tmp_path}/f.db#scored")
    assert made.rows == 50
    assert score(f"duckdb:///{tmp_path}/f.db#f", tmp_path / "s/").rows == 50


@pytest.mark.slow
def test_a_file_that_another_process_writes_to_is_unavailable(score, source, tmp_path):
    import subprocess
    import sys

    program = (
        f"import duckdb; c = duckdb.connect({str(tmp_path / 's.db')!r}); print(1, flush=True); "
        "input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout
    other.stdout.readline()
    with pytest.raises(Unavailable, match="lock"):
        score(source, f"duckdb:///{tmp_path}/s.db#s", retries=0)
    other.communicate(b"\n")
    assert score(source, f"duckdb:///{tmp_path}/s.db#s").rows == 100


@pytest.mark.parametrize(
    ("url", "kind", "said"),
    [
        ("sqlite:///nowhere.db#t", NotFound, "no file nowhere.db"),
        ("duckdb:///nowhere.db#t", NotFound, "no file nowhere.db"),
        ("sqlite://#t", Invalid, "names no file"), ("duckdb://x.db#t", Invalid, "names no file"),
        ("duckdb:///x.db", Invalid, "no table"), ("sqlite:///x.db", Invalid, "no table"),
        ("speed://host#t", Invalid, "no dialect 'speed'"),
        ("oracle+oracledb://u:secret@host/db#t", MissingExtra, "needs the package oracledb"),
    ],
)  # fmt: skip
def test_a_database_that_cannot_be_opened_is_named_with_the_next_step(
    score, tmp_path, monkeypatch, url, kind, said
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=said) as refused:
        score(url, tmp_path / "s/")
    assert refused.value.hint
    assert "secret" not in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ({"where": "EXISTS (SELECT 1 FROM read_text('/etc/hostname'))"}, "disabled"),
        ({"query": "FROM read_csv('/etc/hostname')", "key": "id"}, "disabled"),
        ({"where": "true) LIMIT 0; DROP TABLE flights; SELECT (1"}, "ends a statement"),
    ],
)
def test_a_condition_reads_no_file_and_changes_no_table(score, tmp_path, job, said):
    with closing(duckdb.connect(str(tmp_path / "f.db"))) as connection:
        connection.register("rows_to_put", flights(5))
        connection.execute("CREATE TABLE flights AS FROM rows_to_put").fetchall()
    url = f"duckdb:///{tmp_path}/f.db"
    with pytest.raises(Invalid, match=said):
        score(f"{url}#flights", f"{url}#scored", **job)
    assert score(f"{url}#flights", f"{url}#scored").rows == 5


# -- partitions of PostgreSQL --


@pytest.fixture
def partitioned(postgresql_url: str) -> str:
    import psycopg

    with psycopg.connect(postgresql_url) as connection:
        connection.execute(
            "CREATE TABLE scored (id bigint NOT NULL, month bigint NOT NULL, label text, "
            "prediction_id text, model_version text, at timestamptz DEFAULT now()) "
            "PARTITION BY RANGE (month); "
            "CREATE TABLE scored_early PARTITION OF scored FOR VALUES FROM (1) TO (7); "
            "CREATE TABLE scored_late PARTITION OF scored FOR VALUES FROM (7) TO (13); "
            "CREATE INDEX ON scored (id); INSERT INTO scored VALUES (-1, 2), (-2, 9)"
        )
    return postgresql_url


def rows_of(url: str, query: str) -> list[Any]:
    import psycopg

    with psycopg.connect(url) as connection:
        return connection.execute(query).fetchall()


def test_a_partition_is_replaced_by_a_new_one_in_its_place(score, source, partitioned):
    job = {"mode": "replace", "columns": ["prediction"], "keep": ["id", "month"]}
    made = score(source, f"{partitioned}#scored_early", where="month < 7", **job)
    found = rows_of(partitioned, "SELECT id, month, at IS NULL FROM scored ORDER BY id")
    assert found[0] == (-2, 9, False)
    assert (len(found), {late for *_, late in found}) == (made.rows + 1, {False})
    assert all(month < 7 for _, month, _ in found[1:])
    index = "SELECT count(*) FROM pg_indexes WHERE tablename = 'scored_early'"
    assert rows_of(partitioned, index) == [(1,)]
    assert score(source, f"{partitioned}#scored_early", where="month < 7", **job).rows == made.rows


def test_rows_outside_of_a_partition_leave_the_old_one_as_it_was(score, source, partitioned):
    job = {"mode": "replace", "columns": ["prediction"], "keep": ["id", "month"]}
    with pytest.raises(Invalid, match="violate"):
        score(source, f"{partitioned}#scored_early", **job)
    assert rows_of(partitioned, "SELECT id FROM scored ORDER BY id") == [(-2,), (-1,)]


DUCKDB_KEYS = {
    "HUGEINT": "9007199254740993::HUGEINT * 1000 - n", "UUID": "md5(n::text)::UUID",
    "DECIMAL(30,2)": "12345678901234567890.01::DECIMAL(30,2) - n * 0.01::DECIMAL(30,2)",
    "BLOB": "md5(n::text)::BLOB", "TIMESTAMP": "make_timestamp(n * 1001)",
    "VARCHAR COLLATE NOCASE": "['b','B','a','A'][1 + n % 4] || n", "DATE": "DATE '1999-12-31' + n",
}  # fmt: skip


@pytest.mark.parametrize("kind", first_of(DUCKDB_KEYS))
def test_a_key_of_duckdb_orders_rows_as_its_type_is_sorted(score, tmp_path, kind):
    with closing(duckdb.connect(str(tmp_path / "f.db"))) as connection:
        connection.register("rows_to_put", flights(100))
        query = f"SELECT *, {DUCKDB_KEYS[kind]} AS k FROM (SELECT *, id::INT AS n FROM rows_to_put)"
        connection.execute(f"CREATE TABLE f AS {query}")
        connection.execute(f"ALTER TABLE f ALTER k TYPE {kind}")
        expected = connection.execute("SELECT id FROM f ORDER BY k").fetchall()
    score(f"duckdb:///{tmp_path}/f.db#f", tmp_path / "s/", key="k", chunk_rows=30, keep=["id"])
    parts = sorted((tmp_path / "s").glob("part-*"))
    ids = [(id_,) for one in parts for id_ in pq.read_table(one).column("id").to_pylist()]
    assert (len(parts), ids) == (4, expected)
