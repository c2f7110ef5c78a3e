"""Sequential tests keep their promise at every look, and find harm as soon as a fixed test."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats
from tests.tiers import examples, first_of

from bascule.core import Invalid
from bascule.stats import planning
from bascule.stats.planning import log_evidence, simulated_counts
from bascule.stats.sequential import (
    SAFE_RATIOS,
    WORSE_RATIOS,
    Beyond,
    culprits,
    mcnemar,
    quantiles,
    rate_log_factors,
    two_proportions,
)

CERTAIN = math.log(20)


def binomial(k, n, p):
    return math.comb(n, int(k)) * p**k * (1 - p) ** (n - k)


def expected_factor(n_c, p_c, n_0, p_0, q, margin, ratios):
    """The exact expectation of each bet over all counts of one interval."""
    counts = np.array(
        [(n_c, e_c, n_0, e_0) for e_c in range(n_c + 1) for e_0 in range(n_0 + 1)], float
    )
    chances = np.array(
        [binomial(e_c, n_c, p_c) * binomial(e_0, n_0, p_0) for _, e_c, _, e_0 in counts]
    )
    gains = rate_log_factors(counts, np.full(len(counts), q), margin, ratios)
    return (chances[:, None] * np.exp(gains)).sum(axis=0)


rates = st.floats(0, 1).map(lambda one: round(one, 6))


@given(
    n_c=st.integers(1, 12), n_0=st.integers(1, 12), p_0=rates,
    margin=st.floats(-0.9, 0.9), q=st.floats(0.001, 0.999), better=rates,
)  # fmt: skip
@settings(max_examples=examples(300), deadline=None)
def test_no_bet_gains_on_average_while_its_hypothesis_is_true(n_c, n_0, p_0, margin, q, better):
    boundary = min(max(p_0 + margin, 0.0), 1.0)
    if margin >= 0 or p_0 + margin >= 0:
        assert (
            expected_factor(n_c, boundary * better, n_0, p_0, q, margin, WORSE_RATIOS) <= 1 + 1e-9
        ).all()
    if margin <= 0 or p_0 + margin <= 1:
        worse = boundary + (1 - boundary) * better
        assert (expected_factor(n_c, worse, n_0, p_0, q, margin, SAFE_RATIOS) <= 1 + 1e-9).all()


def test_the_log_of_a_bet_is_what_its_factors_say_one_by_one():
    n_c, e_c, n_0, e_0, q, d, r = 30, 4, 90, 3, 0.02, 0.01, 2.0
    rho = n_c / (n_c + n_0)
    stake = rho * (1 - rho) * (r - 1) / (1 + rho * (r - 1)) / (1 - q)
    product = 1.0
    for event in [1] * e_c + [0] * (n_c - e_c):
        product *= 1 + stake / rho * (event - q - d)
    for event in [1] * e_0 + [0] * (n_0 - e_0):
        product *= 1 - stake / (1 - rho) * (event - q)
    found = rate_log_factors(np.array([n_c, e_c, n_0, e_0], float), np.array(q), d, np.array([r]))
    assert float(found[0]) == pytest.approx(math.log(product), abs=1e-12)


@pytest.mark.parametrize("share", [0.05, 0.5])
@pytest.mark.parametrize("rate", [0.002, 0.2])
def test_a_good_version_is_rolled_back_at_most_one_time_in_twenty_however_often_one_looks(
    share, rate
):
    random = np.random.default_rng(7)
    counts = simulated_counts(rate, rate, share, (400, 300), 100, random)
    false = (log_evidence(counts, 0.0, WORSE_RATIOS) >= CERTAIN).any(axis=1).sum()
    assert stats.binomtest(int(false), 400, 0.05, alternative="greater").pvalue > 0.001


def test_rates_that_double_while_the_share_grows_are_no_harm():
    random = np.random.default_rng(8)
    stages = [
        simulated_counts(rate, rate, share, (400, 100), 100, random)
        for rate, share in ((0.01, 0.05), (0.02, 0.2), (0.04, 0.5))
    ]
    counts = np.concatenate(stages, axis=1)
    false = (log_evidence(counts, 0.0, WORSE_RATIOS) >= CERTAIN).any(axis=1).sum()
    assert stats.binomtest(int(false), 400, 0.05, alternative="greater").pvalue > 0.001
    pooled = counts.sum(axis=(0, 1))
    assert pooled[1] / pooled[0] > 1.2 * pooled[3] / pooled[2], "pooling would see harm"


def test_a_version_at_the_margin_is_promoted_at_most_one_time_in_twenty():
    random = np.random.default_rng(9)
    counts = simulated_counts(0.01, 0.02, 0.2, (400, 300), 100, random)
    false = (log_evidence(counts, 0.01, SAFE_RATIOS) >= CERTAIN).any(axis=1).sum()
    assert stats.binomtest(int(false), 400, 0.05, alternative="greater").pvalue > 0.001


def test_a_repeated_fixed_test_errs_as_armitage_found():
    """Armitage, McPherson and Rowe 1969, table 2: .1417 after 5 looks and .2479 after 20."""
    random = np.random.default_rng(10)
    walks = np.cumsum(random.standard_normal((200_000, 20)), axis=1) / np.sqrt(np.arange(1, 21))
    beyond = np.abs(walks) >= NormalDist().inv_cdf(0.975)
    assert beyond[:, :5].any(axis=1).mean() == pytest.approx(0.1417, abs=0.003)
    assert beyond.any(axis=1).mean() == pytest.approx(0.2479, abs=0.004)


@pytest.mark.parametrize(
    ("share", "rate", "harm", "most"),
    first_of([(0.05, 0.002, 0.01, 8_700), (0.2, 0.01, 0.01, 6_950), (0.5, 0.2, 0.02, 15_400)]),
)
def test_harm_is_found_about_as_soon_as_by_a_fixed_test(share, rate, harm, most):
    found = planning.requests_to_roll_back(rate, harm, share=share, limit=30_000, runs=1_500)
    assert found.median_requests is not None
    assert found.median_requests <= most
    fixed = fixed_test_requests(rate, harm, share)
    assert found.median_requests <= 1.4 * fixed * 1.05  # two standard errors of the median
    assert found.exposed_requests == round(found.median_requests * share)


def fixed_test_requests(rate, harm, share):
    """Requests of a one-sided z-test at 5 % with 80 % power (Fleiss 1981, chapter 3)."""
    normal = NormalDist()
    pooled = rate + share * harm
    null = math.sqrt(pooled * (1 - pooled) * (1 / share + 1 / (1 - share)))
    worse = rate + harm
    alternative = math.sqrt(worse * (1 - worse) / share + rate * (1 - rate) / (1 - share))
    reach = normal.inv_cdf(0.95) * null + normal.inv_cdf(0.8) * alternative
    return (reach / harm) ** 2


def test_what_cannot_be_found_is_known_before():
    found = planning.requests_to_roll_back(0.05, 0.005, share=0.05)
    assert found.median_requests is None
    assert found.most_requests is None
    assert found.power < 0.3


def test_an_equal_version_is_promoted_as_soon_as_the_margin_allows():
    near = planning.requests_to_promote(0.01, share=0.2, margin=0.005)
    far = planning.requests_to_promote(0.01, share=0.2, margin=0.01)
    assert far.median_requests == pytest.approx(6_200, rel=0.15)
    assert near.median_requests == pytest.approx(21_050, rel=0.15)


def test_the_confidence_sequence_covers_the_difference_at_every_look():
    random = np.random.default_rng(11)
    missed = 0
    for _ in range(60):
        counts = simulated_counts(0.1, 0.13, 0.3, (40,), 100, random)
        looks = [two_proportions(counts[:n], alpha=0.05) for n in (5, 10, 20, 40)]
        missed += any(not one.lower <= 0.03 <= one.upper for one in looks)
        assert looks[-1].lower <= looks[-1].difference <= looks[-1].upper
    assert missed <= 12  # 10 % of 60, with three standard errors


def test_the_confidence_sequence_and_the_evidence_agree():
    counts = np.tile([20, 3, 80, 2], (30, 1))
    at_zero = two_proportions(counts, margin=0.0)
    assert at_zero.log_e_worse >= CERTAIN
    assert at_zero.lower > 0
    just_below = two_proportions(counts, margin=at_zero.lower - 1e-4)
    just_above = two_proportions(counts, margin=at_zero.lower + 1e-3)
    assert just_below.log_e_worse >= CERTAIN > just_above.log_e_worse


def test_without_requests_nothing_is_known():
    found = two_proportions([])
    assert (found.log_e_worse, found.log_e_safe) == (0, 0)
    assert (found.lower, found.upper) == (-1, 1)


def test_an_interval_with_one_arm_only_says_nothing():
    assert two_proportions([[0, 0, 100, 50]]) == two_proportions([])
    assert two_proportions([[100, 50, 0, 0]]) == two_proportions([])


def test_pairs_that_differ_are_a_fair_coin_without_harm():
    """Exactly: over all counts of 12 pairs, at the boundary of the hypothesis."""
    for margin in (0.0, 0.1):
        worse, better, pairs = 0.2 + margin, 0.2, 12
        expected = {"log_e_worse": 0.0, "log_e_safe": 0.0}
        for lost in range(pairs + 1):
            for won in range(pairs + 1 - lost):
                chance = stats.multinomial.pmf(
                    [lost, won, pairs - lost - won], pairs, [worse, better, 1 - worse - better]
                )
                found = mcnemar(lost, won, pairs, margin=margin)
                for name in expected:
                    expected[name] += chance * math.exp(getattr(found, name))
        assert all(one <= 1 + 1e-9 for one in expected.values())


def test_pairs_that_do_not_differ_count_only_with_a_margin():
    assert mcnemar(30, 10, 40).log_e_worse == mcnemar(30, 10, 4_000).log_e_worse
    assert mcnemar(30, 10, 4_000, margin=0.02).log_e_safe > CERTAIN
    assert mcnemar(30, 10, 40).log_e_worse >= math.log(20)


def test_a_change_of_the_tail_is_found_by_some_threshold():
    random = np.random.default_rng(14)
    current = random.lognormal(0, 0.4, (80, 80))
    candidate = random.lognormal(0, 0.4, (80, 20))
    candidate = np.where(random.random(candidate.shape) < 0.03, candidate * 8, candidate)
    shares = (0.5, 0.1, 0.01, 0.001)
    limits = np.quantile(random.lognormal(0, 0.4, 100_000), 1 - np.array(shares))
    slower = [
        np.stack(
            [
                np.full(80, 20),
                (candidate > limit).sum(1),
                np.full(80, 80),
                (current > limit).sum(1),
            ],
            1,
        ).astype(float)
        for limit in limits
    ]
    harm = [Beyond(share, [counts]) for share, counts in zip(shares, slower, strict=True)]
    evidence, worst, least = quantiles(harm, harm[:1])
    assert evidence.log_e_worse >= CERTAIN
    assert (worst, least) == (int(np.argmax([beyond.log_e(proves=False) for beyond in harm])), 0)
    assert worst >= 2
    assert harm[0].log_e(proves=False) < CERTAIN


def test_strata_with_their_own_rates_and_shares_are_compared_within_themselves():
    """The candidate has most of the requests that are slow for everybody."""
    random = np.random.default_rng(15)

    def counts(n_c, n_0, rate):
        events = random.binomial(n_c, rate, 100), random.binomial(n_0, rate, 100)
        full = np.full(100, n_c), np.full(100, n_0)
        return np.stack([full[0], events[0], full[1], events[1]], 1).astype(float)

    strata = [counts(80, 20, 0.5), counts(20, 80, 0.05)]
    assert two_proportions(sum(strata)).log_e_worse >= CERTAIN
    assert Beyond(0.05, strata).log_e(proves=False) < 0
    of_candidate, of_current = Beyond(0.05, strata).rates()
    assert of_current == pytest.approx(of_candidate, abs=0.03)


def test_harm_in_a_small_stratum_is_not_lost_in_a_large_one_without_harm():
    large = np.tile([200.0, 8, 200, 10], (400, 1))
    small = np.tile([50.0, 10, 50, 2], (20, 1))
    each = [Beyond(0.05, [one]).log_e(proves=False) for one in (small, large)]
    both = Beyond(0.05, [small, large])
    assert each[0] > CERTAIN > 0 > each[1]
    assert both.log_e(proves=False) == pytest.approx(each[0] - math.log(4), abs=0.7)


def test_a_guardrail_is_named_only_by_its_own_evidence():
    assert culprits([math.log(61), math.log(59), 0.0], 0.05) == [0]
    assert culprits([], 0.05) == []


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: two_proportions([[10, 11, 10, 1]]), "more events than requests"),
        (lambda: two_proportions([[10, -1, 10, 1]]), "0 or more"),
        (lambda: two_proportions([[10, 1, 10, 1]], margin=1.0), "margin must be"),
        (lambda: two_proportions([[10, 1, 10, 1]], alpha=0.0), "alpha must be"),
        (lambda: mcnemar(6, 5, 10), "of 10 pairs"),
        (lambda: planning.requests_to_roll_back(0.9, 0.2, share=0.5), "rate with harm"),
    ],
)
def test_impossible_numbers_are_refused(call, words):
    with pytest.raises(Invalid, match=words):
        call()


def test_the_grid_is_that_of_the_stored_decisions():
    assert WORSE_RATIOS.tolist() == [1.08, 1.25, 1.6, 2.5, 6.0, 20.0]
    assert len(SAFE_RATIOS) == 11
