"""`bascule ledger query` and `bascule outcomes import`, as people type them."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime

import pyarrow.parquet as pq
import pytest
from tests.ledger_rows import Answers, spool

from bascule.monitoring.ledger import Scribe


@pytest.fixture
def three_answers(tmp_path):
    """Ids 0 to 2 of `late`, answered with their own number."""
    at = datetime(2023, 11, 14, tzinfo=UTC)
    spool(tmp_path / ".bascule", Answers("012", model="late", caller="", at=at))


def test_a_query_is_shown_as_a_table_as_csv_and_as_json(call, three_answers):
    sql = "select id, latency_s from predictions where id > '0' order by id"
    code, shown = call("ledger", "query", sql)
    assert (code, "latency_s" in shown, "0.001" in shown) == (0, True, True)
    assert call("ledger", "query", sql, "--csv") == (
        0,
        "id,latency_s\r\n1,0.001\r\n2,0.001\r\n",
    )
    code, shown = call("ledger", "query", sql, "--json")
    assert json.loads(shown) == [{"id": "1", "latency_s": 0.001}, {"id": "2", "latency_s": 0.001}]


@pytest.mark.parametrize("suffix", ["parquet", "csv", "json"])
def test_a_query_is_written_to_a_file(call, three_answers, tmp_path, suffix):
    sql = "select id from predictions order by id"
    assert call("ledger", "query", sql, "--to", f"out.{suffix}") == (
        0,
        f"3 rows in out.{suffix}\n",
    )
    file = tmp_path / f"out.{suffix}"
    match suffix:
        case "parquet":
            assert pq.read_table(file)["id"].to_pylist() == list("012")
        case "csv":
            assert file.read_text().split() == ["id", *"012"]
        case "json":
            assert json.loads(file.read_text()) == [{"id": one} for one in "012"]


def test_a_form_that_is_not_written_is_refused_before_anything_is_asked(call):
    code, said = call("ledger", "query", "select 1", "--to", "out.xlsx")
    assert (code, "use .parquet, .csv or .json" in said) == (2, True)


def test_outcomes_join_what_was_predicted(call, three_answers, tmp_path):
    (tmp_path / "truth.csv").write_text("flight,delayed\n0,0\n1,1\n2,1\n")
    options = ("--id-column", "flight", "--truth-column", "delayed")
    assert call("outcomes", "import", "late", "truth.csv", *options) == (
        0,
        "3 outcomes of late\n",
    )
    sql = """select avg(("output.label" = truth_number)::int) accuracy
        from predictions join outcomes using (model, id, row)"""
    code, shown = call("ledger", "query", sql, "--model", "late", "--json")
    assert code == 0
    assert json.loads(shown) == [{"accuracy": pytest.approx(2 / 3)}]


def test_lines_that_are_refused_are_named_and_the_others_kept(call, tmp_path):
    (tmp_path / "truth.csv").write_text("id,truth\na,1\n,1\nc,\n")
    code, said = call("outcomes", "import", "late", "truth.csv")
    assert code == 1
    assert said.splitlines() == [
        "1 outcome of late",
        "line 2 of the table: no id; not kept",
        "line 3 of the table: no truth; not kept",
    ]


def test_a_column_that_is_not_there_is_named_with_those_that_are(call, tmp_path):
    (tmp_path / "truth.csv").write_text("id,late\na,1\n")
    code, said = call("outcomes", "import", "late", "truth.csv")
    assert code == 2
    assert "no column 'truth' for --truth-column" in said
    assert "there are id, late" in said


def events_of(home):
    from tests.stores import open_database

    from bascule.catalogue import events

    with open_database(home).read() as connection:
        return events.find(connection, subject=events.Subject("ledger", "late"))


def test_rows_are_counted_first_and_deleted_with_who_and_why_in_the_history(
    call, three_answers, tmp_path
):
    where = ("--model", "late", "--where", "id = '1'")
    code, said = call("ledger", "delete", *where, "--dry-run")
    assert (code, said) == (0, "matching: 1 row of 1 request of late, and 0 outcomes\n")
    code, said = call("ledger", "delete", *where)
    assert (code, "add --yes" in said) == (2, True)
    code, said = call("ledger", "delete", *where, "--yes", "--reason", "asked to be forgotten")
    assert (code, said.splitlines()[-1]) == (0, "deleted 1 row and 0 outcomes")
    assert json.loads(call("ledger", "query", "select id from predictions", "--json")[1]) == [
        {"id": "0"}, {"id": "2"},
    ]  # fmt: skip
    requested, completed = events_of(tmp_path / ".bascule")
    assert (requested.kind, completed.kind) == ("deletion_requested", "deletion_completed")
    assert completed.reason == "asked to be forgotten"
    assert completed.actor
    assert completed.body == {"where": "id = ?", "rows": 1, "outcomes": 0}


def test_a_deletion_that_matches_nothing_asks_nothing_and_records_nothing(call, three_answers):
    code, said = call("ledger", "delete", "--model", "late", "--where", "id = 'x'", "--json")
    assert (code, json.loads(said)["rows"]) == (0, 0)


def test_a_condition_that_is_more_than_one_is_refused(call, three_answers):
    words = ("--model", "late", "--where", "1=1; drop view predictions", "--yes")
    code, said = call("ledger", "delete", *words)
    assert (code, "the condition is refused" in said) == (2, True)


def test_the_status_says_what_there_is_and_what_waits(call, three_answers, tmp_path):
    found = json.loads(call("ledger", "status", "--json")[1])
    assert (found["rows"], found["has_scribe"], found["spool_bytes"] > 0) == (0, False, True)
    scribe = Scribe(tmp_path / ".bascule")
    found = json.loads(call("ledger", "status", "--json")[1])
    assert found["has_scribe"]
    while scribe.turn(everything=True):
        pass
    scribe.close()
    code, shown = call("ledger", "status")
    assert code == 0
    assert "2023-11-14" in shown
    assert "3 rows" in shown
    assert "0.0 MB wait in the spool, for 0 s; no scribe runs" in shown


def test_outcomes_come_from_a_query_of_a_database(call, tmp_path, monkeypatch):
    with closing(sqlite3.connect(tmp_path / "truths.db")) as connection, connection:
        connection.execute("create table truths (flight, delayed)")
        connection.executemany("insert into truths values (?, ?)", [("a", 1), (None, 0), ("b", 0)])
    query = ("outcomes", "import", "late", "--query", "select * from truths order by rowid")
    columns = ("--id-column", "flight", "--truth-column", "delayed")
    code, said = call(*query, *columns)
    assert (code, "--database postgresql://USER@HOST/NAME" in said) == (2, True)
    monkeypatch.setenv("BASCULE_DATABASE", "sqlite:///truths.db")
    code, said = call(*query, *columns)
    assert (code, said.splitlines()) == (
        1, ["2 outcomes of late", "line 2 of the table: no id; not kept"],
    )  # fmt: skip
    for wrong in (("late",), ("late", "truths.csv", "--query", "select 1")):
        code, said = call("outcomes", "import", *wrong)
        assert (code, "give one of them" in said) == (2, True)
