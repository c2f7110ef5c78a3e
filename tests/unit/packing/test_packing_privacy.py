"""What is claimed of the privacy of a training is computed again, asked for by gates, audited."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

import bascule
from bascule.bundle.statements import MEMBERSHIP_KIND, PRIVACY_KIND, PrivacyClaim
from bascule.core import Invalid
from bascule.release import audit_membership

TRAINING = {"noise_multiplier": 1.5, "sample_rate": 0.04, "steps": 2_250, "delta": 1e-5}


def noise(rows: int, seed: int) -> tuple[Any, Any]:
    """Rows whose labels are chance: what a model knows of them it has learned by heart."""
    draw = np.random.default_rng(seed)
    return draw.normal(size=(rows, 4)), draw.integers(0, 2, rows)


def packed(model: Any, train: Any, to: Path, **options: Any) -> Any:
    return bascule.pack(model.fit(*train), name="m", train=train, to=to, measure=False, **options)


def test_both_accountants_give_the_numbers_of_opacus_own_tests(tmp_path: Path) -> None:
    train = noise(200, 0)
    bundle = packed(LogisticRegression(), train, tmp_path / "b", privacy=TRAINING)
    claim = PrivacyClaim.from_json(bundle.statements(PRIVACY_KIND)[-1].body)
    assert claim.epsilon == pytest.approx(6.777, abs=0.01)
    assert claim.epsilon_rdp == pytest.approx(7.329, abs=2e-3)
    report = bascule.check(bundle, ["epsilon <= 7", "epsilon <= 3"])
    assert [verdict.passed for verdict in report.results] == [True, False]


def test_a_model_that_learned_by_heart_is_told_and_refutes_its_claim(tmp_path: Path) -> None:
    members, others = noise(600, 1), noise(600, 2)
    bundle = packed(
        DecisionTreeClassifier(random_state=0), members, tmp_path / "b",
        privacy=TRAINING | {"noise_multiplier": 5.0, "steps": 100},
    )  # fmt: skip
    result = audit_membership(bundle, members, others, delta=None, confidence=0.95, seed=0)
    assert result.delta == TRAINING["delta"]
    assert result.epsilon_bound > 0.3
    assert bascule.check(bundle, ["epsilon <= 7"]).passed
    bundle.add_statement(MEMBERSHIP_KIND, result.to_json(), at=datetime.now(UTC), by="test")
    refuted, bounded = bascule.check(bundle, ["epsilon <= 7", "membership_epsilon <= 0.1"]).results
    assert not refuted.passed
    assert "refuted" in str(refuted)
    assert not bounded.passed


def test_a_model_that_knows_no_row_shows_no_epsilon(tmp_path: Path) -> None:
    members, others = noise(600, 1), noise(600, 2)
    bundle = packed(LogisticRegression(), members, tmp_path / "b")
    result = audit_membership(bundle, members, others, delta=1e-5, confidence=0.95, seed=0)
    assert result.epsilon_bound < 0.5
    report = bascule.check(bundle, ["epsilon <= 3"])
    assert not report.passed
    assert "no privacy is claimed" in str(report.results[0])
    with pytest.raises(Invalid, match="too few"):
        audit_membership(bundle, noise(20, 1), noise(20, 2), delta=None, confidence=0.95, seed=0)


@pytest.mark.parametrize(
    ("privacy", "words"),
    [
        ({"noise_multiplier": 1.0}, "sample_rate"),
        (TRAINING | {"sample_rate": 2}, "with delta"),
        (TRAINING | {"steps": "many"}, "invalid literal|could not convert"),
        (TRAINING | {"noise_multiplier": 0.01, "sample_rate": 1}, "so little noise"),
        ("a promise", "too many values"),
    ],
)
def test_what_is_no_training_is_refused(tmp_path: Path, privacy: Any, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        packed(LogisticRegression(), noise(50, 0), tmp_path / "b", privacy=privacy)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Secure RNG turned off", "ignore:Full backward hook")
def test_a_training_by_opacus_is_claimed_from_its_engine_and_its_audit_is_below(
    tmp_path: Path,
) -> None:
    import torch
    from opacus import PrivacyEngine
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    is_member = np.random.default_rng(0).random(len(X)) < 0.5
    network = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    data = torch.utils.data.TensorDataset(
        torch.as_tensor(X[is_member]), torch.as_tensor(y[is_member])
    )
    engine = PrivacyEngine(accountant="prv")
    private, optimiser, loader = engine.make_private(
        module=network, optimizer=torch.optim.SGD(network.parameters(), 0.5),
        data_loader=torch.utils.data.DataLoader(data, batch_size=64),
        noise_multiplier=1.0, max_grad_norm=1.0,
    )  # fmt: skip
    for _ in range(20):
        for rows, labels in loader:
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(private(rows), labels).backward()
            optimiser.step()

    class Probabilities(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, rows: Any) -> Any:
            return torch.softmax(self.network(rows), -1)

    from bascule.packing.statements import claimed_privacy

    claim = claimed_privacy((engine, 1e-4))
    assert claim.epsilon == pytest.approx(engine.get_epsilon(1e-4), rel=0.02)
    with torch.no_grad():
        answers = Probabilities()(torch.as_tensor(X)).numpy()
    from bascule.stats import epsilon_bound

    scores = np.log(answers[np.arange(len(y)), y])
    bound = epsilon_bound(is_member, scores, delta=1e-4)
    assert bound <= claim.epsilon
