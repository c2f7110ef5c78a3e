"""Every source and every sink of batch jobs keeps the same contract, over real stores.

Two tests of each place are of the first tier, and the others of a folder of Parquet files.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.tiers import first_of
from tests.unit.batch.conftest import flights, with_values

from bascule.batch import Run, job_of, planned, run_job
from bascule.batch.databases.table import DATABASES, is_database
from bascule.batch.places import SUFFIXES
from bascule.batch.sinks.table import SINKS
from bascule.batch.sinks.writers import WRITERS
from bascule.batch.sources.table import SOURCES
from bascule.bundle import Bundle, load
from bascule.core import Conflict, Invalid, NotFound

from .batch_places import PLACES, Place

ROWS = 1000
each_place = pytest.mark.parametrize("place", PLACES, indirect=True)


@pytest.fixture(scope="session")
def bundle(table_bundle: Path) -> Bundle:
    return load(table_bundle)


@pytest.fixture(params=first_of(PLACES))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A place of each kind, in which nothing is yet."""
    kind = PLACES[request.param]
    root = request.getfixturevalue(kind.needs) if kind.needs else tmp_path / "place"
    return kind(root)


@pytest.fixture
def score(bundle: Bundle, tmp_path: Path, place: Place) -> Callable[..., Run]:
    def run(source: Any, sink: Any, **options: Any) -> Run:
        options = place.options | options
        job = job_of({"model": "table", "from": str(source), "to": str(sink), **options})
        return run_job(job, bundle, tmp_path / "home")

    return run


def ids(rows: pa.Table) -> list[int]:
    return sorted(rows.column("id").to_pylist())


def test_every_place_that_is_built_in_is_tested():
    tested = {one.scheme for one in PLACES.values()}
    assert {*SOURCES, *SINKS, *DATABASES} - tested <= {"postgres", "delta+s3"}
    assert {*WRITERS} <= {*PLACES}
    assert {*SUFFIXES.values()} == {"parquet", "csv", "json", "ipc"}


# -- both ends --


@each_place
def test_a_place_is_scored_into_itself_with_every_answer_beside_its_row(score, place, bundle):
    place.put("flights", flights(ROWS))
    made = score(place.source("flights"), place.sink("scored"), chunk_rows=300)

    rows, scored = flights(ROWS), place.read("scored").sort_by("id")
    expected = bundle.predict(rows.drop_columns(["id"])).columns()
    assert (made.rows, made.quarantined) == (ROWS, 0)
    assert scored.column("label").to_pylist() == expected["label"].tolist()
    for name in rows.column_names:
        assert scored.column(name).to_pylist() == rows.column(name).to_pylist()
    for name in expected.keys() - {"label"}:
        np.testing.assert_array_equal(scored.column(name).to_numpy(), expected[name])
    assert len(set(scored.column("prediction_id").to_pylist())) == ROWS


def test_answers_are_chosen_by_their_names(score, place):
    place.put("flights", flights(20))
    score(place.source("flights"), place.sink("s"), columns=["prediction"], keep=["id"])
    names = place.read("s").column_names
    assert names == ["id", "label", "prediction_id", "model_version"]


def test_the_same_job_again_changes_nothing_and_gives_the_same_run(score, place):
    place.put("flights", flights(ROWS))
    job = place.source("flights"), place.sink("scored")
    first = score(*job, chunk_rows=300)
    before = place.read("scored").sort_by("id")
    again = score(*job, chunk_rows=300)
    assert (again.manifest.run, again.rows) == (first.manifest.run, ROWS)
    assert place.read("scored").sort_by("id").equals(before)


def test_changed_rows_are_another_run_which_is_refused_until_it_may_replace(score, place):
    place.put("flights", flights(50))
    job = place.source("flights"), place.sink("scored")
    score(*job)
    place.put("flights", flights(30, start=500))
    with pytest.raises(Conflict, match="already has rows"):
        score(*job)
    assert ids(place.read("scored")) == list(range(50))
    score(*job, mode="replace")
    assert ids(place.read("scored")) == list(range(500, 530))


