"""The demo as a user runs it: what its rollouts find is up to the traffic."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_better_version_is_promoted_and_the_worse_and_the_slow_one_are_rolled_back():
    done = subprocess.run(
        [sys.executable, "-m", "bascule.cli", "demo", "--json"],
        capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    better, worse, slow = summary["rollouts"]
    assert [one["state"] for one in (better, worse, slow)] == ["promoted", "aborted", "aborted"]
    assert "of the answers of late/3 were wrong" in worse["sentence"]
    assert "late/4 is slower than late/2" in slow["sentence"]
    assert not any(one["errors"] for one in summary["rollouts"])
