"""Outcomes: late, twice, corrected and out of order, the newest counts and nothing is forgotten."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st
from tests.tiers import examples
from tests.waiting import until

from bascule.core import Invalid
from bascule.monitoring.ledger import (
    Ledger,
    OutcomeInput,
    Outcomes,
    OutcomeSpool,
    outcome_spool,
    read_csv,
    read_outcomes,
)
from bascule.serving.protocols import outcome_writer


def truths(home):
    found = Ledger(home).query("select id, row, truth, truth_number from outcomes order by 1, 2, 3")
    return [tuple(row.values()) for row in found.to_pylist()]


def table(**columns):
    return pa.table(columns)


def test_an_outcome_is_found_by_the_id_of_its_prediction_and_row(tmp_path):
    done = Outcomes(tmp_path).add("gb", table(id=["a", "b#3", "c#x"], truth=[1, 0, 1]))
    assert (done.taken, done.refused) == (3, {})
    assert truths(tmp_path) == [("a", 0, "1", 1.0), ("b", 3, "0", 0.0), ("c#x", 0, "1", 1.0)]


def test_a_text_is_a_number_as_well_where_it_reads_as_one_whatever_the_others_are(tmp_path):
    texts = ["yes", "2", "-1.5e2", "nan", "1e999", " "]
    Outcomes(tmp_path).add("gb", table(id=list("abcdef"), truth=texts))
    assert [number for *_, number in truths(tmp_path)] == [None, 2.0, -150.0, None, None, None]


def test_the_truth_received_last_counts_and_the_others_are_its_history(tmp_path):
    outcomes = Outcomes(tmp_path)
    late = pa.array([datetime(2026, 1, 2, tzinfo=UTC)])
    outcomes.add("gb", table(id=["a"], truth=[1], when=late), time_column="when")
    outcomes.add("gb", table(id=["a", "a"], truth=[2, 3]))
    assert truths(tmp_path) == [("a", 0, "3", 3.0)]
    history = Ledger(tmp_path).query(
        "select truth from outcome_history order by received_at, position"
    )
    assert history["truth"].to_pylist() == ["1", "2", "3"]


def test_models_do_not_share_ids(tmp_path):
    Outcomes(tmp_path).add("one", table(id=["a"], truth=[1]))
    Outcomes(tmp_path).add("two", table(id=["a"], truth=[2]))
    assert truths(tmp_path) == [("a", 0, "1", 1.0), ("a", 0, "2", 2.0)]


def test_lines_without_id_truth_or_time_are_refused_and_the_others_kept(tmp_path):
    lines = table(
        id=["a", None, "c", "d"],
        truth=[1.0, 1.0, math.nan, 0.0],
        when=["2026-01-02T00:00:00", "2026-01-02T00:00:00", "2026-01-02T00:00:00", None],
    )
    done = Outcomes(tmp_path).add("gb", lines, time_column="when")
    assert done.taken == 1
    assert done.refused == {2: "no id", 3: "no truth", 4: "no time"}
    assert truths(tmp_path) == [("a", 0, "1", 1.0)]


@pytest.mark.parametrize(
    ("columns", "options", "problem"),
    [
        ({"id": ["a"], "truth": [1]}, {"truth_column": "late"}, "no column 'late' for --truth"),
        ({"id": ["a"], "truth": [[1]]}, {}, "no numbers or texts"),
        ({"id": ["a"], "truth": [1], "t": ["soon"]}, {"time_column": "t"}, "does not hold times"),
    ],
)
def test_a_table_that_cannot_be_read_leaves_nothing(tmp_path, columns, options, problem):
    with pytest.raises(Invalid, match=problem):
        Outcomes(tmp_path).add("gb", table(**columns), **options)
    assert truths(tmp_path) == []
    with pytest.raises(Invalid):
        Outcomes(tmp_path).add("../gb", table(id=["a"], truth=[1]))


@settings(max_examples=examples(15), deadline=None)
@given(data=st.data())
def test_in_any_order_and_any_split_the_last_truth_of_each_id_counts(tmp_path_factory, data):
    home = tmp_path_factory.mktemp("home")
    said = data.draw(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=12))
    at, expected = 0, {}
    while at < len(said):
        part = said[at : at + data.draw(st.integers(1, 5))]
        at += len(part)
        ids, values = zip(*part, strict=True)
        Outcomes(home).add("gb", table(id=list(ids), truth=list(values)))
        expected |= dict(part)
    assert {name: int(number) for name, _, _, number in truths(home)} == expected


def test_a_file_of_lines_that_is_old_is_complete(tmp_path, monkeypatch):
    writing = OutcomeSpool(tmp_path)
    lines = read_outcomes([OutcomeInput("a", 1, None)])[0]
    writing.append("late", [lines])
    writing.append("late", [lines])
    assert Outcomes(tmp_path).fold() == 0
    monkeypatch.setattr(outcome_spool, "_FILE_S", -1.0)
    writing.append("late", [lines])
    assert Outcomes(tmp_path).fold() == 1
    writing.close()


def test_a_worker_without_outcomes_completes_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(outcome_writer, "_IDLE_S", 0.05)

    async def add():
        done = asyncio.get_running_loop().create_future()
        writer.add("late", 10, lambda: [OutcomeInput("a", 1, None)], done.set_result)
        return await done

    writer = outcome_writer.OutcomeWriter(tmp_path)
    assert asyncio.run(add()).taken == 1
    until(lambda: Outcomes(tmp_path).fold() == 1)
    assert asyncio.run(add()).taken == 1
    writer.close()
    assert Ledger(tmp_path).query("select id from outcome_history").num_rows == 2


def test_an_empty_cell_of_a_csv_is_no_truth_and_not_an_empty_text(tmp_path):
    """It was kept as the truth '', which no answer is: the version seemed to be wrong there."""
    table = read_csv(b"id,truth\na,late\nb,\n", id_column="id")

    done = Outcomes(tmp_path).add("late", table)

    assert (done.taken, done.refused) == (1, {2: "no truth"})
