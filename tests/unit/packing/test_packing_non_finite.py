"""A model that answers NaN or infinity to its own rows is refused, unless it declares them."""

import numpy as np
import pytest

import bascule
from bascule.bundle.disk import read_manifest
from bascule.core import Invalid, Refused
from bascule.registry import open_registry

ROWS = np.random.default_rng(0).normal(size=(60, 2))


def regressor(value):
    from sklearn.linear_model import LinearRegression

    model = LinearRegression()
    model.coef_, model.intercept_ = np.array([value, 1.0]), 0.0
    model.n_features_in_ = 2
    return model


def packed(tmp_path, model, **more):
    options = {"train": ROWS, "measure": False, "to": tmp_path / "bundle"}
    return bascule.pack(model, name="odd", **options | more)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("rows", ["train", "test"])
def test_a_model_that_answers_no_finite_number_is_refused(tmp_path, value, rows):
    more = {} if rows == "train" else {"test": (ROWS, ROWS[:, 0])}
    with pytest.raises(Invalid, match=f"60 of 60 rows of {rows}") as refused:
        packed(tmp_path, regressor(value), **more)
    assert "allow_non_finite=True" in refused.value.hint
    assert not (tmp_path / "bundle").exists()


def test_a_declaration_is_kept_in_the_bundle(tmp_path):
    bundle = packed(tmp_path, regressor(np.nan), allow_non_finite=True)
    assert bundle.manifest.allows_non_finite
    assert read_manifest(bundle.path).allows_non_finite


def test_a_model_with_finite_answers_declares_nothing(tmp_path):
    bundle = packed(tmp_path, regressor(1.0))
    assert not bundle.manifest.allows_non_finite
    assert "allows_non_finite" not in bundle.manifest.to_json()


def test_a_registry_refuses_a_bundle_whose_baseline_shows_such_answers(tmp_path, monkeypatch):
    """As an earlier release packed it, which did not look."""
    monkeypatch.setattr("bascule.packing.packing.check_answers", lambda *_: None)
    bundle = packed(tmp_path, regressor(np.nan), test=(ROWS, ROWS[:, 0]))
    registry = open_registry(tmp_path / "home")
    with pytest.raises(Refused, match="NaN or an infinite number in 'prediction'"):
        registry.push(bundle.path, by="ada")
    declared = packed(
        tmp_path, regressor(np.nan), test=(ROWS, ROWS[:, 0]), allow_non_finite=True, overwrite=True
    )
    assert registry.push(declared.path, by="ada").number == 1
