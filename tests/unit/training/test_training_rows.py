"""The rows of a pipeline come from files, or from a table or a query of a database."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.unit.training.test_training_runs import FIT, table

from bascule.batch import count_place, read_place
from bascule.core import Invalid, NotFound
from bascule.training import feedback_of, prepare, read_newest
from bascule.training.pipelines import parsed

FIELDS = {"target": "late", "time": "day", "held_out": 50, "fit": "train.py:fit"}


@pytest.fixture
def database(postgresql_url: str) -> str:
    """A table of flights, with a decimal."""
    import adbc_driver_postgresql.dbapi as driver

    with driver.connect(postgresql_url) as connection, connection.cursor() as cursor:
        cursor.adbc_ingest("flights", table(), mode="create")
        cursor.execute("ALTER TABLE flights ADD COLUMN fare numeric(8, 2) DEFAULT 12.50")
        cursor.execute('ALTER TABLE flights ADD COLUMN "big" numeric DEFAULT 0.1')
        connection.commit()
    return postgresql_url


def test_a_table_of_postgresql_has_the_rows_of_the_file(database, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pq.write_table(table(), "rows.parquet")
    read = read_place(f"{database}#flights")
    assert read.select(table().column_names).sort_by("day").equals(table().sort_by("day"))
    assert read["fare"].type == read["big"].type == pa.float64()
    assert read["fare"][0].as_py() == 12.5
    assert count_place(f"{database}#flights") == 300


def test_a_query_is_the_data_of_a_pipeline_and_gives_the_same_rows_as_a_file(
    database, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(FIT)
    pq.write_table(table(), "rows.parquet")
    query = "SELECT day, distance, weather, late FROM flights WHERE day >= 100;"
    pipeline = parsed("late", {"data": database, "query": query, **FIELDS})
    rows = read_newest(pipeline)
    days = table()["day"].to_pylist()
    pq.write_table(table().filter(pa.array([day >= 100 for day in days])), "rows.parquet")
    assert rows.digest == read_newest(parsed("late", {"data": "rows.parquet", **FIELDS})).digest
    assert count_place(database, query) == rows.seen == 200
    password = database.partition(":")[2].partition(":")[2].partition("@")[0]
    assert password
    assert password not in str(prepare(pipeline).inputs)


def test_a_query_of_another_database_is_read_by_its_port(tmp_path, monkeypatch):
    import duckdb

    monkeypatch.chdir(tmp_path)
    pq.write_table(table(), "rows.parquet")
    with duckdb.connect("flights.db") as connection:
        connection.execute("CREATE TABLE flights AS SELECT * FROM 'rows.parquet'")
    place, query = "duckdb:///flights.db", "SELECT * FROM flights WHERE day < 10 ORDER BY day"
    assert read_place(place, query)["day"].to_pylist() == list(range(10))
    assert count_place(place, query) == 10
    assert count_place(f"{place}#flights") == len(read_place(f"{place}#flights")) == 300


def test_what_cannot_be_read_is_refused_without_the_password(database, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFound, match="nothing"):
        read_place(f"{database}#nothing")
    with pytest.raises(Invalid, match="syntax") as refused:
        read_place(database, "SELEC 1")
    assert "s3cret" not in str(refused.value)
    with pytest.raises(Invalid, match="names no table"):
        read_place(database)
    with pytest.raises(Invalid, match="is no database"):
        read_place("rows.parquet", "SELECT 1")


def held_back(rows: int, kind: str) -> pa.Table:
    """Rows of which every second one was held back, but for the newest tenth."""
    marked = [day % 2 == 0 and day < rows * 0.9 for day in table(rows)["day"].to_pylist()]
    columns = {
        "flag": pa.array(marked),
        "number": pa.array([float(mark) for mark in marked]),
        "arm": pa.array(["holdback" if mark else "current" for mark in marked]),
        "with gaps": pa.array([mark or None for mark in marked]),
    }
    return table(rows).append_column("held", columns[kind])


@pytest.mark.parametrize("kind", ["flag", "number", "arm", "with gaps"])
def test_held_back_rows_alone_train_and_judge_where_there_are_enough(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pq.write_table(held_back(2_400, kind), "rows.parquet")
    declared = parsed("late", {"data": "rows.parquet", "holdback": "held", **FIELDS})
    rows = read_newest(declared)
    assert (rows.held_back, rows.is_clean, rows.seen, len(rows)) == (1_080, True, 2_400, 1_080)
    days = rows.train["day"].to_pylist() + rows.newest["day"].to_pylist()
    assert days == list(range(0, 2_160, 2))
    assert "held" not in rows.train.column_names
    told = feedback_of(declared, {"held_back": rows.held_back, "is_clean": rows.is_clean})
    assert told == "1,080 held-back rows alone train and judge"


def test_of_too_few_held_back_rows_all_rows_are_used_and_the_danger_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pq.write_table(held_back(300, "flag"), "rows.parquet")
    declared = parsed("late", {"data": "rows.parquet", "holdback": "held", **FIELDS})
    rows = read_newest(declared)
    assert (rows.held_back, rows.is_clean, len(rows)) == (135, False, 300)
    told = feedback_of(declared, {"held_back": rows.held_back, "is_clean": rows.is_clean})
    assert told.startswith("danger: answers change the truths")
    assert told.endswith("135 held-back rows are too few")


@pytest.mark.parametrize(
    ("options", "told"),
    [({}, ""), ({"changes_outcomes": True}, "danger: answers change the truths that train and "
                                            "judge, and no row is held back")],
)  # fmt: skip
def test_only_who_says_that_answers_change_outcomes_is_warned(options, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pq.write_table(table(), "rows.parquet")
    declared = parsed("late", {"data": "rows.parquet", **FIELDS, **options})
    assert read_newest(declared).held_back is None
    assert feedback_of(declared, {"held_back": None, "is_clean": False}) == told


def test_a_column_of_held_back_rows_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pq.write_table(table(), "rows.parquet")
    with pytest.raises(Invalid, match="has no column 'held'"):
        read_newest(parsed("late", {"data": "rows.parquet", "holdback": "held", **FIELDS}))
