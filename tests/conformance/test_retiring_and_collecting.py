"""Tombstones and garbage collection, on every catalogue and every store of objects."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.conformance.test_catalogue_and_objects import address, write_bundle
from tests.stores import open_stores

from bascule.bundle.disk.folder import digest_of, read_manifest
from bascule.core.errors import Conflict, Invalid, NotFound, Refused
from bascule.registry import Registry
from bascule.registry.holding import Marked

HOUR_S = 3_600.0


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_s(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


HERE, SHARED = ("sqlite", "files"), ("postgresql", "s3")
on_both = pytest.mark.parametrize("registry", [HERE, SHARED], indirect=True, ids="+".join)
"""What is said to a catalogue and a store is in tests of both; the second tier runs all on both."""


@pytest.fixture(params=[HERE, pytest.param(SHARED, marks=pytest.mark.slow)], ids="+".join)
def registry(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Registry:
    store, objects = (address(request, kind) for kind in request.param)
    opened: Any = open_stores(tmp_path / "home", store, objects)
    opened._clock = clock
    return opened


@pytest.fixture
def bundle(tmp_path: Path) -> Callable[[str], Path]:
    return lambda content: write_bundle(tmp_path / "bundles" / content, content.encode())


@pytest.fixture
def three(registry: Registry, bundle: Callable[[str], Path]) -> Registry:
    for content in ("one", "two", "three"):
        registry.push(bundle(content), by="ada")
    return registry


def digests(registry: Registry) -> set[str]:
    return set(registry._objects.digests())


# -- tombstones --


@on_both
def test_a_retired_version_resolves_no_more_and_says_why(three):
    three.retire("late", 3, by="ada", reason="it leaks")

    for use in (
        lambda: three.resolve("late/3"),
        lambda: three.path("late/3"),
        lambda: three.set_alias("late", "champion", 3, by="bob"),
    ):
        with pytest.raises(Refused, match=r"late/3 was retired on 2026-03-01 by ada: it leaks"):
            use()
    assert three.resolve("late").number == 2
    assert three.resolve("late/3", retired=True).retired.reason == "it leaks"
    assert [event.kind for event in three.history("late")][-1] == "retired"


def test_its_number_is_never_used_again(three, bundle):
    three.retire("late", 3, by="ada", reason="it leaks")
    three.collect(by="ada", grace_s=0)

    assert three.push(bundle("four"), by="ada").number == 4


def test_a_retired_bundle_is_not_pushed_again_by_chance(three, tmp_path):
    three.retire("late", 3, by="ada", reason="it leaks")
    with pytest.raises(Refused, match="it leaks"):
        three.push(tmp_path / "bundles/three", by="bob")


def test_what_an_alias_points_to_is_not_retired(three):
    three.set_alias("late", "champion", 3, by="ada")
    with pytest.raises(Refused, match="'champion' points to it"):
        three.retire("late", 3, by="ada", reason="it leaks")

    three.set_alias("late", "champion", 2, by="ada")
    three.retire("late", 3, by="ada", reason="it leaks")


def test_retiring_takes_a_reason_and_happens_once(three):
    with pytest.raises(Invalid, match="for a reason"):
        three.retire("late", 3, by="ada", reason="  ")
    with pytest.raises(Conflict, match="not retired"):
        three.restore("late", 3, by="ada")
    three.retire("late", 3, by="ada", reason="it leaks")
    with pytest.raises(Conflict, match="retired before"):
        three.retire("late", 3, by="ada", reason="again")


def test_every_version_retired_leaves_nothing_to_resolve(three):
    for number in (1, 2, 3):
        three.retire("late", number, by="ada", reason="old")
    with pytest.raises(Refused, match="every version of 'late' was retired"):
        three.resolve("late")


@on_both
def test_a_restored_version_whose_files_went_has_them_back_by_a_push(three, tmp_path):
    three.retire("late", 3, by="ada", reason="it leaks")
    three.collect(by="ada", grace_s=0)
    three.restore("late", 3, by="bob", reason="it did not")

    with pytest.raises(NotFound, match="are missing"):
        three.path("late/3")
    assert three.push(tmp_path / "bundles/three", by="bob").number == 3
    assert read_manifest(three.path("late/3")).name == "late"


# -- collecting --


@on_both
def test_garbage_is_marked_first_and_removed_after_the_grace_period(three, clock):
    version = three.resolve("late/3")
    three.retire("late", 3, by="ada", reason="it leaks")

    for wait_s, state in ((0, "marked"), (HOUR_S - 1, "marked"), (1, "removed")):
        clock.pass_s(wait_s)
        (found,) = three.collect(by="ada", grace_s=HOUR_S)
        assert (found.digest, found.state) == (version.digest, state)
        assert found.reason == "late/3 was retired: it leaks"
        assert found.size_bytes > 0
    assert version.digest not in digests(three)
    assert len(digests(three)) == 2
    assert [event.kind for event in three.history("late")][-1] == "collected"
    assert three.collect(by="ada", grace_s=0) == []


def test_a_dry_run_says_the_same_and_does_nothing(three, clock):
    three.retire("late", 3, by="ada", reason="it leaks")
    before = digests(three)

    told = three.collect(by="ada", grace_s=0, dry_run=True)
    assert [found.state for found in told] == ["removed"]
    assert digests(three) == before
    clock.pass_s(HOUR_S)
    assert [found.state for found in three.collect(by="ada", grace_s=HOUR_S)] == ["marked"]


@on_both
def test_what_a_server_holds_stays_until_its_hold_ends(three, clock):
    version = three.resolve("late/3")
    three.hold([version.digest], "server a", lasts_s=120)
    three.retire("late", 3, by="ada", reason="it leaks")

    clock.pass_s(100)
    three.hold([version.digest], "server a", lasts_s=120)
    clock.pass_s(119)
    assert three.collect(by="ada", grace_s=0) == []
    clock.pass_s(1)
    assert [found.state for found in three.collect(by="ada", grace_s=0)] == ["removed"]


def test_a_server_that_lets_go_does_so_for_itself_only(three):
    version = three.resolve("late/3")
    for server in ("a", "b"):
        three.hold([version.digest], server, lasts_s=120)
    three.retire("late", 3, by="ada", reason="it leaks")

    three.release([version.digest], "a")
    assert three.collect(by="ada", grace_s=0) == []
    three.release([version.digest], "b")
    assert len(three.collect(by="ada", grace_s=0)) == 1


def test_a_hold_taken_after_the_mark_takes_the_mark_away(three, clock):
    version = three.resolve("late/3")
    three.retire("late", 3, by="ada", reason="it leaks")
    three.collect(by="ada", grace_s=HOUR_S)
    three.hold([version.digest], "server a", lasts_s=HOUR_S)
    clock.pass_s(HOUR_S)

    assert [found.state for found in three.collect(by="ada", grace_s=HOUR_S)] == ["marked"]


def orphan(registry: Registry, source: Path) -> str:
    """What a push leaves that is killed before its end."""
    digest, manifest = digest_of(source), read_manifest(source)
    files = {name: entry.sha256 for name, entry in manifest.files.items()}
    registry._objects.put(digest, source, {**files, "bundle.json": digest})
    return digest


def test_what_a_push_left_that_did_not_end_is_garbage(three, bundle):
    digest = orphan(three, bundle("orphan"))

    (found,) = three.collect(by="ada", grace_s=0)
    assert (found.digest, found.state) == (digest, "removed")
    assert "no version has it" in found.reason


def test_what_is_marked_and_pushed_again_stays(three, bundle, clock):
    source = bundle("orphan")
    orphan(three, source)
    three.collect(by="ada", grace_s=HOUR_S)
    clock.pass_s(HOUR_S)
    version = three.push(source, by="ada")

    assert three.collect(by="ada", grace_s=HOUR_S) == []
    read_manifest(three.path(version))


@on_both
def test_a_push_holds_what_it_puts_before_any_version_has_it(three, bundle, monkeypatch):
    """Collecting in the middle of the push, without any grace."""
    objects: Any = three._objects
    put, seen = objects.put, []

    def put_and_collect(*arguments: Any) -> None:
        put(*arguments)
        seen.append(three.collect(by="bob", grace_s=0))

    monkeypatch.setattr(objects, "put", put_and_collect)
    version = three.push(bundle("four"), by="ada")

    assert seen == [[]]
    read_manifest(three.path(version))


def test_a_push_whose_hold_ran_out_puts_its_files_again(three, bundle, monkeypatch, clock):
    objects: Any = three._objects
    put, seen = objects.put, []

    def put_slowly(*arguments: Any) -> None:
        put(*arguments)
        if not seen:
            clock.pass_s(HOUR_S)
            seen.extend(three.collect(by="bob", grace_s=0))

    monkeypatch.setattr(objects, "put", put_slowly)
    version = three.push(bundle("four"), by="ada")

    assert [found.state for found in seen] == ["removed"]
    read_manifest(three.path(version))


def removing(registry: Registry, digest: str, since: datetime) -> None:
    with registry._records.write() as book:
        book.lock_object(digest, at=since)
        book.put_object(digest, Marked("removing", since))


@on_both
def test_a_push_waits_for_a_removal_that_is_under_way(three, bundle, clock):
    source = bundle("four")
    digest = digest_of(source)
    removing(three, digest, clock.now)
    with ThreadPoolExecutor(1) as apart:
        pushing = apart.submit(three.push, source, by="ada")
        with pytest.raises(TimeoutError):
            pushing.result(0.3)
        with three._records.write() as book:
            book.forget_object(digest)
        pushed = pushing.result(30)

    assert pushed.number == 4
    read_manifest(three.path(pushed))


@pytest.mark.parametrize(("age_s", "refused"), [(599, True), (600, False)])
def test_a_removal_whose_process_died_is_not_waited_for(three, clock, age_s, refused):
    version = three.resolve("late/3")
    three.retire("late", 3, by="ada", reason="it leaks")
    removing(three, version.digest, clock.now - timedelta(seconds=age_s))

    if refused:
        with pytest.raises(Conflict, match="being removed at this moment"):
            three.restore("late", 3, by="ada")
        assert [found.state for found in three.collect(by="ada", grace_s=0)] == ["marked"]
    else:
        three.hold([version.digest], "server", lasts_s=1)
        three.restore("late", 3, by="ada")


@on_both
def test_another_catalogue_may_push_to_the_same_place_and_not_collect_there(
    three, bundle, request, tmp_path
):
    """It knows none of the versions, so all would be garbage to it."""
    objects: Any = three._objects
    place = getattr(objects, "place", None) or f"files://{objects._root}"
    other = open_stores(tmp_path / "other", objects=place)
    other.push(bundle("theirs"), by="bob")

    with pytest.raises(Refused, match="belong to another catalogue"):
        other.collect(by="bob", grace_s=0)
    assert len(digests(three)) == 4


def test_collecting_where_there_is_no_registry_creates_none(registry, tmp_path):
    with pytest.raises(NotFound, match="no registry"):
        registry.collect(by="ada")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("grace_s", [-1, 367 * 86_400, float("nan")])
def test_a_grace_that_is_no_length_of_time_is_refused(three, grace_s):
    with pytest.raises(Invalid, match="grace"):
        three.collect(by="ada", grace_s=grace_s)
