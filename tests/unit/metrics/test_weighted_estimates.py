"""Rows that were chosen with unequal probabilities: weighted, a measure is that of all rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bascule.metrics import Labelled, estimate

ROWS = 4_000


def population(seed=0):
    """Answers of two classes; every tenth row is uncertain, and then half of them are wrong."""
    random = np.random.default_rng(seed)
    uncertain = random.random(ROWS) < 0.1
    truth = random.integers(0, 2, ROWS)
    wrong = random.random(ROWS) < np.where(uncertain, 0.5, 0.04)
    answers = np.where(wrong, 1 - truth, truth)
    sure = np.where(uncertain, 0.55, 0.95)[:, None]
    chances = np.where(answers[:, None] == np.arange(2), sure, 1 - sure)
    return Labelled("classification", truth, answers, (0, 1), chances), uncertain


def reviewed(rows, uncertain, random):
    """As reviews have them: uncertain ones always, the others one in twenty."""
    probability = np.where(uncertain, 1.0, 0.05)
    chosen = random.random(len(rows)) < probability
    return replace(rows, weights=1 / probability).take(chosen)


@pytest.mark.parametrize("metric", ["accuracy", "precision", "recall", "f1", "auc", "brier"])
def test_weighted_measures_of_reviews_are_unbiased_and_plain_ones_are_not(metric):
    rows, uncertain = population()
    of_all = estimate(metric, rows).value
    random = np.random.default_rng(1)
    samples = [reviewed(rows, uncertain, random) for _ in range(50)]
    weighted = [estimate(metric, sample) for sample in samples]
    plain = [estimate(metric, replace(sample, weights=None)).value for sample in samples]
    values = np.array([one.value for one in weighted])
    error = values.std() / np.sqrt(len(values))
    assert abs(values.mean() - of_all) < 4 * error + 0.002
    assert abs(np.mean(plain) - of_all) > 10 * np.std(plain) / np.sqrt(len(plain))
    # And the standard error is the spread over samples.
    assert 0.75 < np.mean([one.error for one in weighted]) / values.std() < 1.35


def test_equal_weights_are_no_weights():
    rows, _ = population()
    same = replace(rows, weights=np.full(len(rows), 3.0))
    assert estimate("accuracy", same) == estimate("accuracy", rows)


@pytest.mark.slow
def test_intervals_of_weighted_accuracy_cover():
    rows, uncertain = population()
    of_all = estimate("accuracy", rows).value
    random = np.random.default_rng(2)
    found = [estimate("accuracy", reviewed(rows, uncertain, random)) for _ in range(1_000)]
    covered = np.mean([one.lower <= of_all <= one.upper for one in found])
    assert covered > 0.93


def test_what_cannot_be_weighted_says_so():
    rows, uncertain = population()
    sample = reviewed(rows, uncertain, np.random.default_rng(3))
    found = estimate("average_precision", sample)
    assert found.value is None
    assert found.note == "it is not measured on reviewed rows"
