"""Many processes at one registry at once, and processes killed in the middle of their work."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bascule.bundle.format import (
    Manifest,
    OriginalEntry,
    digest_of,
    read_manifest,
    write_file,
    write_manifest,
)
from bascule.core.fields import DType, Field, Signature
from bascule.registry import open_registry

ROUNDS = 4

WRITER = """
import json, sys
from pathlib import Path
from bascule.registry import open_registry
home, who, *bundles = sys.argv[1:]
registry = open_registry(Path(home))
sys.stdin.readline()  # all begin at once
pushed, moved = [], []
for bundle in bundles:
    version = registry.push(Path(bundle), by=who)
    pushed.append([version.number, version.digest])
    event = registry.set_alias(version.model, "champion", version.number, by=who)
    moved.append([event.from_number, event.to_number])
print(json.dumps({"pushed": pushed, "moved": moved}))
"""

PUSHER = """
import sys
from pathlib import Path
from bascule.registry import open_registry
registry = open_registry(Path(sys.argv[1]))
print("ready", flush=True)
print(registry.push(Path(sys.argv[2]), by="victim"), flush=True)
"""


def write_bundle(folder: Path, content: bytes) -> Path:
    folder.mkdir(parents=True)
    files = {"original/model.onnx": write_file(folder, "original/model.onnx", content)}
    signature = Signature((Field("x", DType.FP32, (3,)),), (Field("y", DType.FP32),))
    write_manifest(
        folder,
        Manifest(
            name="late",
            flavor="onnx",
            task="other",
            classes=None,
            signature=signature,
            original=OriginalEntry("original/model.onnx", "onnx", {}, {}),
            programs=(),
            serves="original",
            files=files,
        ),
    )
    return folder


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("processes", [8, pytest.param(20, marks=pytest.mark.slow)])
def test_processes_that_push_and_move_one_alias_at_once_lose_nothing(tmp_path, processes):
    """The home does not exist when they begin, so they race to create it too."""
    home = tmp_path / "home"
    bundles = [
        [
            write_bundle(tmp_path / "bundles" / f"{who}-{turn}", f"{who} {turn}".encode())
            for turn in range(ROUNDS)
        ]
        for who in range(processes)
    ]
    writers = [start(WRITER, home, who, *mine) for who, mine in enumerate(bundles)]
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    told = []
    for writer in writers:
        said, errors = writer.communicate(timeout=60)
        assert writer.returncode == 0, errors
        told.append(json.loads(said))

    registry = open_registry(home)
    versions = registry.versions("late")
    assert [version.number for version in versions] == list(range(1, processes * ROUNDS + 1))
    assert {(version.number, version.digest) for version in versions} == {
        (number, digest) for one in told for number, digest in one["pushed"]
    }
    for version in versions:
        assert read_manifest(registry.path(version)).name == "late"

    moves = [event for event in registry.history("late") if event.kind == "alias_moved"]
    assert sorted((move.from_number or 0, move.to_number) for move in moves) == sorted(
        (before or 0, after) for one in told for before, after in one["moved"]
    )
    chain = [move.from_number for move in moves] + [moves[-1].to_number]
    assert chain[0] is None
    assert chain[1:] == [move.to_number for move in moves]
    assert registry.resolve("late@champion").number == chain[-1]


def test_processes_that_push_the_same_bundle_at_once_get_the_same_version(tmp_path):
    home = tmp_path / "home"
    bundle = write_bundle(tmp_path / "bundle", b"the same" * 100_000)
    writers = [start(WRITER, home, who, bundle) for who in range(6)]
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        said, errors = writer.communicate(timeout=60)
        assert writer.returncode == 0, errors
        assert json.loads(said)["pushed"] == [[1, digest_of(bundle)]]

    assert [event.kind for event in open_registry(home).history("late")] == [
        "pushed",
        "alias_moved",
    ]


@pytest.mark.parametrize("first", [True, False], ids=["a new home", "a home in use"])
def test_a_pusher_killed_anywhere_leaves_a_home_that_the_next_can_use(tmp_path, first):
    """Killed at moments spread over the whole of a push; each time the next push works."""
    chance = random.Random(7)
    whole_push_s = 0.3 if first else 0.06
    for turn in range(5):
        home = tmp_path / (f"home-{turn}" if first else "home")
        survivor = write_bundle(tmp_path / f"survivor-{turn}", f"survivor {turn}".encode())
        victim = write_bundle(tmp_path / f"victim-{turn}", f"victim {turn}".encode() * 500_000)
        if not first:
            open_registry(home).push(survivor, by="before")
        pusher = start(PUSHER, home, victim)
        assert pusher.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0, whole_push_s))  # the moment of death is what is tested
        pusher.kill()
        said, _ = pusher.communicate()

        registry = open_registry(home)
        version = registry.push(survivor, by="after")
        for found in registry.versions("late"):
            read_manifest(registry.path(found))
        if said:  # what was told to be pushed, was
            assert digest_of(victim) in [found.digest for found in registry.versions("late")]
        numbers = [found.number for found in registry.versions("late")]
        assert numbers == list(range(1, len(numbers) + 1))
        assert version.number in numbers
        assert not list((home / "objects").glob(".partial-*"))
