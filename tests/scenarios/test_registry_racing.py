"""Many processes at one registry at once, and processes killed in the middle of their work.

The processes are forked from one that has imported everything, and those that meet begin at one
signal: so they meet in the registry, and not in the loading of Python.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.conformance.test_catalogue_and_objects import write_bundle
from tests.stores import open_stores
from tests.tiers import first_of

from bascule.bundle.disk.folder import digest_of, read_manifest
from bascule.core.errors import NotFound
from bascule.registry import Registry

TOO_LONG_S = 120

BEGINNER = """
import json, os, random, signal, sys, time, traceback
from pathlib import Path
import alembic.command, obstore, psycopg
import bascule.catalogue.migrations, bascule.places.s3
import bascule.catalogue.postgresql
from bascule.core.errors import NotFound
from tests.stores import open_stores

for line in sys.stdin:
    plan = json.loads(line)
    if os.fork():
        print("ended", os.wait()[1], flush=True)
        continue
    os.environ.update(plan["environment"])
    sys.stdin.close()
    errors = os.open(plan["errors"], os.O_WRONLY | os.O_CREAT)
    os.dup2(errors, 2)
    try:
        exec(plan["does"], globals())
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
"""
"""Has imported everything, and does each plan in a fork of itself; a line tells how that ended."""

FORKS = """
def work(who, bundles, tell):
    registry = open_stores(Path(plan["home"]), plan["store"], plan["objects"])
    for bundle in bundles:
        version = registry.push(Path(bundle), by=who)
        tell({"pushed": [version.number, version.digest]})
        event = registry.set_alias(version.model, "champion", version.number, by=who)
        tell({"moved": [event.from_number, event.to_number]})

def start(who, bundles, gate=None):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        with open(Path(plan["told"]) / who, "a", buffering=1) as told:
            if gate is not None:
                os.read(gate, 1)
            work(who, bundles, lambda said: told.write(json.dumps(said) + "\\n"))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)

def sweep():
    registry = open_stores(Path(plan["home"]), plan["store"], plan["objects"])
    while True:
        try:
            registry.collect(by="sweeper", grace_s=0)
        except NotFound:
            pass  # nobody has pushed yet

if plan["sweep"]:
    sweeper = os.fork()
    if not sweeper:
        try:
            sweep()
        finally:
            traceback.print_exc()
            os._exit(1)

if plan["kills"]:
    chance = random.Random(7)
    began = time.monotonic()
    assert os.waitpid(start("0", plan["bundles"]["0"]), 0)[1] == 0
    whole_s = time.monotonic() - began
    for who, bundles in list(plan["bundles"].items())[1:]:
        pid = start(who, bundles)
        time.sleep(chance.uniform(0, whole_s))  # the moment of death is what is tested
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
else:
    gate, opener = os.pipe()
    pids = [start(who, bundles, gate) for who, bundles in plan["bundles"].items()]
    os.write(opener, b"x" * len(pids))
    codes = [os.waitpid(pid, 0)[1] for pid in pids]
    assert not any(codes), codes

if plan["sweep"]:
    assert os.waitpid(sweeper, os.WNOHANG) == (0, 0), "the sweeper fell over"
    os.kill(sweeper, signal.SIGKILL)
    os.waitpid(sweeper, 0)
