"""A linear model answers rows that it cannot read, as it answers open ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from typer.testing import CliRunner

import bascule
from bascule.bundle import Encrypted, answer_encrypted, new_client_key
from bascule.cli.commands import app
from bascule.core import Invalid


def packed(tmp_path: Path, *before: Any) -> tuple[Any, pd.DataFrame]:
    X, y = load_iris(return_X_y=True, as_frame=True)
    model = make_pipeline(*before, LogisticRegression(max_iter=500)).fit(X, y)
    return bascule.pack(model, name="iris", train=X, to=tmp_path / "b", measure=False), X


def run(*words: object) -> None:
    done = CliRunner().invoke(app, ["encrypted", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def test_the_files_of_both_sides_carry_the_answers_of_the_model(tmp_path: Path) -> None:
    bundle, X = packed(tmp_path, StandardScaler())
    X.to_parquet(tmp_path / "rows.parquet")
    secret, enc, out = tmp_path / "key", tmp_path / "rows.enc", tmp_path / "margins.enc"
    run("key", secret)
    assert secret.stat().st_mode & 0o077 == 0
    run("encrypt", tmp_path / "rows.parquet", enc, "--key", secret)
    run("answer", bundle.path, enc, out)
    run("decrypt", out, tmp_path / "answers.parquet", "--key", secret)
    answers = pd.read_parquet(tmp_path / "answers.parquet").to_numpy()
    np.testing.assert_allclose(answers, bundle.predict(X)["probabilities"], atol=1e-5)
    other = tmp_path / "other"
    new_client_key(other)
    run("decrypt", out, tmp_path / "noise.parquet", "--key", other)
    noise = pd.read_parquet(tmp_path / "noise.parquet").to_numpy()
    assert np.abs(noise - answers).max() > 0.1, "another key decrypts nothing"


def test_what_is_not_linear_in_its_columns_is_refused(tmp_path: Path) -> None:
    bundle, X = packed(tmp_path, PolynomialFeatures(2))
    with pytest.raises(Invalid, match="linear"):
        answer_encrypted(bundle, Encrypted(0, {name: [] for name in X}))
