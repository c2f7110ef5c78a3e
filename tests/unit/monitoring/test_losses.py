"""Losses of predictions: of classes and numbers, in bins of the prediction, from a bundle."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression
from tests.tiers import first_of

import bascule
from bascule.monitoring.drift.concept import Losses, bin_count, source_of


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(0)
    X = random.normal(size=(2_000, 3))
    return X, X @ [1.0, -1.0, 0.5] + random.normal(0, 0.5, 2_000)


def packed(folder, model, X, y, test=slice(1_000, None)):
    return bascule.pack(
        model.fit(X[:1_000], y[:1_000]), name="m", train=(X[:1_000], y[:1_000]),
        test=(X[test], y[test]), to=folder / "m.bundle", measure=False,
    )  # fmt: skip


def test_an_error_of_a_number_is_a_loss_in_units_of_the_held_out_errors(tmp_path, rows):
    X, y = rows
    profile, losses = source_of(packed(tmp_path, LinearRegression(), X, y))
    assert profile.columns["truth"].rows == 1_000
    assert losses.scale == pytest.approx(2 * 0.5, rel=0.1)
    assert losses.mean == pytest.approx(0.8 * 0.5 / losses.scale, rel=0.1)
    assert len(losses.bounds) == 2  # of 400 rows or more
    assert all(losses.mean < bound < 0.6 for bound in losses.bounds)
    bins, lost = losses.of({"prediction": np.array([[-9.0], [9.0]])}, np.array([-9.5, 99.0]))
    assert bins.tolist() == [0, 1]
    assert lost == pytest.approx([0.5 / losses.scale, 1.0])


@pytest.mark.parametrize("kind", first_of([int, bool, str]))
def test_a_wrong_class_is_a_loss_of_1_whatever_its_type(tmp_path, rows, kind):
    X, y = rows
    labels = np.array([kind(one) for one in (y > 0).astype(int)])
    bundle = packed(tmp_path, LogisticRegression(), X, labels)
    _, losses = source_of(bundle)
    answered = dict(bundle.predict({bundle.signature.inputs[0].name: X[1_000:]}))
    right = answered["label"] == labels[1_000:]
    # A ledger has the truths of numbers as numbers, and those of texts as texts.
    truth = labels[1_000:].astype(object if kind is str else float)
    assert losses.mean == pytest.approx(1 - right.mean())
    bins, lost = losses.of(answered, truth)
    np.testing.assert_array_equal(lost, ~right)
    assert np.bincount(bins, lost)[0] > np.bincount(bins, lost)[-1]  # the confident ones err less


def test_few_held_out_rows_bound_no_loss(tmp_path, rows):
    X, y = rows
    bundle = packed(tmp_path, LinearRegression(), X, y, slice(1_000, 1_099))
    profile, losses = source_of(bundle)
    assert profile is not None
    assert losses is None


@pytest.mark.parametrize(("rows", "bins"), [(100, 1), (799, 1), (800, 2), (2_000, 5), (9_999, 5)])
def test_the_prediction_has_up_to_five_bins_of_400_held_out_rows(rows, bins):
    assert bin_count(rows) == bins


def test_without_probabilities_there_is_one_bin():
    losses = Losses("classification", 1.0, np.zeros(0), np.array([0.1]), 0.05)
    bins, lost = losses.of({"label": np.array(["a", "b"], object)}, np.array(["a", "c"], object))
    assert (bins.tolist(), lost.tolist()) == ([0, 0], [0, 1])
