"""What a reason for skips claims of this machine is true; a reason that has gone is taken out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.skips import REASONS

TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", REASONS)
def test_a_reason_to_skip_claims_what_is_true_of_this_machine(name):
    assert REASONS[name].claimed() == REASONS[name].is_true(), REASONS[name].text


@pytest.mark.parametrize("name", REASONS)
def test_a_reason_to_skip_is_given_by_a_test(name):
    assert any(f'skip("{name}")' in file.read_text() for file in TESTS.rglob("test_*.py"))


def test_a_skip_for_another_reason_fails(pytester_run):
    assert pytester_run("import pytest\ndef test_it(): pytest.skip('not today')") == 1
    assert pytester_run("from tests.skips import skip\ndef test_it(): skip('mdwe')") == 0


@pytest.fixture
def pytester_run(tmp_path):
    """The exit code of a run of one file that shares the hooks of these tests."""

    def run(text: str) -> int:
        file = tmp_path / "test_it.py"
        file.write_text(text)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file]
        plugin = ["-p", "tests.skips"]
        return subprocess.run([*command, *plugin], cwd=TESTS.parent, capture_output=True).returncode

    return run
