"""A table is looked at before a search: odd columns are said, and its rows are cut in three."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from bascule.core import Invalid
from bascule.training import Plan
from bascule.training.tables import examined


def table(rows: int = 400, **more: object) -> pa.Table:
    draws = np.random.default_rng(0)
    distance = draws.normal(size=rows)
    late = distance + draws.normal(size=rows) > 0.8
    columns = {"distance": distance, "carrier": draws.choice(["AA", "UA"], rows), "late": late}
    return pa.table({**columns, **more})


def look(rows: pa.Table, **plan: object):
    return examined(Plan(table="", target="late", **plan), rows, is_number=None)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.random.default_rng(0).permutation(400), "column looks like an id, 400 values"),
        ([f"flight {i}" for i in range(400)], "column looks like an id, 400 values"),
        (np.arange(400).astype("datetime64[D]"), "column is a time, and no input: --time column"),
        ([1.5] * 400, "column has one value"),
        ([[1]] * 400, "column is neither a number nor a text"),
        ([np.inf] + [1.5] * 399, "column has infinite values"),
    ],
)
def test_a_column_that_says_nothing_of_new_rows_is_no_input(values, sentence):
    result = look(table(column=pa.array(values)))
    assert result.inputs == ["distance", "carrier"]
    assert sentence in result.findings[0]


def test_a_column_that_may_be_a_time_or_a_group_stays_and_is_said():
    result = look(table(day=np.arange(400) // 4, plane_id=np.arange(400) * 7 % 40))
    assert result.inputs == ["distance", "carrier", "day", "plane_id"]
    assert any("--time day" in sentence for sentence in result.findings)
    assert any("--group plane_id" in sentence for sentence in result.findings)


def test_a_column_that_tells_the_target_is_said():
    rows = table()
    late = rows["late"].to_numpy()
    telling = look(rows.append_column("delay", [late * 5.0]))
    assert any(sentence.startswith("delay alone tells late") for sentence in telling.findings)
    assert not any("alone tells" in sentence for sentence in look(rows).findings)


def test_the_newest_rows_judge_and_equal_times_stay_together():
    days = np.random.default_rng(1).integers(0, 50, 400)
    search, choice, judge = look(table(day=days), time="day").parts
    assert search.day.max() < choice.day.min()
    assert choice.day.max() < judge.day.min()
    assert len(search) + len(choice) + len(judge) == 400


def test_no_group_is_in_two_parts():
    search, choice, judge = look(table(plane=np.arange(400) % 40), group="plane").parts
    assert len(set(search.plane) | set(choice.plane) | set(judge.plane)) == 40
    assert len(set(search.plane)) + len(set(choice.plane)) + len(set(judge.plane)) == 40


def test_by_chance_each_part_has_its_share_of_each_class():
    result = look(table())
    shares = [part.late.mean() for part in result.parts]
    assert [len(part) for part in result.parts] == pytest.approx([320, 40, 40], abs=2)
    assert max(shares) - min(shares) < 0.03
    assert "320 rows to search on" in result.findings[-1]


def test_held_out_rows_that_the_search_knows_are_counted():
    rows = table(200)
    doubled = look(pa.concat_tables([rows, rows]))
    known = set(map(tuple, doubled.parts[0][["distance", "carrier"]].to_numpy()))
    held_out = pd.concat(doubled.parts[1:])[["distance", "carrier"]].to_numpy()
    count = sum(tuple(row) in known for row in held_out)
    assert count > 20
    assert any(sentence.startswith(f"{count} of") for sentence in doubled.findings)


def test_the_target_tells_the_task():
    assert look(table()).classes == 2
    assert examined(Plan(table="", target="distance"), table(), is_number=None).classes == 0
    assert examined(Plan(table="", target="carrier"), table(), is_number=None).classes == 2


@pytest.mark.parametrize(
    ("rows", "plan", "message"),
    [
        (table(), {"time": "day"}, "no column day"),
        (table(80), {}, "80 rows with a target are too few"),
        (table(), {"leave_out": ("distance", "carrier")}, "no column is left"),
        (table(), {"group": "carrier"}, "carrier has too few values"),
        (table(), {"time": "late"}, "late is the target"),
        (table().set_column(2, "late", [[np.inf] + [1.5] * 399]), {}, "late has infinite values"),
        (table().set_column(2, "late", [[True] + [False] * 399]), {}, "too few of one class"),
    ],
)
def test_what_cannot_be_searched_is_refused_with_the_reason(rows, plan, message):
    with pytest.raises(Invalid, match=message):
        look(rows, **plan)


def test_a_target_of_texts_is_not_searched_by_a_metric_of_numbers():
    rows = table().set_column(2, "late", [["yes", "no"] * 200])
    with pytest.raises(Invalid, match="late is no number"):
        examined(Plan(table="", target="late"), rows, is_number=True)
