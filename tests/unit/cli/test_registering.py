"""Finding, comparing, tagging, retiring, collecting and carrying versions, as people type it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def ten_trees(packed) -> Path:
    from sklearn.datasets import load_breast_cancer
    from sklearn.ensemble import GradientBoostingClassifier

    X, y = load_breast_cancer(return_X_y=True)
    model = GradientBoostingClassifier(n_estimators=10, random_state=0).fit(X[:400], y[:400])
    return packed("ten_trees", model, X[:400], (X[400:], y[400:]))


@pytest.fixture
def pushed(call, cancer_bundle) -> Any:
    """`call`, where gb/1 of a hundred trees is registered."""
    assert call("push", str(cancer_bundle)) == (0, "gb/1\n")
    return call


def test_a_version_is_tagged_found_and_untagged(pushed):
    assert pushed("tag", "gb/1", "team=risk", "audited=yes") == (
        0,
        "gb/1 audited=yes team=risk\n",
    )
    code, said = pushed("search", "tag.team", "=", "risk", "--json")
    (found,) = json.loads(said)
    assert (code, found["model"], found["tags"]["audited"]) == (0, "gb", "yes")
    assert "team=risk" in pushed("show", "gb/1")[1]
    assert pushed("tag", "gb/1", "audited", "team", "--unset") == (0, "gb/1 -\n")
    assert "gb/1 team unset (was risk)" in pushed("history", "gb")[1]


def test_a_search_shows_the_figures_that_it_asked_for(pushed):
    pushed("check", "gb/1", "-c", "accuracy >= 0.5")
    code, said = pushed("search", "metric.accuracy >= 0.5")

    assert code == 0
    assert "accuracy" in said.strip().splitlines()[0]
    assert "gb/1" in said
    assert pushed("search", "metric.accuracy < 0.5") == (0, "no version meets that\n")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("search", "metrc.auc > 1"), 2, "did you mean 'metric'"),
        (("tag", "gb/1", "team"), 2, "team=VALUE"),
        (("tag", "gb/1", "team=risk", "--unset"), 2, "--unset"),
        (("retire", "gb", "--reason", "x"), 2, "which version"),
        (("retire", "gb/1"), 2, "for a reason"),
        (("retire", "gb/7", "--reason", "x"), 3, "no version 7"),
        (("gc", "--grace", "soon"), 2, "not a length of time"),
    ],
)
def test_what_cannot_be_done_is_told_with_the_next_step(pushed, arguments, code, told):
    got, said = pushed(*arguments)
    assert got == code
    assert told in said


def test_two_versions_are_compared(pushed, ten_trees):
    assert pushed("push", str(ten_trees)) == (0, "ten_trees/1\n")
    code, said = pushed("diff", "gb/1", "ten_trees/1")

    assert code == 0
    assert "n_estimators" in said
    assert "train.rows" in said
    changes = json.loads(pushed("diff", "gb/1", "ten_trees/1", "--json")[1])["changes"]
    assert {"section": "data", "name": "train.rows", "before": 569, "after": 400} in changes
    assert pushed("diff", "gb/1", "gb/1") == (
        0,
        "gb/1 and gb/1 differ in nothing that is compared\n",
    )


def test_a_retired_version_says_why_it_is_not_to_be_had(pushed, tmp_path):
    assert pushed("retire", "gb/1", "--reason", "leaks the target") == (0, "gb/1 retired\n")

    code, said = pushed("show", "gb/1")
    assert code == 1
    assert "leaks the target" in said
    assert "--undo" in said
    code, said = pushed("gc", "--dry-run", "--grace", "0")
    assert code == 0
    assert "leaks the target" in said
    assert "would give back" in said
    assert list((tmp_path / ".bascule/objects").glob("[0-9a-f]*"))
    assert pushed("gc", "--grace", "0")[0] == 0
    assert not list((tmp_path / ".bascule/objects").glob("[0-9a-f]*"))
    assert pushed("retire", "gb/1", "--undo") == (0, "gb/1 is in use again\n")


def test_a_version_is_written_into_a_file_and_taken_out_of_it(pushed, tmp_path, monkeypatch):
    code, said = pushed("export", "gb/1", "gb.tar", "--json")
    assert code == 0
    assert json.loads(said)["oci_digest"].startswith("sha256:")
    assert pushed("export", "gb/1", "gb.tar")[0] == 4

    monkeypatch.setenv("BASCULE_HOME", str(tmp_path / "other"))
    assert pushed("import", "gb.tar") == (0, "gb/1\n")
    assert json.loads(pushed("search", "--json")[1])[0]["model"] == "gb"
    assert pushed("import", "nothing.tar")[0] == 3
