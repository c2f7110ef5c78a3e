"""What orchestrators are told of a run that is done."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from bascule_client.training import TrainingRuns


def status_of(result: dict[str, Any]) -> dict[str, Any]:
    job = {"id": "7", "state": "done", "ended_at": "now", "error": None, "result": result}
    client: Any = SimpleNamespace(do=lambda *_words, **_names: job)
    return TrainingRuns(client).follow("7")


def test_a_run_that_goes_on_learning_has_empty_facts_in_place_of_those_of_a_fit():
    status = status_of({"version": "late/2", "rows_seen": 900, "curves": {}})
    assert (status["digest"], status["rows"], status["code"]) == ("", {}, {})
    assert "curves" not in status


def test_a_run_that_was_fitted_keeps_its_facts():
    assert status_of({"digest": "sha256:1"})["digest"] == "sha256:1"
