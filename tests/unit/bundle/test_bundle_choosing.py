from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from bascule.bundle.choosing import fastest, is_ever_fastest, pinned, roles

COSTS = {
    "onnx": {1: 8.0, 8: 16.0, 64: 100.0, 512: 800.0, 8192: 12_000.0},
    "llvm": {1: 20.0, 8: 24.0, 64: 50.0, 512: 200.0, 8192: 2_500.0},
}
BOTH = ["onnx", "llvm"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(1, "onnx"), (8, "onnx"), (64, "llvm"), (8192, "llvm"), (10**7, "llvm")],
)
def test_a_batch_is_run_by_the_program_that_takes_least_for_its_size(rows, expected):
    assert fastest(BOTH, COSTS, rows) == expected


def test_between_two_measured_sizes_the_time_lies_between_their_times():
    lines = {"a": {10: 10.0, 1000: 1000.0}, "b": {10: 90.0, 1000: 110.0}}
    assert fastest(["a", "b"], lines, 98) == "a"  # 98 us against 99.3
    assert fastest(["a", "b"], lines, 102) == "b"  # 102 us against 99.7


def test_requests_are_served_by_one_program_for_all_sizes():
    assert pinned(BOTH, COSTS) == "llvm"
    assert pinned(BOTH, {**COSTS, "llvm": {1: 400.0, 512: 700.0}}) == "onnx"


def test_what_was_not_measured_is_taken_only_where_nothing_was():
    assert fastest(["new", "onnx"], COSTS, 1) == "onnx"
    assert pinned(["new", "onnx"], COSTS) == "onnx"
    assert pinned(["new", "newer"], {}) == "new"


@pytest.mark.parametrize(("original_us", "expected"), [(39.9, "original"), (40.1, "llvm")])
def test_the_original_is_taken_where_it_is_the_fastest_by_a_fifth(original_us, expected):
    """It brings a framework along, and what lies closer together is noise."""
    costs = {**COSTS, "original": {1: 400.0, 64: original_us}}
    assert fastest(BOTH, costs, 64, last="original") == expected
    assert fastest(BOTH, costs, 64) == "llvm"
    assert fastest(BOTH, costs, 1, last="original") == "onnx"
    assert is_ever_fastest(BOTH, costs, "original") is (expected == "original")


def test_an_original_that_was_not_measured_is_never_taken():
    assert fastest(BOTH, COSTS, 64, last="original") == "llvm"
    assert fastest(["new"], {}, 64, last="original") == "new"
    assert not is_ever_fastest(BOTH, COSTS, "original")


sizes = st.dictionaries(st.integers(1, 10**6), st.floats(0, 1e9), min_size=1, max_size=6)


@given(costs=st.dictionaries(st.sampled_from("abc"), sizes, min_size=1), rows=st.integers(1, 10**9))
def test_whatever_was_measured_one_of_the_programs_is_chosen(costs, rows):
    names = sorted(costs)
    assert fastest(names, costs, rows) in names
    assert pinned(names, costs) in names


# -- in words, for cards and for show --


def test_what_runs_batches_is_told_from_the_size_on_at_which_it_changes():
    found = roles(BOTH, COSTS)
    (first, onnx), (from_rows, llvm) = found.batches
    assert (found.requests, first, onnx, llvm) == ("llvm", 1, "onnx", "llvm")
    assert fastest(BOTH, COSTS, from_rows - 1) == "onnx"
    assert fastest(BOTH, COSTS, from_rows) == "llvm"
    assert found.batches_in_words() == f"onnx; from {from_rows} rows on llvm"


def test_one_program_does_everything_and_is_named_once():
    found = roles(["onnx"], COSTS)
    assert (found.requests, found.batches_in_words()) == ("onnx", "onnx")


def test_batches_that_the_original_answers_are_told_of():
    costs = {"onnx": {1: 8.0, 512: 100.0}, "original": {1: 300.0, 512: 50.0}}
    found = roles(["onnx"], costs, last="original")
    assert found.requests == "onnx"
    assert found.batches[0] == (1, "onnx")
    assert found.batches[1][1] == "original"
    assert fastest(["onnx"], costs, found.batches[1][0], last="original") == "original"
    assert fastest(["onnx"], costs, found.batches[1][0] - 1, last="original") == "onnx"


@given(costs=st.dictionaries(st.sampled_from("abc"), sizes, min_size=1))
def test_at_every_measured_size_the_words_name_the_program_that_runs(costs):
    names = sorted(costs)
    told = roles(names, costs).batches
    for rows in {size for times in costs.values() for size in times}:
        assert [name for start, name in told if start <= rows][-1] == fastest(names, costs, rows)
