"""A winner goes out once, over the version that answers now, and waits where it cannot go yet."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from tests.tiers import first_of

from bascule.app import open_endpoints, open_registry, open_rollouts
from bascule.bundle import load
from bascule.endpoints import PlanChanges
from bascule.kinds import KINDS
from bascule.kinds.training import _send_out, _verdict, passes_gates
from bascule.release.rollouts import RolloutRequest
from bascule.settings import load_settings
from bascule.training import CHALLENGE, REFIT, Pipeline, Run, Trained, challenges_of, loop_of


@pytest.fixture(scope="module")
def pushed(packed, tmp_path_factory):
    """A home with three versions of `late`: the first lacks a column that the others know."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(900, 3))
    y = (X @ [1, 2, 0] + rng.normal(size=900) > 0).astype(int)
    folder = tmp_path_factory.mktemp("late")
    registry = open_registry(load_settings(folder, {"BASCULE_HOME": str(folder / "home")}))
    for strength, hidden in ((1.0, 1), (1.0, 2), (0.5, 2)):
        known = X[:400].copy()
        known[:, hidden] = 0
        model = LogisticRegression(C=strength).fit(known, y[:400])
        path = packed("late", model, X[:400], (X[400:], y[400:]), explain=False, outliers=False)
        registry.push(path, by="ada")
    return folder / "home"


@pytest.fixture
def home(pushed, tmp_path):
    shutil.copytree(pushed, tmp_path / "home")
    settings = load_settings(tmp_path, {"BASCULE_HOME": str(tmp_path / "home")})
    return settings, open_registry(settings)


def pipeline(**options):
    return Pipeline(name="late", data="rows.parquet", target="late", fit="train.py:fit", **options)


def judge(settings, registry, number, declared):
    version = registry.resolve(f"late/{number}")
    trained = Trained(load(registry.path(version)), {"rows": {}}, was_known=False)
    return _verdict(settings, registry, version, declared, trained, "loop")


def wins(registry, number, champion):
    body = {"champion": champion, "challenger": f"late/{number}", "look": 1, "wins": True}
    body["sentence"] = f"late/{number} wins over {champion}: it is better"
    version = registry.resolve(f"late/{number}")
    registry.add_statement(version, CHALLENGE, body, at=datetime.now(UTC), by="loop")


def deploy(settings, version, strategy="all"):
    request = RolloutRequest(version=version, endpoint="late", strategy=strategy, reason="a test")
    return open_rollouts(settings).deploy(request, by="ada")


def answers(settings):
    return open_endpoints(settings).endpoint("late").current.plan.current.version


def test_a_verdict_is_a_short_sentence_with_both_figures_and_the_interval(home):
    settings, registry = home
    registry.set_alias("late", "champion", 1, by="ada")
    verdict = judge(settings, registry, 2, pipeline(metric="roc_auc"))
    assert verdict.wins
    start = "late/2 wins over late/1: roc_auc 0."
    assert verdict.sentence.startswith(start)
    assert " on 500 rows, 0." in verdict.sentence
    assert verdict.sentence.endswith(" better at 93.9 %")
    assert len(verdict.sentence) < 100
    assert _send_out(settings, registry, pipeline(), "loop") == "late@champion is late/2 now"
    lost = judge(settings, registry, 3, pipeline(metric="roc_auc", margin=0.0))
    assert not lost.wins
    assert ": roc_auc 0." in lost.sentence


def test_a_winner_that_went_out_is_a_winner_still_when_its_run_goes_on_after_a_kill(home):
    settings, registry = home
    registry.set_alias("late", "champion", 1, by="ada")
    first = judge(settings, registry, 2, pipeline())
    assert _send_out(settings, registry, pipeline(), "loop")
    assert judge(settings, registry, 2, pipeline()) == first
    assert _send_out(settings, registry, pipeline(), "loop") == ""
    assert len(challenges_of(registry, "late")) == 1


def test_the_champion_of_a_rollout_is_the_version_that_it_would_replace(home):
    settings, registry = home
    deploy(settings, "late/1")
    plan = open_endpoints(settings).endpoint("late").current.plan
    deploy(settings, "late/2", "canary")
    assert plan.current.version == "late/1"
    verdict = judge(settings, registry, 3, pipeline(endpoint="late"))
    assert "late/1" in verdict.sentence


