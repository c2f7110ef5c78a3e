"""Outcomes by the time of their predictions: the newest truth counts, requests are the unit."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from tests.ledger_rows import table

from bascule.monitoring.ledger import (
    Ledger,
    Outcomes,
    Span,
    count_cohorts,
    outcome_draw,
    write_segment,
)
from bascule.monitoring.ledger.manifest import commit, read_manifest
from bascule.release.rollouts.counting import LOSSES, Stage, spans_of

T0 = datetime(2026, 11, 1, 12, tzinfo=UTC)
SPANS = [Span(n, T0 + timedelta(minutes=n), T0 + timedelta(minutes=n + 1)) for n in range(3)]


def answered(
    home, ids, at, *, arm="candidate", labels=None, rows=None, labels_type=None, units=None
):
    """Commit a segment of answers of `gb` in one arm; without units as an earlier release."""
    made = table(ids, at)
    columns = {"arm": pa.array([arm] * len(ids))}
    if labels is not None:
        columns["output.label"] = pa.array(labels, labels_type)
    if rows is not None:
        columns["row"] = pa.array(np.array(rows, np.int32))
    if units is not None:
        made = made.append_column("unit", pa.array(units, pa.int32()))
    for name, values in columns.items():
        made = made.set_column(made.column_names.index(name), name, values)
    manifest = read_manifest(home)
    file = f"{manifest.sequence + 1:08d}-{arm}.parquet"
    manifest.segments.append(write_segment(home, made, "gb", "1", "2026-11-01", file))
    manifest.sequence += 1
    commit(home, manifest)


def truths(home, ids, values):
    """Import truths, each in an import of its own order."""
    Outcomes(home).add("gb", pa.table({"id": ids, "truth": values}))


def counted(home, **options):
    options = {"arm": "candidate", "losses": [LOSSES["accuracy"]], "spans": SPANS} | options
    return count_cohorts(Ledger(home), model="gb", endpoint="gb", **options)


def summary(home, **options):
    return [
        (one.number, one.predictions, one.unknown, *one.losses) for one in counted(home, **options)
    ]


def test_an_outcome_counts_in_the_span_of_its_prediction_whenever_it_comes(tmp_path):
    answered(tmp_path, ["a", "b"], T0, labels=[1, 1])
    answered(tmp_path, ["c"], T0 + timedelta(minutes=2), labels=[1])
    answered(tmp_path, ["d"], T0, arm="current", labels=[1])
    assert summary(tmp_path) == [(0, 2, 2.0, 0.0), (2, 1, 1.0, 0.0)]
    truths(tmp_path, ["c", "d"], [0, 0])
    truths(tmp_path, ["b"], [1])
    assert summary(tmp_path) == [(0, 2, 1.0, 0.0), (2, 1, 0.0, 1.0)]
    assert summary(tmp_path, arm="current") == [(0, 1, 0.0, 1.0)]


def test_a_correction_takes_a_wrong_answer_back_and_a_repetition_changes_nothing(tmp_path):
    answered(tmp_path, ["a", "b"], T0, labels=[1, 1])
    for values in ([0, 0], [1, 0], [1, 0]):
        truths(tmp_path, ["a", "b"], values)
    assert summary(tmp_path) == [(0, 2, 0.0, 1.0)]
    truths(tmp_path, ["b"], [1])
    assert summary(tmp_path) == [(0, 2, 0.0, 0.0)]


def test_a_request_of_several_rows_counts_once_with_the_mean_of_its_rows(tmp_path):
    answered(tmp_path, ["a"] * 4, T0, labels=[1, 1, 1, 1], rows=[0, 1, 2, 3])
    truths(tmp_path, ["a#0", "a#1", "a#2"], [1, 0, 0])
    assert summary(tmp_path) == [(0, 1, 0.25, 0.5)]


@pytest.mark.parametrize(
    ("labels", "kind", "truth", "wrong"),
    [
        ([1, 0], pa.int64(), [1.0, 1.0], 1.0),
        ([1, 0], pa.int64(), ["1", "1"], 1.0),
        ([True, False], pa.bool_(), [1, 1], 1.0),
        ([True, False], pa.bool_(), ["True", "true"], 1.0),
        (["yes", "no"], pa.string(), ["yes", "yes"], 1.0),
        ([1.0, 0.0], pa.float64(), [1, 1], 1.0),
    ],
)
def test_a_label_may_be_written_as_another_type_than_its_truth(
    tmp_path, labels, kind, truth, wrong
):
    answered(tmp_path, ["a", "b"], T0, labels=labels, labels_type=kind)
    truths(tmp_path, ["a", "b"], truth)
    assert summary(tmp_path) == [(0, 2, 0.0, wrong)]


def test_a_sample_waits_for_the_ids_that_python_and_sql_choose_alike(tmp_path):
    ids = [f"p-{number}" for number in range(400)]
    answered(tmp_path, ids, T0, labels=[1] * 400)
    chosen = [name for name in ids if outcome_draw(name) < 0.1]
    assert 20 < len(chosen) < 65
    truths(tmp_path, chosen, [1] * len(chosen))
    assert summary(tmp_path, sample=0.1) == [(0, len(chosen), 0.0, 0.0)]
    sql = "SELECT id FROM predictions WHERE outcome_draw(id) < 0.1 ORDER BY id"
    assert Ledger(tmp_path).query(sql)["id"].to_pylist() == sorted(chosen)


def test_spans_grow_with_age_end_with_their_stage_and_stay_as_they_are():
    stages = [Stage(T0, 0, 0.05), Stage(T0 + timedelta(seconds=33), 1, 0.25)]
    early = spans_of(T0, stages[:1], T0 + timedelta(seconds=33))
    late = spans_of(T0, stages, T0 + timedelta(days=7))
    assert [span for span, _ in late][: len(early)] == [span for span, _ in early]
    assert len(late) < 900
    cut = next(place for place, (_, stage) in enumerate(late) if stage)
    assert late[cut][0].start == late[cut - 1][0].end == stages[1][0]
    assert [span.number for span, _ in late] == list(range(len(late)))
    assert all(a.end == b.start for (a, _), (b, _) in pairwise(late))
    assert spans_of(T0, [], T0 + timedelta(days=1)) == []


def test_a_key_counts_once_in_a_stage_with_its_first_request(tmp_path):
    answered(tmp_path, ["a", "b", "c"], T0, labels=[1, 1, 1], units=[7, -1, None])
    later = T0 + timedelta(minutes=1)
    answered(tmp_path, ["d", "e"], later, labels=[1, 1], units=[7, 8])  # of another host
    truths(tmp_path, list("abcde"), [0, 0, 0, 0, 0])
    found = [
        (one.number, one.is_of_keys, one.predictions, *one.losses) for one in counted(tmp_path)
    ]
    assert found == [(0, False, 1, 1.0), (0, True, 1, 1.0), (1, True, 1, 1.0)]


def test_a_key_counts_where_its_arm_is_open_and_again_in_the_next_stage(tmp_path):
    answered(tmp_path, ["a", "b"], T0, labels=[1, 1], units=[7, 900])
    answered(tmp_path, ["c", "d"], T0 + timedelta(minutes=2), labels=[1, 1], units=[7, 900])
    spans = [
        replace(SPANS[0], units=(0, 820)),
        *(replace(one, units=(820, 4_096)) for one in SPANS[1:]),
    ]
    assert [one[:2] for one in summary(tmp_path, spans=spans)] == [(0, 1), (2, 1)]
    spans = [replace(one, units=(0, 4_096)) for one in SPANS]
    assert [one[:2] for one in summary(tmp_path, spans=spans)] == [(0, 2)]


def test_what_an_earlier_release_wrote_is_read(tmp_path):
    answered(tmp_path, ["a"], T0, labels=[1])
    (row,) = Ledger(tmp_path).query("SELECT unit, caller FROM predictions").to_pylist()
    assert row == {"unit": None, "caller": "me"}
    assert summary(tmp_path) == [(0, 1, 1.0, 0.0)]
