from __future__ import annotations

import json
import math
import tracemalloc
from collections import Counter
from pathlib import Path

import datasketches
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats
from tests.tiers import examples

from bascule.core.digests import canonical_json
from bascule.core.errors import Invalid, Untrusted
from bascule.stats.sketches import (
    CHUNK_ROWS,
    LEVEL_VALUES,
    MAX_FREQUENT,
    ColumnProfile,
    Distinct,
    Moments,
    Profile,
    Quantiles,
    _text_hashes,
    mixed,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "profile-1.json"
random = np.random.default_rng(0)
N = 300_000
SHAPES = {
    "normal": random.normal(size=N),
    "lognormal": random.lognormal(sigma=3, size=N),
    "whole": random.integers(0, 40, N).astype(float),
    "rising": np.arange(N, dtype=float),
    "falling": np.arange(N, dtype=float)[::-1],
    "saw": np.arange(N, dtype=float) % 1_000,
    "one": np.zeros(N),
}


def profiled(values) -> ColumnProfile:
    profile = Profile()
    profile.add({"x": np.asarray(values)})
    return profile.columns["x"]


def parts(values, count, seed=1):
    cuts = np.sort(np.random.default_rng(seed).integers(0, len(values), count - 1))
    return np.split(values, cuts)


def merged(pieces) -> ColumnProfile:
    whole = profiled(pieces[0])
    for piece in pieces[1:]:
        whole.merge(profiled(piece))
    return whole


def farthest_rank(column, values) -> int:
    ordered = np.sort(values)
    asked = np.unique(ordered[np.linspace(0, len(ordered) - 1, 500).astype(int)])
    exact = np.searchsorted(ordered, asked, side="right")
    return max(abs(column.quantiles.rank(x) - rank) for x, rank in zip(asked, exact, strict=True))


# -- quantiles --


@pytest.mark.parametrize("shape", SHAPES)
def test_ranks_are_within_the_error_that_the_sketch_tells(shape):
    column = profiled(SHAPES[shape])
    assert farthest_rank(column, SHAPES[shape]) <= column.quantiles.error
    assert column.quantiles.error <= 0.003 * N
    assert len(column.quantiles.weighted()[0]) <= 12 * LEVEL_VALUES


@pytest.mark.parametrize("shape", SHAPES)
def test_the_merged_sketch_of_parts_is_within_its_error_too(shape):
    column = merged(parts(SHAPES[shape], 25))
    assert column.quantiles.rows == N
    assert farthest_rank(column, SHAPES[shape]) <= column.quantiles.error <= 0.02 * N


def test_quantiles_are_as_good_as_those_of_the_sketch_with_coins():
    """Apache DataSketches' KLL with as many values kept, as the independent judge."""
    values = SHAPES["normal"]
    column = profiled(values)
    theirs = datasketches.kll_doubles_sketch(512)
    theirs.update(values)
    shares = np.linspace(0.01, 0.99, 99)
    ours = np.abs(stats.norm.cdf(column.quantiles.quantiles(shares)) - shares).max()
    other = np.abs(stats.norm.cdf(theirs.get_quantiles(shares)) - shares).max()
    assert ours <= max(2 * other, 0.004)


@settings(max_examples=examples(150), deadline=None)
@given(st.data())
def test_no_rank_is_ever_further_from_the_truth_than_the_error(data):
    """Levels of four values overflow at once; what is added and merged is of every size and order.

    Every rank is asked for, with ties, and not only of shapes that somebody thought of.
    """
    numbers = st.lists(st.integers(0, 60), max_size=80)

    def sketch() -> tuple[Quantiles, list[int]]:
        made, seen = Quantiles(), []
        for values in data.draw(st.lists(numbers, max_size=5)):
            made.add(np.sort(np.array(values, float)))
            seen += values
        return made, seen

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bascule.stats.sketches.LEVEL_VALUES", 4)
        whole, seen = sketch()
        for _ in range(data.draw(st.integers(0, 4))):
            part, more = sketch()
            whole.merge(part)
            seen += more
        assert whole.rows == len(seen)
        ordered = np.sort(seen)
        for value in range(-1, 62):
            exact = int(np.searchsorted(ordered, value, side="right"))
            assert abs(whole.rank(value) - exact) <= whole.error


@settings(max_examples=examples(60), deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400),
    st.integers(0, 2**32),
)
def test_small_sketches_keep_every_value(values, seed):
    column = merged([np.array(values)])
    ordered = np.sort(np.array(values) + 0.0)
    assert column.quantiles.error == 0
    assert np.array_equal(column.quantiles.weighted()[0], ordered)
    share = np.random.default_rng(seed).random()
    exact = ordered[max(1, math.ceil(share * len(values))) - 1]
    assert column.quantiles.quantile(share) == exact


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        (LEVEL_VALUES, 0),
        (LEVEL_VALUES + 1, 1),
        (2 * LEVEL_VALUES, 1),
        (CHUNK_ROWS, CHUNK_ROWS // LEVEL_VALUES // 2),
    ],
)
def test_the_error_begins_where_a_level_is_full(rows, error):
    column = profiled(np.random.default_rng(2).random(rows))
    assert column.quantiles.error == error
    assert column.quantiles.weighted()[1].sum() == rows