# -- odd tables --


def test_poison_rows_are_kept_with_their_reasons(score, place):
    table = with_values(flights(ROWS), "airport", {7: "XXX", 512: "YYY"})
    place.put("flights", with_values(table, "month", {99: None}))
    made = score(place.source("flights"), place.sink("scored"), chunk_rows=300)

    assert (made.rows, made.quarantined) == (ROWS - 3, 3)
    assert {*range(ROWS)} - {*ids(place.read("scored"))} == {7, 99, 512}
    reasons = place.quarantine("scored", made.manifest.run).column("reason").to_pylist()
    assert all(any(text in one for one in reasons) for text in ("'XXX'", "'YYY'", "'month'"))


def test_an_empty_table_makes_an_empty_table(score, place):
    place.put("flights", flights(0))
    if not place.has_schema:
        with pytest.raises(Invalid, match=r"has no column|cannot be read"):
            score(place.source("flights"), place.sink("scored"))
        return
    assert score(place.source("flights"), place.sink("scored")).rows == 0
    assert place.read("scored").num_rows == 0


def test_one_row_is_scored(score, place):
    place.put("flights", flights(1))
    assert score(place.source("flights"), place.sink("scored")).rows == 1
    assert ids(place.read("scored")) == [0]


def test_a_column_of_missing_values_is_scored_where_the_model_takes_them(score, place, bundle):
    table = with_values(flights(20), "wind", dict.fromkeys(range(20)))
    place.put("flights", table)
    score(place.source("flights"), place.sink("scored"))
    expected = bundle.predict(table.drop_columns(["id"]))["label"].tolist()
    assert place.read("scored").sort_by("id").column("label").to_pylist() == expected


def test_names_may_be_in_any_script(score, place):
    names = ["номер", "carrier", "airport", "month", "wind", "gust"]
    place.put("рейсы", flights(30).rename_columns(names))
    score(place.source("рейсы"), place.sink("результат 日本"), keep=["номер"])
    assert sorted(place.read("результат 日本").column("номер").to_pylist()) == [*range(30)]


def test_a_schema_that_lost_a_column_is_refused_by_its_name(score, place):
    place.put("flights", flights(5).drop_columns(["gust"]))
    with pytest.raises(Invalid, match="no column 'gust'"):
        score(place.source("flights"), place.sink("scored"))


def test_a_place_that_is_not_there_is_not_found(score, place):
    with pytest.raises(NotFound):
        score(place.source("nowhere"), place.sink("scored"))


# -- options --


def test_only_rows_that_meet_the_condition_are_scored(score, place):
    place.put("flights", flights(ROWS))
    score(place.source("flights"), place.sink("s"), where="month = 3 AND id >= 10", chunk_rows=300)
    months = flights(ROWS).column("month").to_pylist()
    expected = [row for row, month in enumerate(months) if month == 3 and row >= 10]
    assert ids(place.read("s")) == expected


def test_a_limit_takes_the_first_rows(score, place):
    place.put("flights", flights(ROWS))
    assert score(place.source("flights"), place.sink("s"), limit=150, chunk_rows=100).rows == 150
    if place.has_order:
        assert ids(place.read("s")) == list(range(150))
    else:
        assert len(set(ids(place.read("s")))) == 150


def test_a_condition_that_is_no_sql_is_refused_and_nothing_is_written(score, place):
    place.put("flights", flights(10))
    with pytest.raises(Invalid):
        score(place.source("flights"), place.sink("s"), where="speed > 1")
    score(place.source("flights"), place.sink("s"))
    assert place.read("s").num_rows == 10


def test_appended_rows_stand_beside_those_of_another_run(score, place):
    place.put("flights", flights(20))
    score(place.source("flights"), place.sink("s"))
    place.put("flights", flights(10, start=100))
    if place.is_one_file:
        with pytest.raises(Invalid, match="mode append"):
            score(place.source("flights"), place.sink("s"), mode="append")
        return
    score(place.source("flights"), place.sink("s"), mode="append")
    assert ids(place.read("s")) == [*range(20), *range(100, 110)]


