"""`bascule optimize`: a smaller version with lineage to its parent, or exit code 1."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingClassifier

import bascule


@pytest.fixture
def pushed(run, tmp_path):
    random = np.random.default_rng(0)
    X = random.standard_normal((1_400, 4))
    y = (X[:, 0] + X[:, 1] > 0).astype(int)
    model = GradientBoostingClassifier(n_estimators=40, random_state=0).fit(X[:400], y[:400])
    bundle = bascule.pack(
        model, name="late", train=(X[:400], y[:400]), test=(X[400:], y[400:]),
        to=tmp_path / "late.bundle", measure=False, explain=False,
    )  # fmt: skip
    bascule.push(bundle.path)


@pytest.mark.slow
@pytest.mark.usefixtures("pushed")
def test_the_chosen_model_is_a_version_with_lineage_to_its_parent(run, tmp_path):
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "camera.toml").write_text(
        'budgets = ["size <= 1 MB"]\nlatency_factor = 4\n'
    )
    code, out, messages = run(
        "optimize", "late/1", "--device", "camera", "--budget", "accuracy >= parent - 0.05",
        "--trials", "3", "--chart", "front.svg",
    )  # fmt: skip
    assert code == 0, messages
    assert "late/2 is" in out
    assert "estimated" in out
    assert (tmp_path / "front.svg").read_text().startswith("<svg")
    _, card, _ = run("card", "late/2")
    assert "late/1, made smaller for camera" in card
    assert "bundle parent" in card


@pytest.mark.slow
@pytest.mark.usefixtures("pushed")
def test_a_budget_that_no_model_meets_ends_with_exit_code_1_and_no_version(run):
    budget = ("--budget", "size <= 0.0001 MB")
    code, out, _ = run("optimize", "late/1", *budget, "--trials", "1", "--json")
    assert code == 1
    assert json.loads(out)["version"] is None
    _, models, _ = run("models", "--json")
    assert json.loads(models)[0]["versions"] == 1