def test_the_ends_of_the_shares_are_values():
    column = profiled([3.0, 1.0, 2.0])
    assert column.quantiles.quantiles([0, 1 / 3, 0.34, 1]).tolist() == [1, 1, 2, 3]
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(Invalid, match="not all from 0 to 1"):
            column.quantiles.quantile(wrong)
    with pytest.raises(Invalid, match="no values"):
        Quantiles().quantile(0.5)


# -- distinct and frequent values --


@pytest.mark.parametrize("count", [0, 1, 5, 60, 1_000, 10_000, 200_000])
def test_distinct_values_are_counted_within_three_standard_errors(count):
    sketch = Distinct()
    sketch.add(mixed(np.arange(count, dtype=float).view(np.uint64)))
    sketch.add(mixed(np.arange(count, dtype=float).view(np.uint64)))
    assert sketch.estimate() == pytest.approx(count, rel=3 * 0.023)


def test_the_error_of_distinct_counts_is_what_theory_and_the_other_sketch_say():
    errors, others = [], []
    for trial in range(40):
        values = np.random.default_rng(trial).random(5_000)
        sketch = Distinct()
        sketch.add(mixed(values.view(np.uint64)))
        errors.append(sketch.estimate() / 5_000 - 1)
        other = datasketches.hll_sketch(11)
        for value in values.tolist():
            other.update(value)
        others.append(other.get_estimate() / 5_000 - 1)
    assert 0.012 < np.std(errors) < 0.035
    assert abs(np.mean(errors)) < 3 * 0.023 / math.sqrt(40)
    assert np.std(errors) < 2 * np.std(others)


def test_texts_are_told_apart_as_numbers_are():
    texts = [f"N{number:06}" for number in range(30_000)]
    column = profiled(np.array(texts * 2, object))
    assert column.kind == "text"
    assert column.distinct == pytest.approx(30_000, rel=0.07)
    assert len(set(_text_hashes(texts).tolist())) == 30_000


def test_few_distinct_values_are_counted_exactly():
    values = np.random.default_rng(0).integers(0, MAX_FREQUENT, 100_000)
    column = profiled(values)
    assert column.distinct == MAX_FREQUENT
    assert column.frequent.error == 0
    assert dict(column.frequent.counts) == Counter(values.tolist())
    assert profiled(np.arange(MAX_FREQUENT + 1)).frequent.error == 1


@pytest.mark.parametrize(("rows", "exact"), [(LEVEL_VALUES, True), (LEVEL_VALUES + 1, False)])
def test_numbers_that_are_all_kept_are_counted_exactly(rows, exact):
    column = profiled(np.arange(rows) / 7)
    assert column.is_distinct_exact is exact
    assert column.distinct == rows if exact else column.distinct == pytest.approx(rows, rel=0.07)


