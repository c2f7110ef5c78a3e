from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import given, strategies as st

from bascule.batch import Chunk, Manifest, Record, job_of
from bascule.batch.manifest import (
    check_complete,
    check_may_start,
    check_quarantined,
    check_same,
    manifest_of,
    pending,
)
from bascule.core import Conflict, Invalid, Refused

CHUNKS = [Chunk(number, f"digest {number}", [], 10) for number in range(3)]


def made(digest: str = "sha256:1", chunks: list[Chunk] = CHUNKS, **options: Any) -> Manifest:
    job = job_of({"model": "late", "from": "in", "to": "out", **options})
    return manifest_of(job, digest, chunks, "in", "out")


def test_the_same_job_on_the_same_rows_is_the_same_run():
    assert made().run == made().run


@pytest.mark.parametrize(
    "other",
    [
        made("sha256:2"), made(chunks=CHUNKS[:2]), made(where="x > 1"), made(limit=5),
        made(columns=["label"]), made(mode="append"), made(keep=[]),
    ],
)  # fmt: skip
def test_another_model_other_rows_or_options_that_change_answers_are_another_run(other):
    assert other.run != made().run


@pytest.mark.parametrize(
    "how", [{"workers": 7}, {"memory_mb": 60}, {"retries": 0}, {"max_quarantined": 1.0}]
)
def test_how_a_run_is_done_does_not_change_it(how):
    assert made(**how).run == made().run


def test_prediction_ids_are_those_of_the_run_and_the_chunk():
    assert made().prefix_of(0) == made().prefix_of(0)
    assert made().prefix_of(0) != made().prefix_of(1)
    assert made().prefix_of(0) != made("sha256:2").prefix_of(0)


@given(st.sets(st.integers(0, 2)))
def test_what_is_committed_is_not_scored_again(committed):
    left = [chunk.number for chunk in pending(CHUNKS, committed)]
    assert sorted([*left, *committed]) == [0, 1, 2]


def test_a_run_starts_where_there_is_nothing():
    check_may_start(made(), "error", {}, has_foreign_rows=False)


@pytest.mark.parametrize(
    ("others", "foreign"), [({"a" * 16: True}, False), ({}, True), ({"a" * 16: False}, False)]
)
def test_rows_of_another_run_are_not_mixed_unless_asked_for(others, foreign):
    with pytest.raises(Conflict, match="out"):
        check_may_start(made(), "error", others, has_foreign_rows=foreign)
    check_may_start(made(), "replace", others, has_foreign_rows=foreign)


def test_rows_are_appended_to_finished_runs_alone():
    check_may_start(made(), "append", {"a" * 16: True}, has_foreign_rows=True)
    with pytest.raises(Conflict, match="not finished") as refused:
        check_may_start(made(), "append", {"a" * 16: False}, has_foreign_rows=False)
    assert "resume" in refused.value.hint


def test_a_resumed_run_whose_rows_changed_is_refused():
    check_same(made().run, made())
    with pytest.raises(Conflict, match="changed"):
        check_same(made().run, made("sha256:2"))


def test_the_quarantine_may_have_the_largest_share_and_no_row_more():
    check_quarantined(1, 100, 0.01)
    check_quarantined(0, 0, 0.0)
    with pytest.raises(Refused, match="2 of 100 rows"):
        check_quarantined(2, 100, 0.01)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"limit": -1}, "limit: -1"),
        ({"memory_mb": 49}, "memory_mb: 49"),
        ({"max_quarantined": 1.1}, "max_quarantined: 1.1"),
        ({"mode": "upsert"}, "needs the key"),
        ({"mode": "merge"}, "mode"),
        ({"colums": ["label"]}, "colums"),
        ({"workers": "two"}, "workers"),
    ],
)
def test_a_wrong_option_is_named(options, said):
    with pytest.raises(Invalid, match=said):
        made(**options)


@pytest.mark.parametrize("options", [{"memory_mb": 50}, {"max_quarantined": 1}, {"limit": 0}])
def test_limits_of_options_are_allowed(options):
    assert made(**options)


@pytest.mark.parametrize(
    ("rows", "limit", "said"),
    [
        ([300, 300, 100], 0, ""), ([300, 301, 100], 0, "chunk 1 of s: 300 rows"),
        ([300, 300], 0, "2 of the 3 chunks"), ([50, 50, 50], 50, ""),
    ],
)  # fmt: skip
def test_a_run_is_complete_when_every_chunk_is_committed_with_all_its_rows(rows, limit, said):
    chunks = [Chunk(n, "d", None, size) for n, size in enumerate((300, 300, 100))]
    records = {n: Record(n, size - 1, 1) for n, size in enumerate(rows)}
    with pytest.raises(Conflict, match=said) if said else nullcontext():
        check_complete("s", chunks, records, limit)
