"""Every way in for outcomes keeps the same truths, in any order of arrival."""

from __future__ import annotations

import sqlite3
import uuid
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import given, settings, strategies as st
from tests.tiers import examples

import bascule
from bascule.core import Invalid, NotFound, TooLarge, Unavailable
from bascule.monitoring.ledger import (
    Ledger,
    Outcomes,
    OutcomeSpool,
    read_body,
    read_outcomes,
    read_query,
)
from bascule.monitoring.ledger.outcome_lines import MAX_BRACKETS
from bascule.monitoring.ledger.outcome_spool import FILE_BYTES
from bascule_client.outcomes import RefusedOutcome


def truths(home):
    found = Ledger(home).query("select id, row, truth, truth_number from outcomes order by all")
    return [tuple(row.values()) for row in found.to_pylist()]


def by_table(home, rows):
    ids, values = zip(*rows, strict=True)
    Outcomes(home).add("gb", pa.table({"id": ids, "truth": values}))


def by_lines(home, rows):
    spool = OutcomeSpool(home)
    lines, refused = read_outcomes([{"id": id_, "truth": truth} for id_, truth in rows])
    assert not refused
    spool.append("gb", [lines])
    spool.close()


def by_rows(home, rows):
    Outcomes(home).add_rows("gb", [(*row, None) for row in rows])


def by_fold(home, rows):
    by_lines(home, rows)
    Outcomes(home).fold()


DOORS = (by_table, by_lines, by_rows, by_fold)
IDS = st.sampled_from(["a", "b", "b#1", "c#2", "c"])
VALUES = {
    "whole": st.integers(-(2**40), 2**40),
    "decimal": st.floats(-1e6, 1e6).map(lambda x: round(x, 3)),
    "text": st.sampled_from(["late", "1", "0.5", "nan", " "]),
    "truth": st.booleans(),
}


@settings(max_examples=examples(40), deadline=None)
@given(data=st.data(), kind=st.sampled_from(list(VALUES)))
def test_parts_through_any_doors_say_what_the_whole_table_says_at_once(
    tmp_path_factory, data, kind
):
    said = data.draw(st.lists(st.tuples(IDS, VALUES[kind]), min_size=1, max_size=12))
    homes = [tmp_path_factory.mktemp("home") for _ in range(2)]
    by_table(homes[0], said)
    at = 0
    while at < len(said):
        part = said[at : at + data.draw(st.integers(1, 5))]
        at += len(part)
        data.draw(st.sampled_from(DOORS))(homes[1], part)
    assert truths(homes[1]) == truths(homes[0])


def test_a_correction_through_another_door_counts_also_where_the_clock_was_set_back(
    tmp_path, monkeypatch
):
    by_fold(tmp_path, [("a", 1)])
    clock = "bascule.monitoring.ledger.outcome_spool.time.time_ns"
    monkeypatch.setattr(clock, lambda: 10**18)
    for value, door in enumerate((by_lines, by_table, by_fold, by_rows, by_table), start=2):
        door(tmp_path, [("a", value)])
        assert truths(tmp_path) == [("a", 0, str(value), float(value))]


def test_a_file_that_is_large_is_followed_by_the_next_one_and_folded_while_that_is_written(
    tmp_path,
):
    spool = OutcomeSpool(tmp_path)
    lines, _ = read_outcomes([{"id": "i" * 1000, "truth": n} for n in range(5_000)])
    while len(list(tmp_path.glob("outcomes/gb/*.jsonl"))) < 2:
        spool.append("gb", [lines])
    assert Outcomes(tmp_path).fold() == 1
    count = "select count(*) n from outcome_history"
    before = Ledger(tmp_path).query(count)["n"][0].as_py()
    assert before * 1000 > FILE_BYTES
    spool.append("gb", [lines])
    assert Ledger(tmp_path).query(count)["n"][0].as_py() == before + 5_000
    spool.close()


def test_a_fold_that_was_killed_before_it_removed_the_lines_counts_them_once(tmp_path):
    by_lines(tmp_path, [("a", 1)])
    (file,) = tmp_path.glob("outcomes/gb/*.jsonl")
    lines = file.read_bytes()
    Outcomes(tmp_path).fold()
    file.write_bytes(lines)
    count = "select count(*) n from outcome_history"
    assert Ledger(tmp_path).query(count).to_pydict() == {"n": [1]}
    assert Outcomes(tmp_path).fold() == 1
    assert Ledger(tmp_path).query(count).to_pydict() == {"n": [1]}
    assert not file.exists()


