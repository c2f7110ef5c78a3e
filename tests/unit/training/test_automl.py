"""A search keeps to its limits, and says what came of each candidate."""

from __future__ import annotations

import pytest

from bascule.core import Invalid, Refused
from bascule.kinds.automl import AUTOML
from bascule.training import Candidate, Outcome, Plan, automl

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
