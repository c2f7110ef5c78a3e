"""Losses that become known late: the worst case of what is unknown bounds what will be known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from tests.tiers import examples, first_of

from bascule.core import Invalid
from bascule.stats import decisive_cohorts, late, late_proportions
from bascule.stats.sequential import SAFE_RATIOS, WORSE_RATIOS, two_proportions

ENOUGH = math.log(20)


def arm(draw, n):
    known = draw(st.integers(0, n))
    return n, draw(st.integers(0, known)), n - known


@st.composite
def cohorts(draw):
    sizes = draw(
        st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=8)
    )
    return [(*arm(draw, a), *arm(draw, b)) for a, b in sizes]


@given(cohorts(), st.floats(0, 1), st.floats(0, 1), st.sampled_from([0.0, 0.02, -0.02]))
@settings(max_examples=examples(200), deadline=None)
def test_whatever_the_unknown_truths_are_they_show_no_less_evidence(table, part_c, part_0, margin):
    """The gains of each cohort, so the guesses are the same, as they are within one look."""
    rows = np.array(table, float)
    full = rows.copy()
    full[:, 1] += np.floor(part_c * rows[:, 2])
    full[:, 4] += np.floor(part_0 * rows[:, 5])
    full[:, [2, 5]] = 0
    for row, truth in zip(rows, full, strict=True):
        seen, later = (late_proportions([one], margin=margin, bounds=False) for one in (row, truth))
        assert seen.log_e_worse <= later.log_e_worse + 1e-9
        assert seen.log_e_safe <= later.log_e_safe + 1e-9


def test_with_all_truths_it_is_half_of_the_test_of_two_proportions_at_least():
    random = np.random.default_rng(0)
    n_c, n_0 = random.integers(50, 100, 40), random.integers(100, 200, 40)
    table = np.stack([n_c, random.binomial(n_c, 0.1), n_0, random.binomial(n_0, 0.05)], axis=1)
    full = np.insert(table, [2, 4], 0, axis=1)
    of_counts = two_proportions(table, margin=0.01)
    late = late_proportions(full, margin=0.01)
    assert late.log_e_worse >= of_counts.log_e_worse - math.log(2)
    assert late.difference == pytest.approx(of_counts.difference)
    assert of_counts.lower - 0.02 < late.lower <= late.difference <= late.upper


def scalar_evidence(rows, margin, ratios, harm):
    """The same in plain Python: the largest mixed product over first cohorts and later starts."""
    best, gains = 0.0, []
    seen_n = seen_e = 0.0
    for n_c, k_c, u_c, n_0, k_0, u_0 in rows:
        e_c, e_0 = (k_c, k_0 + u_0) if harm else (k_c + u_c, k_0)
        q, rho = (seen_e + 2) / (seen_n + 200), n_c / (n_c + n_0)
        seen_n, seen_e = seen_n + n_0, seen_e + e_0
        row = []
        for r in ratios:
            stake = rho * (1 - rho) * (r - 1) / (1 + rho * (r - 1)) / (1 - q)
            if r > 1:
                stake = min(stake, 0.95 * min(rho / (q + margin), (1 - rho) / (1 - q)))
            else:
                stake = max(stake, -0.999 * min(rho / (1 - q - margin), (1 - rho) / q))
            a, b = stake / rho, stake / (1 - rho)
            row.append(
                e_c * math.log(1 + a * (1 - q - margin))
                + (n_c - e_c) * math.log(1 - a * (q + margin))
                + e_0 * math.log(1 - b * (1 - q)) + (n_0 - e_0) * math.log(1 + b * q)
            )  # fmt: skip
        gains.append(row)
    starts = [0] + [2**k for k in range(20) if 2**k < len(rows)]
    weights = [0.5] + [0.5 / (k * (k + 1)) for k in range(1, len(starts))]
    for end in range(1, len(rows) + 1):
        total = 1 - sum(weights)
        for start, weight in zip(starts, weights, strict=True):
            products = [
                math.exp(sum(row[place] for row in gains[start:end]))
                for place in range(len(ratios))
            ]
            total += weight * sum(products) / len(products)
        best = max(best, math.log(total))
    return best


@pytest.mark.parametrize("margin", [0.0, 0.02])
def test_the_evidence_is_that_of_independent_scalar_code(margin):
    random = np.random.default_rng(3)
    rows = []
    for _ in range(11):
        n_c, n_0 = random.integers(60, 120, 2)
        u_c, u_0 = random.integers(0, 20, 2)
        rows.append(
            (n_c, random.binomial(n_c - u_c, 0.3), u_c, n_0, random.binomial(n_0 - u_0, 0.1), u_0)
        )
    evidence = late_proportions(rows, margin=margin, bounds=False)
    worse = scalar_evidence(rows, margin, WORSE_RATIOS, harm=True)
    safe = scalar_evidence(rows, margin, SAFE_RATIOS, harm=False)
    assert evidence.log_e_worse == pytest.approx(worse, abs=1e-9)
    assert evidence.log_e_safe == pytest.approx(safe, abs=1e-9)


def test_cohorts_whose_truths_never_come_do_not_bury_those_that_follow():
    lost = [(500, 0, 500, 500, 0, 500)] * 5
    harmful = [(500, 75, 0, 500, 25, 0)] * 30
    assert late_proportions(lost, bounds=False).log_e_worse == 0.0
    assert late_proportions(lost + harmful, margin=0.02, bounds=False).log_e_worse > ENOUGH


def test_the_decisive_cohorts_are_the_old_ones():
    known, unknown = (500, 75, 0, 500, 25, 0), (500, 30, 400, 500, 10, 400)
    assert decisive_cohorts([known] * 20 + [unknown] * 10, margin=0.02, harm=True) == 20


def test_equal_versions_whose_wrong_answers_are_known_first_show_no_harm():
    young = [(1_000, 50, 950, 1_000, 50, 950)] * 10
    evidence = late_proportions(young, margin=0.02, bounds=False)
    assert (evidence.log_e_worse, evidence.log_e_safe) == (0.0, 0.0)


@pytest.mark.parametrize(
    "row", [(10, 5, 6, 10, 0, 0), (10, 0, 0, 10, 11, 0), (-1, 0, 0, 1, 0, 0), (math.nan,) * 6]
)
def test_counts_that_cannot_be_are_refused(row):
    with pytest.raises(Invalid):
        late_proportions([row])


@st.composite
def known_later(draw):
    """Losses of one arm, a part of each unknown: the sums now, and those of all truths."""
    size = draw(st.integers(1, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.sampled_from([(0.1, 0.1), (0.5, 2.0), (2.0, 5.0), (9.0, 1.0)]))
    rows = random.beta(*shape, size=(size, 4))
    is_unknown = random.random(rows.shape) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    known, full = np.where(is_unknown, 0, rows).mean(axis=1), rows.mean(axis=1)
    now = (size, known.sum(), (known**2).sum(), is_unknown.mean(axis=1).sum())
    return now, (size, full.sum(), (full**2).sum(), 0.0)


@given(known_later(), known_later(), st.sampled_from([0.0, 0.02, -0.02, 0.3]))
@settings(max_examples=examples(300), deadline=None)
def test_of_losses_between_0_and_1_too_later_truths_show_no_less_evidence(arm_c, arm_0, margin):
    seen, later = (
        late_proportions([(*arm_c[when], *arm_0[when])], margin=margin, bounds=False)
        for when in (0, 1)
    )
    assert seen.log_e_worse <= later.log_e_worse + 1e-9
    assert seen.log_e_safe <= later.log_e_safe + 1e-9


LAWS = {
    "|t3|": lambda random, size: abs(random.standard_t(3, size)),
    "Pareto 1.1": lambda random, size: random.pareto(1.1, size),
    "t2 squared": lambda random, size: random.standard_t(2, size) ** 2,
    "0 or 1": lambda random, size: random.random(size) < 0.04,
}


def sums(random, law, size, bound, factor=1.0):
    """By cohort of 200 predictions in the mean."""
    losses = np.minimum(law(random, (size, 200)) * factor, bound) / bound
    there = random.random(losses.shape) < random.uniform(0.1, 0.9, (size, 1))
    kept = np.where(there, losses, 0.0)
    return np.stack(
        [there.sum(axis=1), kept.sum(axis=1), (kept**2).sum(axis=1), np.zeros(size)], axis=1
    )


@pytest.mark.parametrize("law", first_of(LAWS, 2), ids=str)
def test_of_versions_at_the_margin_few_end_either_way_whatever_the_tail(law):
    """150 runs of 60 cohorts; 5 % are promised, and 17 of 150 come in 1 in 1,000."""
    random = np.random.default_rng(5)
    draw = LAWS[law]
    bound = float(np.quantile(draw(random, 20_000), 0.99)) if law != "0 or 1" else 1.0
    means = [np.minimum(draw(random, 400_000) * by, bound).mean() / bound for by in (1.0, 1.3)]
    ends = np.zeros(2, int)
    for _ in range(150):
        rows = np.concatenate(
            [sums(random, draw, 60, bound, 1.3), sums(random, draw, 60, bound)], axis=1
        )
        evidence = late_proportions(rows, margin=means[1] - means[0], bounds=False)
        ends += np.array([evidence.log_e_worse, evidence.log_e_safe]) >= ENOUGH
    assert max(ends) <= 16


def test_losses_that_vary_little_need_a_third_of_the_predictions():
    random = np.random.default_rng(2)
    draw = LAWS["|t3|"]
    rows = np.concatenate([sums(random, draw, 60, 5.8, 1.2), sums(random, draw, 60, 5.8)], axis=1)
    with_squares = late_proportions(rows[:30], margin=0.01, bounds=False)
    without = late_proportions(np.delete(rows, [2, 6], axis=1), margin=0.01, bounds=False)
    assert with_squares.log_e_worse > 1.3 * without.log_e_worse > 0


def scalar_mean_gain(rows, margin, stake, harm):
    """The gain of one bet, prediction by prediction, where all truths are in."""
    gain, seen_n, seen_s = 0.0, 0.0, 0.0
    for losses_c, losses_0 in rows:
        m = (seen_s + 1) / (seen_n + 2)
        seen_n, seen_s = seen_n + len(losses_0), seen_s + sum(losses_0)
        rho = len(losses_c) / (len(losses_c) + len(losses_0))
        if harm:
            scale = min(rho / (m + margin), (1 - rho) / (1 - m))
        else:
            scale = -min(rho / (1 - m - margin), (1 - rho) / m)
        ys = [scale / rho * (x - m - margin) for x in losses_c]
        ys += [-scale / (1 - rho) * (x - m) for x in losses_0]
        assert min(ys) >= -1 - 1e-9
        gain += sum(stake * y + (math.log(1 - stake) + stake) * y * y for y in ys)
    return gain


@pytest.mark.parametrize("harm", [True, False])
def test_the_gains_of_means_are_those_of_independent_scalar_code(harm):
    random = np.random.default_rng(4)
    rows = [(random.beta(1, 4, 30), random.beta(1, 5, 50)) for _ in range(4)]
    table = [[n for x in pair for n in (len(x), x.sum(), (x**2).sum(), 0.0)] for pair in rows]
    counts, squares = late._checked(table)
    gains = late._mean_gains(counts, squares, 0.01, harm=harm).sum(axis=0)
    expected = [scalar_mean_gain(rows, 0.01, stake, harm) for stake in late._MEAN_STAKES]
    assert gains == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    "row", [(10, 4, 4.1, 0, 9, 1, 1, 0), (10, 4, 1.5, 0, 9, 1, 1, 0), (10, 4, 4, 0, 9, 1, 1)]
)
def test_squares_that_cannot_be_are_refused(row):
    with pytest.raises(Invalid):
        late_proportions([row])


def test_more_losses_than_truths_are_refused_from_one_over_the_limit_on():
    assert late_proportions([(10, 4, 6, 10, 0, 0)]).difference == pytest.approx(0.4)
    with pytest.raises(Invalid, match="more losses"):
        late_proportions([(10, 4.001, 6, 10, 0, 0)])
