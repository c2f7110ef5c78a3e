"""The demo as a user runs it: what its rollouts find is up to the traffic."""

import json
import os
import subprocess
import sys

import pytest
from tests.own_environments import files_of


def story(*flags, **environment):
    """What a story says of itself."""
    done = subprocess.run(
        [sys.executable, "-m", "bascule.cli", "demo", *flags, "--json"],
        capture_output=True, text=True, check=False, timeout=900, env=os.environ | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_better_version_is_promoted_and_the_worse_and_the_slow_one_are_rolled_back():
    summary = story()
    better, worse, slow = summary["rollouts"]
    assert [one["state"] for one in (better, worse, slow)] == ["promoted", "aborted", "aborted"]
    assert "of the answers of late/3 were wrong" in worse["sentence"]
    assert "late/4 is slower than late/2" in slow["sentence"]
    assert not any(one["errors"] for one in summary["rollouts"])


@pytest.mark.slow
def test_the_story_of_trust_holds_from_an_explanation_to_the_document() -> None:
    summary = story("--trust")
    assert summary["held"]
    assert summary["refused"]
    assert 0 < summary["copied_rows"] <= 500
    assert summary["erased_rows"] >= 2
    assert summary["left"] == 0


@pytest.mark.slow
def test_the_story_of_devices_holds_from_the_header_to_the_refusals() -> None:
    summary = story("--edge")
    assert summary["held"]
    assert 0 < summary["delta_bytes"] < summary["full_bytes"]
    assert summary["altered"].startswith("corrupted")
    assert summary["failed"].startswith("golden check")


@pytest.mark.slow
def test_the_story_of_the_loop_holds_from_the_drift_to_the_candidate_that_lost() -> None:
    summary = story("--loop")
    assert summary["held"]
    assert summary["why"].startswith("late/1 on ")
    assert summary["rollout"] == "promoted"
    assert "loses to late" in summary["stopped"]
    assert summary["area_after"] > summary["area_before"]


@pytest.mark.slow
def test_the_story_of_the_chat_model_holds_from_the_first_piece_to_the_better_prompt() -> None:
    summary = story("--chat", PYTHONPATH=str(files_of("smollm2")))
    assert summary["held"]
    assert [attempt["state"] for attempt in summary["attempts"]] == ["aborted", "promoted"]