# -- databases --


def sqlite(tmp_path):
    return f"sqlite:///{tmp_path}/truths.db"


def test_a_query_of_postgresql_gives_outcomes_of_every_type(tmp_path, postgresql_url):
    engine = sa.create_engine(postgresql_url.replace("postgresql:", "postgresql+psycopg:"))
    landed, name = datetime(2026, 1, 2, 3, tzinfo=UTC), uuid.uuid4()
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "create table truths (flight uuid, late boolean, delay numeric, landed timestamptz)"
        )
        connection.execute(
            sa.text("insert into truths values (:a, true, 12.50, :b), (null, false, 3, :b)"),
            {"a": name, "b": landed},
        )
    engine.dispose()
    (table,) = read_query(postgresql_url, "select * from truths")
    done = Outcomes(tmp_path).add(
        "gb", table, id_column="flight", truth_column="delay", time_column="landed"
    )
    assert (done.taken, done.refused) == (1, {2: "no id"})
    assert truths(tmp_path) == [(str(name), 0, "12.5", 12.5)]
    time = Ledger(tmp_path).query("select time from outcomes")["time"][0].as_py()
    assert time == landed
    for sql in ("delete from truths", "select * from nowhere", "create table t (a int)"):
        with pytest.raises(Invalid, match="--query"):
            list(read_query(postgresql_url, sql))
    with pytest.raises(Unavailable, match="cannot be asked") as refused:
        list(read_query("postgresql://me:secret@127.0.0.1:1/truths", "select 1"))
    assert "secret" not in str(refused.value)


def test_a_query_of_sqlite_comes_in_parts_and_changes_nothing(tmp_path):
    with closing(sqlite3.connect(tmp_path / "truths.db")) as connection, connection:
        connection.execute("create table truths (id, truth)")
        connection.executemany("insert into truths values (?, ?)", [(f"r{n}", n) for n in range(5)])
    tables = list(read_query(sqlite(tmp_path), "select * from truths", chunk_rows=2))
    assert [table.num_rows for table in tables] == [2, 2, 1]
    with pytest.raises(Invalid, match="--query"):
        list(read_query(sqlite(tmp_path), "delete from truths"))
    assert len(list(read_query(sqlite(tmp_path), "select * from truths"))) == 1


@pytest.mark.parametrize(
    ("url", "kind"),
    [("sqlite:///nowhere.db", NotFound), ("truths", Invalid), ("oracle+nothing://x/y", Invalid)],
)
def test_an_address_that_is_none_is_refused_and_makes_no_file(tmp_path, monkeypatch, url, kind):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind):
        list(read_query(url, "select 1"))
    assert list(tmp_path.iterdir()) == []


# -- Python --


def test_outcomes_are_added_from_python_as_pairs_rows_and_tables(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    home = tmp_path / ".bascule"
    frame = pd.DataFrame({"flight": ["c", "d"], "late": [1, None], "at": [pd.NaT, pd.NaT]})
    assert bascule.add_outcomes("gb", [("a", 1), ("b#2", Decimal("2"))]).refused[0].index == 1
    assert bascule.add_outcomes("gb", [{"id": "b#2", "truth": "x"}]).taken == 1
    added = bascule.add_outcomes("gb", frame, id_column="flight", truth_column="late")
    assert (added.taken, added.refused) == (1, (RefusedOutcome(1, "d", "no truth"),))
    assert truths(home) == [("a", 0, "1", 1.0), ("b", 2, "x", None), ("c", 0, "1", 1.0)]
    with pytest.raises(Invalid):
        bascule.add_outcomes("../gb", [("a", 1)])


def test_the_outcomes_of_the_future_and_of_the_past_are_both_kept(tmp_path):
    for hours in (-10_000, 10_000):
        time = datetime.now(UTC) + timedelta(hours=hours)
        Outcomes(tmp_path).add_rows("gb", [(str(hours), 1, time.isoformat())])
    assert len(truths(tmp_path)) == 2


def test_a_body_of_more_brackets_than_outcomes_could_have_is_refused_before_it_is_decoded():
    most = MAX_BRACKETS - 2
    full = b'{"outcomes":[' + b",".join([b"[]"] * most) + b"]}"
    with pytest.raises(TooLarge, match="over 10,000"):
        read_outcomes(read_body(full))
    with pytest.raises(TooLarge, match="100,001 brackets are over 100,000"):
        read_body(full.replace(b"[]", b"[],[]", 1))
