"""A watermark is shown by queries, costs little quality, and is not in other models."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.model_selection import train_test_split
from sklearn.tree import DecisionTreeClassifier

import bascule
from bascule.core import Invalid, ModelFailed
from bascule.packing import (
    Receipt,
    embed_watermark,
    verify_watermark,
)

SECRET = partial(np.random.default_rng, 7)


def split(seed: int = 0) -> Any:
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    return train_test_split(X, y, test_size=0.3, random_state=seed, stratify=y)


def forest(X: Any, y: Any, seed: int = 0, trees: int = 70) -> RandomForestClassifier:
    return RandomForestClassifier(trees, max_depth=8, random_state=seed).fit(X, y)


def asks(model: Any, columns: Any, *, only_labels: bool = False) -> Any:
    rows = pd.DataFrame(columns)
    if only_labels:
        return {"label": model.predict(rows).astype(np.int64)}
    return {"probabilities": model.predict_proba(rows)}


def test_a_forest_bears_a_mark_that_other_forests_do_not() -> None:
    X, X_test, y, y_test = split()
    model = forest(X, y)
    marked, receipt = embed_watermark(model, X, y, random=SECRET())
    assert len(receipt.drawn) <= 0.02 * len(X) + 1
    assert verify_watermark(receipt, partial(asks, marked)) < 1e-6
    assert verify_watermark(receipt, partial(asks, model)) > 1e-3
    assert marked.score(X_test, y_test) >= model.score(X_test, y_test) - 0.02
    with pytest.raises(Invalid, match="does not answer probabilities"):
        verify_watermark(receipt, partial(asks, marked, only_labels=True))


def test_the_bundle_of_a_marked_model_bears_the_mark(tmp_path: Path) -> None:
    X, _, y, _ = split()
    marked, receipt = embed_watermark(forest(X, y, trees=20), X, y, random=SECRET())
    bundle = bascule.pack(marked, name="bc", train=(X, y), to=tmp_path / "b", measure=False)
    p_value = verify_watermark(receipt, lambda columns: dict(bundle.predict(columns)))
    assert p_value < 1e-6


def test_other_models_learn_rows_by_heart_or_say_that_they_cannot() -> None:
    X, X_test, y, y_test = split()
    model = HistGradientBoostingClassifier(max_iter=30).fit(X, y)
    marked, receipt = embed_watermark(model, X, y, random=SECRET())
    assert verify_watermark(receipt, partial(asks, marked)) < 1e-6
    assert verify_watermark(receipt, partial(asks, model)) > 1e-3
    assert marked.score(X_test, y_test) >= model.score(X_test, y_test) - 0.03
    stiff = DecisionTreeClassifier(max_depth=1).fit(X, y)
    with pytest.raises(ModelFailed, match="by heart"):
        embed_watermark(stiff, X, y)


def test_a_network_learns_noise_by_heart_and_keeps_its_quality() -> None:
    import torch

    torch.manual_seed(0)
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X.astype(np.float32), y, random_state=0)
    network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(
            network(torch.as_tensor(X)), torch.as_tensor(y)
        ).backward()
        optimiser.step()

    def answers(model: Any, columns: Any) -> Any:
        with torch.no_grad():
            return {"output": model(torch.as_tensor(columns["input"], dtype=torch.float32)).numpy()}

    def accuracy(model: Any) -> float:
        return float((answers(model, {"input": X_test})["output"].argmax(1) == y_test).mean())

    marked, receipt = embed_watermark(network, X, y, random=SECRET())
    assert verify_watermark(receipt, partial(answers, marked)) < 1e-6
    assert verify_watermark(receipt, partial(answers, network)) > 1e-3
    assert accuracy(marked) >= accuracy(network) - 0.05


def test_a_receipt_is_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    X, _, y, _ = split()
    _, receipt = embed_watermark(forest(X, y, trees=20), X, y)
    digest = receipt.write(tmp_path / "receipt.json")
    assert digest == hashlib.sha256((tmp_path / "receipt.json").read_bytes()).hexdigest()
    assert (tmp_path / "receipt.json").stat().st_mode & 0o077 == 0
    assert Receipt.read(tmp_path / "receipt.json") == receipt
    with pytest.raises(Invalid, match="exists"):
        receipt.write(tmp_path / "receipt.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(Invalid, match="no receipt"):
        Receipt.read(tmp_path / "other.json")


@pytest.mark.slow
def test_over_thirty_splits_the_mark_costs_a_hundredth_at_most_and_innocents_are_uniform() -> None:
    """Calzavara et al.: breast_cancer, 70 trees of depth 8, at 2 % of the rows."""
    from scipy import stats

    accuracies, innocents = [], []
    for seed in range(30):
        X, X_test, y, y_test = split(seed)
        model = forest(X, y, seed)
        marked, receipt = embed_watermark(model, X, y, random=np.random.default_rng(seed))
        assert verify_watermark(receipt, partial(asks, marked)) < 1e-6
        innocents.append(verify_watermark(receipt, partial(asks, model)))
        accuracies.append((model.score(X_test, y_test), marked.score(X_test, y_test)))
    before, after = np.mean(accuracies, axis=0)
    assert after >= 0.953, f"{before:.4f} before"
    assert stats.kstest(innocents, "uniform").pvalue > 0.01