"""

VICTIM = """
registry = open_stores(Path(plan["home"]), plan["store"], plan["objects"])
registry.models()
print("ready", os.getpid(), flush=True)
"""


class Beginner:
    """A process that begins others; each plan says what they do."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", BEGINNER],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip

    def begin(self, does: str, stores: tuple[str, str], home: Path, **plan: Any) -> Path:
        """Where its errors are written."""
        errors = home.with_name("errors")
        environment = {**os.environ, "TMPDIR": str(home.parent)}
        plan |= {"does": does, "store": stores[0], "objects": stores[1], "home": str(home)}
        plan |= {"errors": str(errors), "environment": environment}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(plan) + "\n")
        return errors

    def says(self, what: str) -> int:
        """The pid of one that is `ready` to be killed, or the status of one that has `ended`."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], TOO_LONG_S)
        assert ready, f"nothing in {TOO_LONG_S} s"
        word, number = self.process.stdout.readline().split()
        assert word == what, f"{word} {number}"  # a status as a pid: 0 is the whole process group
        return int(number)


@pytest.fixture(scope="module")
def beginner() -> Iterator[Beginner]:
    made = Beginner()
    yield made
    made.process.communicate()


STORES = ["sqlite and files", "postgresql and s3"]
on_one_store = pytest.mark.parametrize("stores", first_of(STORES), indirect=True)
"""The first tier does on local stores alone what a transaction keeps whole on either."""


@pytest.fixture(params=STORES)
def stores(request: pytest.FixtureRequest) -> tuple[str, str]:
    if request.param == "sqlite and files":
        return "sqlite", "files"
    return request.getfixturevalue("postgresql_url"), request.getfixturevalue("s3_url")


def run_forks(
    beginner: Beginner,
    tmp_path: Path,
    stores: tuple[str, str],
    bundles: dict[str, list[Path]],
    *,
    kills: bool = False,
    sweep: bool = False,
) -> dict[str, list[Any]]:
    """Run them; what each was told by the registry, in order."""
    told = tmp_path / "told"
    told.mkdir()
    errors = beginner.begin(
        FORKS, stores, tmp_path / "home", told=str(told), kills=kills, sweep=sweep,
        bundles={who: [str(path) for path in paths] for who, paths in bundles.items()},
    )  # fmt: skip
    assert beginner.says("ended") == 0, errors.read_text()
    return {
        file.name: [json.loads(line) for line in file.read_text().splitlines()]
        for file in told.iterdir()
    }


def kill_while(
    beginner: Beginner, home: Path, stores: tuple[str, str], does: str, wait_s: float
) -> None:
    """Kill a process that has begun to do that with a registry, after so long."""
    beginner.begin(VICTIM + does, stores, home)
    victim = beginner.says("ready")
    time.sleep(wait_s)  # the moment of death is what is tested
    with suppress(ProcessLookupError):  # it was faster
        os.kill(victim, signal.SIGKILL)
    assert beginner.says("ended") in (0, signal.SIGKILL)


def check_whole(registry: Registry, told: dict[str, list[Any]]) -> None:
    """Nothing that anybody was told is lost, and history is one unbroken line."""
    versions = registry.versions("late")
    assert [version.number for version in versions] == list(range(1, len(versions) + 1))
    for version in versions:
        assert read_manifest(registry.path(version)).digest == version.digest

    lines = [line for said in told.values() for line in said]
    known = {(version.number, version.digest) for version in versions}
    assert {tuple(line["pushed"]) for line in lines if "pushed" in line} <= known

    events = registry.history("late")
    pushed = [event.number for event in events if event.kind == "pushed"]
    assert pushed == [version.number for version in versions]
    moves = [event for event in events if event.kind == "alias_moved"]
    seen = [(move.from_number, move.to_number) for move in moves]
    moved = [tuple(line["moved"]) for line in lines if "moved" in line]
    # Who was killed may not have heard of its move; whoever heard of one finds it, once.
    assert Counter(one for one in moved if one[0] != one[1]) <= Counter(seen)
    if moves:
        assert moves[0].from_number is None
        assert all(after.from_number == before.to_number for before, after in pairwise(moves))
        assert registry.resolve("late@champion").number == moves[-1].to_number


@pytest.mark.parametrize(
    ("processes", "rounds"), first_of([(8, 1), (20, 6)]), ids=["quick", "long"]
)
def test_processes_that_push_and_move_one_alias_at_once_lose_nothing(
    beginner, tmp_path, stores, processes, rounds
):
    """There is no registry when they begin, so they race to create it too."""
    bundles = {
        str(who): [
            write_bundle(tmp_path / "bundles" / f"{who}-{turn}", f"{who} {turn}".encode())
            for turn in range(rounds)
        ]
        for who in range(processes)
    }
    told = run_forks(beginner, tmp_path, stores, bundles)

    registry = open_stores(tmp_path / "home", *stores)
    check_whole(registry, told)
    assert len(registry.versions("late")) == processes * rounds
    assert [len(said) for said in told.values()] == [2 * rounds] * processes
    moves = [event for event in registry.history("late") if event.kind == "alias_moved"]
    assert len(moves) == processes * rounds


@on_one_store
def test_processes_that_push_the_same_bundle_at_once_get_the_same_version(
    beginner, tmp_path, stores
):
    bundle = write_bundle(tmp_path / "bundle", b"the same" * 100_000)
    told = run_forks(beginner, tmp_path, stores, {str(who): [bundle] for who in range(6)})

    assert {tuple(said[0]["pushed"]) for said in told.values()} == {(1, digest_of(bundle))}
    assert [event.kind for event in open_stores(tmp_path / "home", *stores).history("late")] == [
        "pushed",
        "alias_moved",
    ]


@on_one_store
@pytest.mark.parametrize("kills", first_of([5, 100]), ids=["quick", "long"])
def test_processes_killed_anywhere_leave_a_registry_that_the_next_can_use(
    beginner, tmp_path, stores, kills
):
    """Killed at moments spread over the whole of a push and a move."""
    bundles = {
        str(turn): [
            write_bundle(tmp_path / "bundles" / str(turn), f"victim {turn}".encode() * 300_000)
        ]
        for turn in range(kills + 1)
    }
    told = run_forks(beginner, tmp_path, stores, bundles, kills=True)

    home = tmp_path / "home"
    registry = open_stores(home, *stores)
    check_whole(registry, told)
    # What was half-written is not to be had by anybody, under any name.
    named = {version.digest for version in registry.versions("late")}
    for digest in registry._objects.digests().keys() - named:
        with pytest.raises(NotFound, match="no version has the digest"):
            registry.add_statement(digest, "note", {}, at=datetime.now(UTC), by="ada")

    survivor = registry.push(write_bundle(tmp_path / "survivor", b"survivor"), by="after")
    assert survivor.number == len(registry.versions("late"))
    registry.set_alias("late", "champion", survivor.number, by="after")
    check_whole(open_stores(home, *stores), told)
    assert not list(home.rglob(".partial-*"))


@on_one_store
@pytest.mark.parametrize(("pushers", "rounds"), first_of([(4, 1), (8, 10)]), ids=["quick", "long"])
def test_collecting_without_any_grace_takes_nothing_from_those_who_push(
    beginner, tmp_path, stores, pushers, rounds
):
    """Half of the pushers push what others push at the same time."""
    bundles = {
        str(who): [
            write_bundle(tmp_path / "bundles" / f"{who}-{turn}", f"{who // 2} {turn}".encode())
            for turn in range(rounds)
        ]
        for who in range(pushers)
    }
    told = run_forks(beginner, tmp_path, stores, bundles, sweep=True)

    registry = open_stores(tmp_path / "home", *stores)
    check_whole(registry, told)
    assert len(registry.versions("late")) == pushers // 2 * rounds
    kept = registry._objects
    assert set(kept.digests()) == {version.digest for version in registry.versions("late")}


@on_one_store
def test_a_collector_killed_anywhere_leaves_nothing_that_is_half_there(beginner, tmp_path, stores):
    """What it was removing is gone or whole; what is in use stays, and the next one ends it."""
    bundles = {"0": [write_bundle(tmp_path / "bundles" / str(n), b"%d" % n) for n in range(6)]}
    told = run_forks(beginner, tmp_path, stores, bundles)
    home = tmp_path / "home"
    registry = open_stores(home, *stores)
    registry.set_alias("late", "champion", 6, by="ada")
    for number in range(1, 5):
        registry.retire("late", number, by="ada", reason="old")

    for wait_s in (0.0, 0.01, 0.03, 0.06):
        kill_while(beginner, home, stores, 'registry.collect(by="victim", grace_s=0)', wait_s)

    for version in registry.versions("late"):
        folder = registry._objects
        if version.retired is None:
            assert read_manifest(registry.path(version)).digest == version.digest
        elif version.digest in folder.digests() and stores[1] == "files":
            assert read_manifest(folder.path(version.digest)).digest == version.digest
    registry._clock = lambda: datetime.now(UTC) + timedelta(minutes=11)
    registry.collect(by="ada", grace_s=0)
    in_use = {one.digest for one in registry.versions("late") if one.retired is None}
    assert set(registry._objects.digests()) == in_use
    assert told


@on_one_store
def test_an_import_killed_anywhere_leaves_the_whole_version_or_none(beginner, tmp_path, stores):
    """And whoever imports it next gets it."""
    home = tmp_path / "home"
    registry = open_stores(home, *stores)
    registry.push(write_bundle(tmp_path / "first", b"first"), by="ada")
    elsewhere = open_stores(tmp_path / "elsewhere", "sqlite", "files")
    for turn, wait_s in enumerate((0.0, 0.005, 0.01, 0.02, 0.04)):
        bundle = write_bundle(tmp_path / "bundles" / str(turn), f"{turn}".encode() * 3_000_000)
        archive = tmp_path / f"{turn}.tar"
        elsewhere.export(elsewhere.push(bundle, by="ada"), archive)
        does = f'from pathlib import Path; registry.import_archive(Path("{archive}"), by="victim")'
        kill_while(beginner, home, stores, does, wait_s)
        check_whole(registry, {})

        count = turn + 2
        assert registry.import_archive(archive, by="ada").digest == digest_of(bundle)
        assert len(registry.versions("late")) == count
        check_whole(open_stores(home, *stores), {})
    assert not list(home.rglob(".partial-*"))


@on_one_store
def test_one_who_tags_retires_and_restores_may_be_killed_between_any_two_words(
    beginner, tmp_path, stores
):
    """A change and the line of history that tells of it are there together, or neither is."""
    home = tmp_path / "home"
    registry = open_stores(home, *stores)
    version = registry.push(write_bundle(tmp_path / "first", b"first"), by="ada")
    does = """
for turn in range(10_000):
    registry.set_tag("late/1", "turn", str(turn), by="victim")
    registry.retire("late", 1, by="victim", reason="old")
    registry.restore("late", 1, by="victim")
"""
    for wait_s in (0.01, 0.03, 0.05, 0.08, 0.13):
        kill_while(beginner, home, stores, does, wait_s)
        events = registry.history("late")
        told = [event.kind for event in events if event.kind in ("retired", "restored")]
        assert told == ["retired", "restored"] * (len(told) // 2) + ["retired"] * (len(told) % 2)
        (now,) = registry.versions("late")
        assert (now.retired is not None) == (told[-1:] == ["retired"])
        tagged = [event for event in events if event.kind == "tag_set"]
        assert registry.tags(now).get("turn") == (tagged[-1].to_value if tagged else None)
        if now.retired is not None:
            registry.restore("late", 1, by="ada")
        assert read_manifest(registry.path(version)).digest == version.digest
