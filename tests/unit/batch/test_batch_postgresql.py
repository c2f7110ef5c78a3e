from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import adbc_driver_manager
import msgspec
import pyarrow.json as pajson
import pyarrow.parquet as pq
import pytest
from adbc_driver_postgresql import dbapi
from tests.stores import Postgresql, postgresql
from tests.tiers import first_of

from bascule.batch import job_of, planned
from bascule.batch.addresses import Address
from bascule.batch.databases.postgresql import explained
from bascule.core import Conflict, Invalid, NotFound, Unavailable

from .conftest import flights


class Database:
    """A database with a table `flights`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.put("flights", flights(1000))

    def put(self, table: str, rows: Any, mode: str = "create") -> None:
        with dbapi.connect(self.url) as connection, connection.cursor() as cursor:
            cursor.adbc_ingest(table, rows, mode=mode)
            connection.commit()

    def do(self, *statements: str) -> None:
        with dbapi.connect(self.url, autocommit=True) as connection, connection.cursor() as cursor:
            for one in statements:
                cursor.execute(one)

    def rows(self, query: str) -> list[Any]:
        with dbapi.connect(self.url) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()

    def at(self, table: str) -> str:
        return f"{self.url}#{table}"


@pytest.fixture
def database(postgresql_url: str) -> Database:
    return Database(postgresql_url)


IDS = "SELECT count(*), count(DISTINCT id), count(DISTINCT prediction_id) FROM scored"


def test_a_table_is_replaced_by_its_own_scored_rows(score, database):
    """Its own snapshot, which the run reads from, holds a lock until the rows are in."""
    place = database.at("flights")
    assert score(place, place, mode="replace", columns=["prediction"]).rows == 1000
    found = "SELECT count(*), count(DISTINCT id), count(label), count(gust) FROM flights"
    assert database.rows(found) == [(1000, 1000, 1000, 1000)]


def test_what_hangs_on_a_table_stays_when_its_rows_are_replaced(score, database):
    score(database.at("flights"), database.at("scored"))
    database.do(
        "CREATE INDEX scored_airport ON scored (airport)",
        "ALTER TABLE scored ADD CONSTRAINT months CHECK (month BETWEEN 1 AND 12)",
        "ALTER TABLE scored ADD COLUMN loaded timestamptz DEFAULT now()",
        "COMMENT ON TABLE scored IS 'of the night'",
        "GRANT SELECT ON scored TO PUBLIC",
        "CREATE VIEW late AS SELECT id FROM scored WHERE label",
    )
    kept = (
        "SELECT oid, relacl::text, obj_description(oid), (SELECT count(*) FROM pg_indexes WHERE "
        "tablename = 'scored'), (SELECT count(*) FROM pg_constraint WHERE conrelid = c.oid) "
        "FROM pg_class c WHERE relname = 'scored'"
    )
    before = database.rows(kept)
    database.put("flights", flights(10, start=2000), "replace")
    score(database.at("flights"), database.at("scored"), mode="replace")
    assert database.rows(kept) == before
    assert database.rows("SELECT count(*), min(id), count(loaded) FROM scored") == [(10, 2000, 10)]
    assert database.rows("SELECT count(*) <= 10 FROM late") == [(True,)]
    assert database.rows(
        "SELECT count(*) FROM pg_class WHERE relname LIKE 'scored_________________'"
    ) == [(0,)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            ["CREATE TABLE base (id int)", "CREATE VIEW scored AS SELECT DISTINCT id FROM base"],
            "view",
        ),
        (["CREATE TABLE scored (id bytea)"], "cannot cast"),
    ],
)
def test_a_table_that_cannot_be_replaced_is_refused_before_the_first_row(
    score, database, changes, said
):
    database.do(*changes)
    with pytest.raises(Invalid, match=said):
        score(database.at("flights"), database.at("scored"), mode="replace")
    assert database.rows("SELECT count(*) FROM bascule_batch_chunks") == [(0,)]


def test_rows_are_written_in_the_types_of_a_table_that_is_there(score, database):
    database.do(
        "CREATE TABLE scored (id numeric, label text, prediction_id varchar(80), "
        "model_version text, noted_at timestamptz DEFAULT now())"
    )
    score(database.at("flights"), database.at("scored"), columns=["label"], keep=["id"])
    assert database.rows("SELECT sum(id)::text, count(noted_at) FROM scored") == [("499500", 1000)]


def test_a_table_that_lacks_a_column_is_refused_before_a_row_is_written(score, database):
    database.do("CREATE TABLE scored (id bigint)")
    with pytest.raises(Invalid, match="no column 'label'"):
        score(database.at("flights"), database.at("scored"), columns=["label"], keep=["id"])


def test_a_query_is_read_by_its_key(score, database, tmp_path):
    query = "SELECT * FROM flights WHERE month < 6"
    made = score(
        database.url, tmp_path / "s.jsonl", query=query, key="id", chunk_rows=100, keep=["id"]
    )
    expected = [id_ for (id_,) in database.rows(f"SELECT id FROM ({query}) AS q ORDER BY id")]
    assert pajson.read_json(tmp_path / "s.jsonl").column("id").to_pylist() == expected
    assert len(made.manifest.chunks) == -(-len(expected) // 100)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"query": "SELECT * FROM flights"}, "needs the key"),
        ({"key": "month"}, "share it"), ({"key": "speed"}, "speed"),
        ({"where": "speed > 1"}, "speed"), ({"query": "SELECT", "key": "id"}, "syntax|column"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_table_is_refused(score, database, tmp_path, options, said):
    with pytest.raises(Invalid, match=said):
        score(database.at("flights"), tmp_path / "s", **options)


def test_a_table_that_is_not_there_is_not_found(score, database, tmp_path):
    with pytest.raises(NotFound, match="nowhere"):
        score(database.at("nowhere"), tmp_path / "s")
    with pytest.raises(Invalid, match="names no table"):
        score(database.url, tmp_path / "s")


def test_a_server_that_is_away_is_unavailable_and_its_password_is_not_shown(score, tmp_path):
    with pytest.raises(Unavailable) as refused:
        score("postgresql://user:secret@127.0.0.1:1/db#t", tmp_path / "s")
    assert "secret" not in str(refused.value)


def test_types_that_arrow_does_not_have_pass_through(score, database, tmp_path):
    database.do(
        "ALTER TABLE flights ADD amount numeric(9,2) DEFAULT 1.25, ADD u uuid DEFAULT "
        "'00000000-0000-0000-0000-000000000001', ADD j jsonb DEFAULT '{\"a\": 1}', "
        "ADD at timestamptz DEFAULT '2026-01-01', ADD day date DEFAULT '2026-01-02'"
    )
    score(database.at("flights"), database.at("scored"))
    found = database.rows("SELECT DISTINCT amount::text, u, j, at::text, day::text FROM scored")
    assert found == [
        ("1.25", "00000000-0000-0000-0000-000000000001", '{"a": 1}', "2026-01-01 00:00:00+00",
         "2026-01-02"),
    ]  # fmt: skip


def test_rows_that_change_during_a_run_are_read_as_they_were(bundle, database, tmp_path):
    job = job_of({"model": "m", "from": database.at("flights"), "to": str(tmp_path / "s")})
    with planned(job, bundle) as plan:
        database.do("UPDATE flights SET gust = 0", "DELETE FROM flights WHERE id < 500")
        read = [b for chunk in plan.chunks for b in plan.source.read(chunk, 128)]
    assert sum(batch.num_rows for batch in read) == 1000


def end_sessions(database: Database) -> None:
    database.do(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


def test_a_server_that_ends_its_sessions_is_asked_again(bundle, database, score, monkeypatch):
    from bascule.batch.scoring import Scorer

    score_batch, ends = Scorer.score, [1, 2]

    def ended(self: Scorer, *arguments: Any) -> Any:
        if ends:
            ends.pop()
            end_sessions(database)
        return score_batch(self, *arguments)

    monkeypatch.setattr(Scorer, "score", ended)
    made = score(database.at("flights"), database.at("scored"), chunk_rows=300, workers=1)
    assert (made.rows, ends) == (1000, [])
    assert database.rows(IDS) == [(1000, 1000, 1000)]


@pytest.fixture
def own_server() -> Iterator[tuple[Postgresql, Database]]:
    """A server that may be stopped."""
    with postgresql() as server:
        yield server, Database(server.url)


@pytest.mark.slow
def test_a_server_that_is_restarted_in_the_middle_of_a_run_is_waited_for(
    score, own_server, monkeypatch
):
    from bascule.batch.scoring import Scorer

    server, database = own_server
    score_batch, again = Scorer.score, threading.Thread(target=server.start)

    def stopped(self: Scorer, *arguments: Any) -> Any:
        if again.ident is None and database.rows("SELECT count(*) FROM bascule_batch_chunks")[0][0]:
            server.stop()
            again.start()
        return score_batch(self, *arguments)

    monkeypatch.setattr(Scorer, "score", stopped)
    made = score(
        database.at("flights"), database.at("scored"), chunk_rows=300, workers=1, retries=10
    )
    again.join()
    assert made.rows == 1000
    assert database.rows(IDS) == [(1000, 1000, 1000)]


@pytest.mark.slow
def test_a_server_that_stays_away_is_an_error_with_the_next_step_and_leaves_whole_chunks(
    score, own_server, monkeypatch
):
    from bascule.batch.sinks.database import DatabaseSink

    server, database = own_server
    job = {"chunk_rows": 300, "workers": 1}
    commit, commits = DatabaseSink.commit, []

    def stopped(self: DatabaseSink, *arguments: Any) -> Any:
        commits.append(1)
        if len(commits) == 3:
            server.stop()
        return commit(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(DatabaseSink, "commit", stopped)
        with pytest.raises(Unavailable, match=r"#(flights|scored)") as refused:
            score(database.at("flights"), database.at("scored"), retries=1, **job)
    assert "the same command goes on" in refused.value.hint
    server.start()
    (rows,) = database.rows("SELECT count(*) FROM scored")[0]
    assert database.rows("SELECT count(*), sum(scored)::int FROM bascule_batch_chunks") == [
        (2, rows)
    ]
    assert score(database.at("flights"), database.at("scored"), **job).rows == 1000
    assert database.rows(IDS) == [(1000, 1000, 1000)]


def test_a_server_whose_disk_is_full_is_told_apart_from_one_that_is_away():
    said = 'ERROR:  could not extend file "base/5/1": No space left on device'
    full = adbc_driver_manager.OperationalError(
        said, status_code=adbc_driver_manager.AdbcStatusCode.IO, sqlstate="53100"
    )
    error = explained(full, Address.of("postgresql://host/db#t"))
    assert (type(error), "#t" in str(error), "make room" in error.hint) == (Invalid, True, True)


def test_a_table_that_changes_while_the_server_is_away_ends_the_run(bundle, database, tmp_path):
    job = job_of({"model": "m", "from": database.at("flights"), "to": str(tmp_path / "s")})
    with planned(job, bundle) as plan:
        end_sessions(database)
        database.do("UPDATE flights SET gust = 0 WHERE id = 3")
        with pytest.raises(Conflict, match="has changed"):
            list(plan.source.read(plan.chunks[0], 128))


def test_a_place_shows_no_password(bundle, database, tmp_path: Path):
    job = job_of({"model": "m", "from": database.at("flights"), "to": database.at("scored")})
    with planned(job, bundle) as plan:
        password = database.url.split(":")[2].split("@")[0]
        assert password not in plan.source.place + plan.sink.place + str(plan.manifest)


KEYS = {
    "bigint": "n - 300", "numeric": "(n - 500) / 3::numeric", "uuid": "md5(n::text)::uuid",
    "timestamptz": "timestamptz '2026-03-29 00:30+00' + n * interval '7 minutes 1 microsecond'",
    "bytea": "decode(md5(n::text), 'hex')", "real": "n * 0.1 - 20", "date": "date '1999-12-31' + n",
    "text COLLATE \"en-x-icu\"": "(ARRAY['b','B','a','A','ä','-a'])[1 + n % 6] || n",
    "text": "n::text", "char(8)": "n::text", "interval": "n * interval '13 hours'",
    "integer[]": "ARRAY[n % 7, n]", "inet": "inet '10.0.0.0' + n", "double precision": "n ^ 0.5",
}  # fmt: skip


@pytest.mark.parametrize("kind", first_of(KEYS, 2))
def test_a_key_orders_rows_as_the_server_sorts_its_type(score, database, tmp_path, kind):
    """By text, 1000 comes before 2, and ranges between such bounds overlap."""
    database.do(
        f"CREATE TABLE keyed AS SELECT f.*, (({KEYS[kind]})::{kind}) AS k "
        "FROM (SELECT *, id::int AS n FROM flights) AS f",
        "ALTER ROLE CURRENT_USER SET extra_float_digits = 0",
        "ALTER ROLE CURRENT_USER SET DateStyle = 'SQL, DMY'",
    )
    made = score(database.at("keyed"), tmp_path / "s/", key="k", chunk_rows=300, keep=["id"])
    database.do("ALTER ROLE CURRENT_USER RESET ALL")
    assert (made.rows, len(made.manifest.chunks)) == (1000, 4)
    parts = sorted((tmp_path / "s").glob("part-*"))
    ids = [id_ for one in parts for id_ in pq.read_table(one).column("id").to_pylist()]
    assert ids == [id_ for (id_,) in database.rows("SELECT id FROM keyed ORDER BY k")]


def test_a_source_that_gives_other_rows_than_it_has_planned_is_never_done(
    score, database, tmp_path, monkeypatch
):
    from bascule.batch.sources.postgresql import PostgresqlSource

    plan = PostgresqlSource.plan

    def widened(self: PostgresqlSource, chunk_rows: int) -> Any:
        chunks = plan(self, chunk_rows)
        return [*chunks[:-1], msgspec.structs.replace(chunks[-1], reads="TRUE")]

    monkeypatch.setattr(PostgresqlSource, "plan", widened)
    with pytest.raises(Conflict, match="100 rows were planned, and 1,000 read"):
        score(database.at("flights"), tmp_path / "s/", key="id", chunk_rows=300)