@pytest.mark.parametrize(
    "place",
    first_of(["postgresql", *(one for one in PLACES if one != "postgresql")]),
    indirect=True,
)
def test_upsert_changes_rows_by_their_key_where_the_place_can(score, place):
    place.put("flights", flights(20))
    job: dict[str, Any] = {"mode": "upsert", "key": "id"}
    if not place.can_upsert:
        with pytest.raises(Invalid, match="mode upsert"):
            score(place.source("flights"), place.sink("s"), **job)
        return
    score(place.source("flights"), place.sink("s"), **job)
    changed = flights(30).set_column(5, "gust", pa.array(np.full(30, 99.0)))
    place.put("flights", changed.slice(10))
    score(place.source("flights"), place.sink("s"), **job)
    found = place.read("s").sort_by("id")
    assert ids(found) == list(range(30))
    gusts = found.column("gust").to_pylist()
    assert gusts[10:] == [99.0] * 20
    assert 99.0 not in gusts[:10]


# -- the ports --


def test_a_dry_run_shows_scored_rows_and_writes_none(bundle, place):
    place.put("flights", flights(50))
    job = job_of(
        {**place.options, "model": "m", "from": place.source("flights"), "to": place.sink("s")}
    )
    with planned(job, bundle) as plan:
        assert plan.preview().num_rows == 10
    assert not place.exists("s")


def test_chunks_give_the_same_rows_every_time(bundle, place):
    place.put("flights", flights(ROWS))
    job = job_of(
        {
            **place.options,
            "model": "m",
            "from": place.source("flights"),
            "to": place.sink("s"),
            "chunk_rows": 300,
        }
    )
    with planned(job, bundle) as plan:
        once, twice = (
            [batch for chunk in plan.chunks for batch in plan.source.read(chunk, 64)]
            for _ in range(2)
        )
        assert all(batch.num_rows <= 64 for batch in once)
        assert pa.Table.from_batches(once).equals(pa.Table.from_batches(twice))
        assert plan.source.plan(300) == plan.chunks


@each_place
def test_a_chunk_that_is_committed_twice_is_there_once(bundle, place, tmp_path):
    from bascule.batch.manifest import Record

    place.put("flights", flights(10))
    job = job_of(
        {**place.options, "model": "m", "from": place.source("flights"), "to": place.sink("s")}
    )
    with planned(job, bundle) as plan:
        assert plan.sink.open(plan.manifest, plan.scorer.schema) == []
        for _ in range(2):
            (batch,) = plan.source.read(plan.chunks[0], 100)
            with plan.sink.stage(plan.chunks[0]) as staged:
                staged.write(plan.scorer.score(batch, "p", 0)[0])
                staged.commit(Record(0, 10, 0))
        assert plan.sink.open(plan.manifest, plan.scorer.schema) == [Record(0, 10, 0)]
        plan.sink.finish()
        plan.sink.finish()
    assert ids(place.read("s")) == list(range(10))


def test_a_chunk_that_is_not_committed_is_not_there(bundle, place):
    place.put("flights", flights(10))
    job = job_of(
        {**place.options, "model": "m", "from": place.source("flights"), "to": place.sink("s")}
    )
    with planned(job, bundle) as plan:
        plan.sink.open(plan.manifest, plan.scorer.schema)
        (batch,) = plan.source.read(plan.chunks[0], 100)
        with plan.sink.stage(plan.chunks[0]) as staged:
            staged.write(plan.scorer.score(batch, "p", 0)[0])
        assert plan.sink.open(plan.manifest, plan.scorer.schema) == []


def test_a_word_for_a_database_is_not_taken_for_files():
    assert is_database("mysql+pymysql://host/db#t")
    assert not is_database("s3://bucket/a#b")
    assert not is_database("htps://bucket/a")