def test_a_winner_waits_for_the_end_of_a_rollout_and_then_the_next_look_sends_it_out(home):
    settings, registry = home
    deploy(settings, "late/1")
    begun = deploy(settings, "late/2", "canary").rollout
    wins(registry, 3, "late/1")
    declared = pipeline(endpoint="late", strategy="all")
    sentence = _send_out(settings, registry, declared, "loop")
    assert sentence.startswith("late/3 waits, and the next run or trigger tries again: ")
    assert begun.id in sentence
    assert answers(settings) == "late/1"
    open_rollouts(settings).command(begun.id, "abort", by="ada", reason="for late/3")
    assert "late/3" in _send_out(settings, registry, declared, "loop")
    assert answers(settings) == "late/3"


@pytest.mark.parametrize("strategy", ["", "canary", "shadow"])
def test_the_first_winner_goes_out_at_once_by_any_strategy(home, strategy):
    settings, registry = home
    declared = pipeline(endpoint="late", strategy=strategy)
    wins(registry, 1, "")
    assert "late/1" in _send_out(settings, registry, declared, "loop")
    assert answers(settings) == "late/1"
    assert _send_out(settings, registry, declared, "loop") == ""


@pytest.mark.parametrize("strategy", first_of(["all", "canary"]))
def test_what_was_taken_back_is_not_sent_out_again_by_the_same_verdict(home, strategy):
    settings, registry = home
    deploy(settings, "late/1")
    wins(registry, 2, "late/1")
    declared = pipeline(endpoint="late", strategy=strategy)
    assert "late/2" in _send_out(settings, registry, declared, "loop")
    if strategy == "all":
        open_endpoints(settings).roll_back("late", by="ada", reason="bad")
    else:
        begun = open_rollouts(settings).get("late").rollout
        open_rollouts(settings).command(begun.id, "abort", by="ada", reason="bad")
    assert answers(settings) == "late/1"
    assert _send_out(settings, registry, declared, "loop") == ""
    wins(registry, 3, "late/1")
    assert "late/3" in _send_out(settings, registry, declared, "loop")


def test_an_alias_that_a_person_moved_back_stays_back(home):
    settings, registry = home
    registry.set_alias("late", "champion", 1, by="ada")
    wins(registry, 2, "late/1")
    assert _send_out(settings, registry, pipeline(), "loop") == "late@champion is late/2 now"
    registry.set_alias("late", "champion", 1, by="ada", reason="late/2 is slow")
    assert _send_out(settings, registry, pipeline(), "loop") == ""


def test_a_retired_winner_or_a_deleted_endpoint_fails_no_trigger_and_brings_nothing_back(home):
    settings, registry = home
    declared = pipeline(endpoint="late")
    wins(registry, 1, "")
    deploy(settings, "late/1")
    wins(registry, 2, "late/1")
    registry.retire("late", 2, by="ada", reason="bad")
    assert _send_out(settings, registry, declared, "loop").startswith("late/2 waits")
    open_rollouts(settings).delete_endpoint("late", by="ada", reason="gone")
    assert _send_out(settings, registry, declared, "loop") == ""
    assert not open_endpoints(settings).endpoints()


def test_that_a_version_has_won_approves_nothing(home, tmp_path):
    settings, registry = home
    deploy(settings, "late/1")
    wins(registry, 2, "late/1")
    (tmp_path / "bascule.toml").write_text("[rollouts]\nneeds_approval = true\n")
    guarded = load_settings(tmp_path, {"BASCULE_HOME": str(tmp_path / "home")})
    _send_out(guarded, registry, pipeline(endpoint="late", strategy="all"), "loop")
    assert answers(settings) == "late/1"


@pytest.mark.parametrize(("kind", "content"), [
    ("train", {"file": "p.toml"}), ("trigger", {"on": ["drift"]}),
])  # fmt: skip
def test_rights_are_about_the_model_of_the_pipeline_and_about_all_without_a_name(kind, content):
    known = KINDS[kind]
    assert known.right == "deploy"
    assert known.model_of(known.parse(content)) == "*"
    assert known.model_of(known.parse({**content, "pipeline": "late"})) == "late"


