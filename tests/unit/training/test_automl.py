"""A search keeps to its limits, and says what came of each candidate."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest

from bascule.core import Invalid, Refused
from bascule.kinds.automl import AUTOML
from bascule.training import ENGINES, Candidate, Outcome, Plan, automl
from bascule.training.automl import _TimeUp, _within
from bascule.training.engines import Problem, engine_named

FAST = Candidate("linear", 1, 0.80, 0.01, 0.1)
GOOD = Candidate("lgbm", 1, 0.90, 0.02, 0.2)
BEATEN = Candidate("rf", 1, 0.85, 0.50, 3.0)
BEST = Candidate("xgboost", 1, 0.95, 2.00, 0.3, "2 ms is not <= 1 ms")
LEFT = Candidate("extra_tree", 1, problem="no time was left")


def test_the_winner_is_the_best_within_the_limits():
    assert Outcome("roc_auc", [], [BEST, GOOD, FAST, LEFT]).winner is GOOD
    assert Outcome("roc_auc", [], [BEST, LEFT]).winner is None


def test_the_front_has_what_nothing_beats_in_quality_latency_and_size():
    facts = Outcome("roc_auc", [], [BEST, GOOD, BEATEN, FAST, LEFT], 0.89).to_json()
    on_front = [own["kind"] for own in facts["candidates"] if own["on_front"]]
    assert on_front == ["xgboost", "lgbm", "linear"]
    assert [own["kind"] for own in facts["candidates"] if own["is_chosen"]] == ["lgbm"]
    assert facts["chart"].count('class="line c2"') == 4
    assert Outcome("roc_auc", [], [LEFT]).to_json()["chart"] is None


def test_a_smaller_error_is_better():
    small, large = Candidate("lgbm", -1, 1.0, 0.1, 0.1), Candidate("rf", -1, 2.0, 0.1, 0.1)
    assert small.losses < large.losses < LEFT.losses


def test_the_model_is_called_as_the_target_unless_it_has_a_name():
    assert AUTOML.parse({"table": "rows.csv", "target": "late"})["model"] == "late"
    named = AUTOML.parse({"table": "rows.csv", "target": "is late?", "model": "late"})
    assert named["model"] == "late"


@pytest.mark.parametrize(
    "content",
    [
        {"table": "rows.csv"},
        {"table": "rows.csv", "target": "late", "budget_s": 1},
        {"table": "rows.csv", "target": "is late?"},
        {"table": "rows.csv", "target": "late", "limts": []},
        {"table": "rows.csv", "target": "late", "engine": "magic"},
    ],
)
def test_an_input_that_cannot_be_searched_is_refused(content):
    with pytest.raises(Invalid):
        AUTOML.parse(content)


def test_a_caller_of_the_api_deploys_nothing_and_reads_allowed_places(tmp_path):
    content = dict(AUTOML.parse({"table": "rows.csv", "target": "late"}))
    AUTOML.confine(content, [str(tmp_path)], str(tmp_path))
    with pytest.raises(Refused, match=r"table: rows\.csv"):
        AUTOML.confine(content, ["/srv/tables"], str(tmp_path))
    with pytest.raises(Refused, match="deploys nothing"):
        AUTOML.confine({**content, "deploy": "late"}, [str(tmp_path)], str(tmp_path))


def test_a_metric_that_is_not_searched_by_and_a_limit_that_is_none_are_refused(tmp_path):
    with pytest.raises(Invalid, match="no search by 'ece'"):
        automl(Plan(table="rows.csv", target="late", metric="ece"), tmp_path)
    with pytest.raises(Invalid, match="speed"):
        automl(Plan(table="rows.csv", target="late", limits=("speed <= 1",)), tmp_path)


def _stubborn(until_s: float) -> str:
    while time.monotonic() < until_s:
        try:
            sum(range(1_000))
        except Exception:  # as packing does where one of its ways fails
            continue
    return "done"


def test_what_takes_longer_than_its_part_is_cut_also_where_it_catches_errors():
    with pytest.raises(_TimeUp), _within(0.05):
        _stubborn(time.monotonic() + 60)
    with _within(60):
        assert _stubborn(time.monotonic() + 0.1) == "done"


def test_an_engine_that_fails_leaves_the_linear_model(tmp_path, monkeypatch):
    def broken(_problem, _best):
        raise RuntimeError("out of trees")

    monkeypatch.setitem(ENGINES, "flaml", (broken, "math:pi", ""))
    draws = np.random.default_rng(0).normal(size=(200, 2))
    frame = pd.DataFrame({"x": draws[:, 0], "late": (draws.sum(axis=1) > 0).astype(int)})
    frame.to_csv(tmp_path / "rows.csv", index=False)
    told = []
    plan = Plan(table=str(tmp_path / "rows.csv"), target="late", model="late", budget_s=300)
    outcome = automl(plan, tmp_path, told.append)
    assert "the search failed: out of trees" in told
    assert outcome.winner.kind == "linear"


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(
    ("classes", "metric", "split"),
    [(0, "rmse", {}), (2, "roc_auc", {"is_in_time": True}), (3, "accuracy", {"groups": True})],
)
def test_an_engine_finds_estimators_that_beat_chance_the_best_first(name, classes, metric, split):
    draws = np.random.default_rng(0)
    rows = draws.normal(size=(600, 4))
    truth = rows[:, 0] + rows[:, 1]
    if classes:
        truth = np.searchsorted(np.quantile(truth, np.linspace(0, 1, classes + 1)[1:-1]), truth)
    groups = draws.integers(0, 40, 600) if split.get("groups") else None
    problem = Problem(
        rows=rows, truth=truth, classes=classes, metric=metric, groups=groups,
        is_in_time=bool(split.get("is_in_time")), budget_s=8,
    )  # fmt: skip
    best = {}
    engine_named(name)(problem, best)
    assert set(best) <= set(problem.kinds)
    model = next(iter(best.values())).fit(rows[:500], truth[:500])
    chance = 0.0 if not classes else 1 / classes
    assert model.score(rows[500:], truth[500:]) > chance + 0.3
