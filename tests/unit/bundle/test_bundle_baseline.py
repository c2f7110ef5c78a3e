from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import bascule
from bascule.bundle.disk.manifest import BASELINE
from bascule.bundle.statements.baseline import MAX_COLUMNS, profile_columns
from bascule.core.digests import canonical_json, sha256_bytes
from bascule.core.errors import Untrusted
from bascule.core.fields import DType, Field


@pytest.fixture(scope="module")
def fitted(iris):
    X, y = iris
    return LogisticRegression(max_iter=500).fit(X, np.array(["a", "b", "c"])[y])


@pytest.fixture
def packed_iris(pack, fitted, iris):
    X, y = iris
    return pack(fitted, X, (X[::2], np.array(["a", "b", "c"])[y[::2]]))


def test_the_training_columns_and_the_answers_are_profiled(packed_iris, iris):
    X = iris[0]
    baseline = packed_iris.baseline
    assert list(baseline.inputs.columns) == ["input.0", "input.1", "input.2", "input.3"]
    for place, column in enumerate(baseline.inputs.columns.values()):
        assert column.rows == 150
        assert column.moments.mean == pytest.approx(X[:, place].mean())
        assert column.quantiles.quantile(0.5) == np.sort(X[:, place])[74]
    answers = packed_iris.predict(X[::2])
    assert list(baseline.answers.columns) == [
        "label", "probabilities.a", "probabilities.b", "probabilities.c"
    ]  # fmt: skip
    assert baseline.answers.columns["probabilities.b"].moments.mean == pytest.approx(
        answers["probabilities"][:, 1].mean()
    )
    counts = baseline.answers.columns["label"].frequent.counts
    assert counts == {label: int((answers["label"] == label).sum()) for label in "abc"}


def test_a_table_is_profiled_by_its_own_names_with_what_is_missing(table_bundle):
    baseline = bascule.load(table_bundle).baseline
    assert list(baseline.inputs.columns) == ["carrier", "airport", "month", "wind", "gust"]
    assert baseline.inputs.columns["carrier"].kind == "text"
    assert 0 < baseline.inputs.columns["wind"].missing < 100


def test_columns_with_known_names_keep_them(pack, iris):
    import pandas as pd

    X, y = iris
    table = pd.DataFrame(X, columns=["sl", "sw", "pl", "pw"])
    bundle = pack(LogisticRegression(max_iter=500).fit(table, y), table)
    assert list(bundle.baseline.inputs.columns) == ["sl", "sw", "pl", "pw"]
    assert bundle.baseline.answers is None


def test_the_baseline_is_sealed_and_the_same_each_time(pack, fitted, iris):
    first, again = (pack(fitted, iris[0]) for _ in range(2))
    assert first.manifest.files[BASELINE] == again.manifest.files[BASELINE]
    assert first.digest == again.digest


def test_a_bundle_can_do_without(pack, fitted, iris):
    bundle = pack(fitted, iris[0], baseline=False)
    assert bundle.baseline is None
    assert BASELINE not in bundle.manifest.files


def test_a_matrix_is_taken_apart_up_to_a_bound():
    def names(width):
        return list(
            profile_columns({"x": np.zeros((2, width))}, (Field("x", DType.FP64, (width,)),))
        )

    assert len(names(MAX_COLUMNS)) == MAX_COLUMNS
    assert names(MAX_COLUMNS + 1) == ["x"]
    images = {"x": np.zeros((2, 3, 4))}
    assert list(profile_columns(images, (Field("x", DType.FP64, (3, 4)),))) == ["x"]


@pytest.mark.parametrize("value", [b"{", b"[]", b'{"inputs": null}', b'{"answers":1,"inputs":1}'])
def test_a_made_up_baseline_is_not_trusted(packed_iris, value):
    (packed_iris.path / BASELINE).write_bytes(value)
    manifest = json.loads((packed_iris.path / "bundle.json").read_bytes())
    manifest["files"][BASELINE] = {"bytes": len(value), "sha256": sha256_bytes(value)}
    (packed_iris.path / "bundle.json").write_bytes(canonical_json(manifest))
    with pytest.raises(Untrusted, match=r"is not a baseline|cannot be read"):
        _ = bascule.load(packed_iris.path).baseline


def test_show_prints_a_line_per_column(table_bundle, monkeypatch, capsys):
    from bascule.cli import main

    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr("sys.argv", ["bascule", "show", "--full", str(table_bundle)])
    with contextlib.suppress(SystemExit):
        main()
    shown = capsys.readouterr().out
    assert "baseline of 400 training rows" in shown
    assert "baseline of 50 answers to held-out rows" in shown
    for said in ("carrier", "AA", "probabilities.True"):
        assert said in shown