@pytest.mark.parametrize("pieces", [1, 30])
@pytest.mark.parametrize("text", [False, True])
def test_counts_of_frequent_values_are_within_their_error(pieces, text):
    values = np.random.default_rng(3).zipf(1.3, 200_000).clip(max=10**9)
    if text:
        values = np.array([f"v{value}" for value in values.tolist()], object)
    column = merged(parts(values, pieces)) if pieces > 1 else profiled(values)
    exact = Counter(values.tolist())
    assert column.frequent.error <= len(values) / (MAX_FREQUENT + 1)
    for value, count in exact.items():
        kept = column.frequent.counts.get(value, 0)
        assert kept <= count <= kept + column.frequent.error
    assert column.frequent.top()[0][0] == exact.most_common(1)[0][0]


# -- counts and moments --


def test_what_is_missing_and_what_has_no_end_is_counted_apart():
    column = profiled([1.0, math.nan, math.inf, -math.inf, 3.0, math.nan])
    assert (column.rows, column.missing, column.infinite) == (6, 2, 2)
    assert (column.moments.rows, column.moments.mean, column.quantiles.rows) == (2, 2.0, 2)
    texts = profiled(np.array(["a", None, "b", "a"], object))
    assert (texts.rows, texts.missing, texts.distinct) == (4, 1, 2)


@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.parametrize("offset", [0.0, 1e9])
def test_moments_are_those_of_the_whole(pieces, offset):
    values = np.random.default_rng(4).normal(offset, 2.0, 150_001)
    column = merged(parts(values, pieces)) if pieces > 1 else profiled(values)
    assert column.moments.least == values.min()
    assert column.moments.most == values.max()
    assert column.moments.mean == pytest.approx(values.mean(), rel=1e-12)
    assert column.moments.squares == pytest.approx(values.var() * len(values), rel=1e-9)


def test_numbers_too_large_for_their_squares_have_no_variance():
    column = profiled([-1e308, 1e308, 1.7e308, 1e308])
    assert (column.moments.least, column.moments.most) == (-1e308, 1.7e308)
    assert column.moments.squares is None
    json.dumps(column.to_json(), allow_nan=False)


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf]])
def test_a_column_without_a_number_has_a_profile(values):
    column = profiled(np.array(values, float))
    assert column.moments.to_json() == [None, None, None, None]
    assert column.distinct == 0
    again = ColumnProfile.from_json(json.loads(canonical_json(column.to_json())))
    assert again.to_json() == column.to_json()


def test_a_truth_value_is_nought_or_one_and_minus_nought_is_nought():
    column = profiled([True, False, True, True])
    assert (column.kind, column.moments.mean, column.distinct) == ("number", 0.75, 2)
    assert profiled([0.0, -0.0]).distinct == 1


# -- the whole profile --


def table(rows, seed=0):
    random = np.random.default_rng(seed)
    numbers = random.normal(size=rows)
    numbers[random.random(rows) < 0.1] = np.nan
    texts = np.array(["AA", "BB", "CC", None], object)[random.integers(0, 4, rows)]
    return {"x": numbers, "n": random.integers(0, 5_000, rows), "t": texts}


def made(columns) -> Profile:
    profile = Profile()
    profile.add(columns)
    return profile


def test_the_same_rows_give_the_same_bytes():
    first, again = (canonical_json(made(table(200_000)).to_json()) for _ in range(2))
    assert first == again
    assert first != canonical_json(made(table(200_000, seed=1)).to_json())