def is_refit_of(registry, number, judged):
    version = registry.resolve(f"late/{number}")
    body = {"judged": f"late/{judged}", "rows": {}}
    registry.add_statement(version, REFIT, body, at=datetime.now(UTC), by="loop")


@pytest.mark.parametrize("endpoint", ["", "late"])
def test_a_winner_goes_out_as_its_refit_and_not_before(home, endpoint):
    settings, registry = home
    if endpoint:
        deploy(settings, "late/1")
    else:
        registry.set_alias("late", "champion", 1, by="ada")
    declared = pipeline(endpoint=endpoint, strategy="all" * bool(endpoint), refit=True)
    wins(registry, 2, "late/1")
    waits = _send_out(settings, registry, declared, "loop")
    assert waits == "late/2 waits until a run has fitted it to all rows"
    is_refit_of(registry, 3, 2)
    assert "late/3" in _send_out(settings, registry, declared, "loop")
    assert _send_out(settings, registry, declared, "loop") == ""  # a run that goes on after a kill
    if endpoint:
        assert answers(settings) == "late/3"
        open_endpoints(settings).roll_back("late", by="ada", reason="bad")
    else:
        assert str(registry.resolve("late@champion")) == "late/3"
        registry.set_alias("late", "champion", 1, by="ada", reason="bad")
    assert _send_out(settings, registry, declared, "loop") == ""  # it stays back


def test_a_challenger_meets_the_version_that_was_judged_where_the_champion_is_its_refit(home):
    settings, registry = home
    wins(registry, 1, "")
    is_refit_of(registry, 3, 1)
    declared = pipeline(refit=True, metric="roc_auc")
    assert "late/3" in _send_out(settings, registry, declared, "loop")
    again = judge(settings, registry, 1, declared)  # killed after its refit went out
    assert again.wins
    verdict = judge(settings, registry, 2, declared)
    assert verdict.sentence.startswith("late/2 wins over late/3: roc_auc 0.")
    assert verdict.sentence.endswith(", with late/3 as it was before its refit (late/1)")
    without = judge(settings, registry, 2, pipeline(metric="roc_auc", margin=0.1))
    assert without == verdict  # the verdict over this champion is kept


def test_a_verdict_names_the_danger_of_feedback_and_the_loop_says_what_helps(home):
    settings, registry = home
    deploy(settings, "late/1")
    declared = pipeline(endpoint="late", changes_outcomes=True)
    verdict = judge(settings, registry, 2, declared)
    danger = "danger: answers change the truths that train and judge, and no row is held back"
    assert verdict.sentence.endswith(f"; {danger}")
    run = Run(
        id="r", pipeline="late", state="done", why="", version="late/2", endpoint="late",
        feedback=danger, sentence="", parameters={}, metrics={}, curves={},
        began_at=datetime.now(UTC), seconds=1.0,
    )  # fmt: skip
    book = open_endpoints(settings)

    def loop(runs):
        return loop_of("late", runs, [], registry, book, open_rollouts(settings).store)

    assert loop([run]).feedback == (
        f"{danger}; bascule endpoints set late --holdback 2 holds some back"
    )
    book.change("late", PlanChanges(holdback_percent=2.0), by="ada", reason="clean rows")
    assert loop([run]).feedback == danger
    assert loop([run]).sentence == "late/1 is the champion, by endpoint late"
    assert loop([]).sentence == "late/1 is the champion, by endpoint late"  # runs of another host


@pytest.mark.parametrize(
    ("criterion", "passes"), [("size <= 100 MB", True), ("size <= 1 KB", False)]
)
def test_a_refit_meets_the_gates_that_ask_no_held_out_rows_and_no_others(home, criterion, passes):
    settings, registry = home
    declared = pipeline(criteria=("accuracy >= 0.9999", criterion))
    version = registry.resolve("late/2")
    assert not passes_gates(settings, registry, version, declared, "loop")
    assert passes_gates(settings, registry, version, declared, "loop", of_form=True) is passes
