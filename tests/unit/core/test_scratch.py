"""Temporary folders of processes that were killed are swept, and no others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile

import pytest

from bascule.bundle.disk import folder as disk
from bascule.core import scratch
from bascule.core.errors import Conflict
from bascule.core.files import replacing
from bascule.core.scratch import Scratch, sweep

HOLD = """
import sys, time
from pathlib import Path
from bascule.core.scratch import Scratch
{what}
print(held, flush=True)
time.sleep(60)
"""


@pytest.fixture
def holding(tmp_path):
    """`holding(code)`: a process that holds the folder that it prints, and can be killed."""
    processes = []

    def hold(what):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD.format(what=what), str(tmp_path)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        processes.append(process)
        return process, process.stdout.readline().strip()

    yield hold
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


SCRATCH = 'held = Scratch("bascule-x-", parent=sys.argv[1]).path'


def test_what_a_killed_process_left_is_swept_and_what_a_running_one_has_is_not(holding, tmp_path):
    process, left = holding(SCRATCH)
    _, held = holding(SCRATCH)
    mine = Scratch(parent=tmp_path)
    strange = tmp_path / "bascule-notes"
    strange.mkdir()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert os.path.isdir(left)
    sweep(tmp_path)
    assert not os.path.exists(left)
    assert os.path.isdir(held)
    assert mine.path.is_dir()
    assert strange.is_dir()
    mine.remove()
    mine.remove()
    assert not mine.path.exists()


def test_the_first_folder_of_a_process_sweeps(holding, tmp_path, monkeypatch):
    process, left = holding(SCRATCH)
    process.kill()
    process.wait()
    monkeypatch.setattr(scratch, "_swept", set())
    with Scratch(parent=tmp_path):
        assert not os.path.exists(left)
    assert not list(tmp_path.glob("bascule-*"))


SWEEP = """
import sys
from pathlib import Path
from bascule.core.scratch import sweep
sweep(Path(sys.argv[1]))
"""


def test_a_folder_that_another_process_sweeps_before_it_is_locked_is_made_again(
    tmp_path, monkeypatch
):
    """Between the two there is a moment in which every new folder looks like an orphan."""
    make, made = tempfile.mkdtemp, []

    def make_and_let_another_sweep(**settings):
        made.append(make(**settings))
        if len(made) == 1:
            subprocess.run([sys.executable, "-c", SWEEP, str(tmp_path)], check=True)
        return made[-1]

    monkeypatch.setattr(scratch.tempfile, "mkdtemp", make_and_let_another_sweep)
    with Scratch(parent=tmp_path) as folder:
        assert [str(folder)] == made[1:]
        assert folder.is_dir()
        assert not os.path.exists(made[0])


MAKE = """
import sys
from bascule.core.scratch import Scratch
for _ in range(2_000):
    with Scratch(parent=sys.argv[1]) as folder:
        (folder / "file").write_bytes(b"mine")
        assert (folder / "file").read_bytes() == b"mine"
"""


@pytest.mark.slow
def test_folders_are_made_while_other_processes_sweep(tmp_path):
    """Each of these lost a few folders of thousands."""
    sweeping = SWEEP.replace("sweep(Path", "while True:\n    sweep(Path")
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
        for code in (sweeping, sweeping, sweeping, MAKE, MAKE)
    ]
    ended = [process.wait() for process in processes[3:]]
    for process in processes[:3]:
        process.kill()
        process.wait()
    assert ended == [0, 0]


def test_a_link_and_a_file_are_left_alone(tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "bascule-a.held").symlink_to(target)
    (tmp_path / "bascule-b.held").write_text("mine")
    sweep(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "bascule-a.held", "bascule-b.held", "target",
    ]  # fmt: skip


DRAFT = """
from bascule.bundle.disk import folder as disk
at = disk.drafting(Path(sys.argv[1]) / "m")
held = at.__enter__()
"""
ASIDE = """
to = Path(sys.argv[1]) / "m"
to.mkdir()
(to / "old").touch()
held = Scratch(".m.", suffix=".replaced", parent=to.parent).path
to.rename(held / "bundle")
"""


def test_a_draft_that_was_left_is_gone_with_the_next(holding, tmp_path):
    process, left = holding(DRAFT)
    process.kill()
    process.wait()
    with disk.drafting(tmp_path / "m"):
        assert not os.path.exists(left)
    assert [file.name for file in tmp_path.iterdir()] == ["m"]


def test_a_bundle_that_was_moved_aside_comes_back(holding, tmp_path):
    process, left = holding(ASIDE)
    process.kill()
    process.wait()
    with pytest.raises(Conflict, match="exists already"), disk.drafting(tmp_path / "m"):
        pass
    assert (tmp_path / "m" / "old").exists()
    assert not os.path.exists(left)


FILE = """
from bascule.core.files import replacing
at = replacing(Path(sys.argv[1]) / "report.json")
draft = at.__enter__()
draft.write_text("half")
held = draft.parent
"""


def test_half_of_a_file_that_was_left_is_gone_with_the_next(holding, tmp_path):
    process, left = holding(FILE)
    process.kill()
    process.wait()
    assert os.listdir(left) == ["report.json"]
    with replacing(tmp_path / "report.json") as draft:
        draft.write_text("whole")
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]
    assert (tmp_path / "report.json").read_text() == "whole"