def test_rows_in_whole_chunks_give_the_same_bytes_as_all_at_once():
    columns = table(3 * CHUNK_ROWS + 17)
    pieces = Profile()
    for start in range(0, 3 * CHUNK_ROWS + 17, CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        pieces.add({name: values[rows] for name, values in columns.items()})
    assert canonical_json(pieces.to_json()) == canonical_json(made(columns).to_json())


def test_profiles_of_parts_merge_into_nearly_that_of_the_whole():
    columns = table(120_000)
    whole, pieces = made(columns), Profile()
    for start in range(0, 120_000, 30_000):
        rows = slice(start, start + 30_000)
        pieces.merge(made({name: values[rows] for name, values in columns.items()}))
    assert pieces.rows == whole.rows
    for name, column in whole.columns.items():
        other = pieces.columns[name]
        assert (other.rows, other.missing) == (column.rows, column.missing)
        assert other._distinct.estimate() == column._distinct.estimate()
    for share in (0.01, 0.25, 0.5, 0.75, 0.99):
        middle = pieces.columns["x"].quantiles.quantile(share)
        assert stats.norm.cdf(middle) == pytest.approx(share, abs=0.01)


def test_a_profile_survives_its_json_and_can_go_on():
    profile = made(table(100_000))
    again = Profile.from_json(json.loads(canonical_json(profile.to_json())))
    assert canonical_json(again.to_json()) == canonical_json(profile.to_json())
    for one in (profile, again):
        one.merge(made(table(70_000, seed=5)))
    assert canonical_json(again.to_json()) == canonical_json(profile.to_json())


def test_profiles_of_other_columns_or_kinds_do_not_merge():
    with pytest.raises(Invalid, match="differ in their columns: n, t"):
        made(table(10)).merge(made({"x": np.zeros(3)}))
    with pytest.raises(Invalid, match="profile of text does not merge into one of number"):
        made({"x": np.zeros(3)}).merge(made({"x": np.array(["a"], object)}))


def test_the_golden_profile_is_read_and_made_again_to_the_byte():
    data = GOLDEN.read_bytes().strip()
    profile = Profile.from_json(json.loads(data))
    assert canonical_json(profile.to_json()) == data
    assert canonical_json(made(golden_table()).to_json()) == data
    assert profile.columns["carrier"].frequent.top()[0] == ("AA", 375)
    assert profile.columns["delay"].quantiles.quantile(0.5) == pytest.approx(750, abs=2)


def golden_table():
    """Nothing that a library draws: the next release may draw otherwise."""
    place = np.arange(1_500)
    return {
        "delay": (place * 7_919 % 1_500 + 0.5),
        "carrier": np.array(["UA", "AA", "B6", None], object)[place % 4],
    }


@pytest.mark.parametrize(
    "alter",
    [
        lambda column: column.update(kind="image"),
        lambda column: column.pop("distinct"),
        lambda column: column["quantiles"].update(rows=1),
        lambda column: column["quantiles"]["levels"][0].update(values="!"),
        lambda column: column["quantiles"]["levels"][0].update(values="AAAA"),
        lambda column: column["quantiles"]["levels"][0].update(level=-1),
        lambda column: column["distinct"].update(values="AA=="),
        lambda column: column["frequent"].update(counts=[[1.0, 0]]),
        lambda column: column["frequent"].update(counts=[[1.0]]),
        lambda column: column.update(moments=[1.0]),
        lambda column: column.update(moments=7),
    ],
)
def test_what_is_no_profile_is_not_trusted(alter):
    value = made({"x": np.arange(20.0)}).to_json()
    alter(value["columns"][0])
    with pytest.raises(Untrusted, match="profile cannot be read"):
        Profile.from_json(value)


def test_a_newer_profile_says_what_to_do():
    with pytest.raises(Untrusted, match="has format 2, and this bascule reads 1"):
        Profile.from_json({"format": 2})


def test_moments_of_nothing_change_nothing():
    moments = Moments()
    moments.merge(Moments())
    moments.add(np.empty(0))
    assert moments == Moments()


def peak_bytes(rows: int, columns: int = 4) -> int:
    matrix = np.random.default_rng(0).random((rows, columns))
    profile = Profile()
    tracemalloc.start()
    for start in range(0, rows, CHUNK_ROWS):
        profile.add({f"c{i}": matrix[start : start + CHUNK_ROWS, i] for i in range(columns)})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_rows():
    assert peak_bytes(8 * CHUNK_ROWS) < 1.3 * peak_bytes(2 * CHUNK_ROWS) < 10e6


@pytest.mark.slow
def test_a_million_rows_of_fifty_columns_are_profiled_in_half_a_minute():
    import time

    matrix = np.random.default_rng(0).normal(size=(1_000_000, 50))
    profile = Profile()
    began = time.process_time()
    profile.add({f"c{i}": matrix[:, i] for i in range(50)})
    assert time.process_time() - began < 30
    assert len(canonical_json(profile.to_json())) < 2e6
