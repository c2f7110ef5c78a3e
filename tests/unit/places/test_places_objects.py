"""What of a listing is the bundle, and what in it is refused before a byte is read."""

from __future__ import annotations

import errno
import os
from itertools import count, repeat
from pathlib import Path

import pytest

from bascule.bundle.disk.limits import MAX_MANIFEST_BYTES, MAX_STATEMENT_BYTES
from bascule.core.errors import Conflict, Invalid, NotFound, TooLarge, Unavailable, Untrusted
from bascule.remotes import PLACES, Remote, choose, fetch
from bascule.remotes.objects import MAX_OBJECTS

URL = "gs://models/late"


def listed(*names, size_bytes=1):
    return [Remote(name, size_bytes, "1") for name in names]


def refusal(kind, objects):
    with pytest.raises(kind) as caught:
        choose(objects, URL)
    assert URL in caught.value.message
    return caught.value.message


def test_the_files_are_those_below_the_manifest():
    names = ["bundle.json", "a", "b/c", "later/bundle.json"]
    assert list(choose(listed(*names), URL)) == names
    nested = listed("README", "late/bundle.json", "late/b/c", "more/deep/bundle.json", "lat")
    chosen = choose(nested, URL)
    assert {name: one.name for name, one in chosen.items()} == {
        "bundle.json": "late/bundle.json",
        "b/c": "late/b/c",
    }


def test_what_tools_leave_for_a_folder_is_passed_over():
    folders = listed("", "b/", size_bytes=0)
    assert list(choose([*folders, *listed("bundle.json", "b/c")], URL)) == ["bundle.json", "b/c"]


@pytest.mark.parametrize(
    "name",
    [
        "../etc", "a/../../etc", "a/..", "/etc/passwd", "//etc", "a//b", "./a", "a/./b", ".", "..",
        "", "a/", "a\\..\\b", "a\0b", "a\nb", "a\x1b[2Jb",
    ],
)  # fmt: skip
def test_a_name_that_cannot_be_a_file_of_a_bundle_is_refused(name):
    assert repr(name) in refusal(Untrusted, listed("bundle.json", name))


def test_two_objects_that_would_be_one_file_are_refused():
    assert "'a'" in refusal(Untrusted, listed("bundle.json", "a", "a"))
    assert "'a'" in refusal(Untrusted, listed("bundle.json", "a", "a/b"))
    assert "'a'" in refusal(Untrusted, listed("bundle.json", "a/b/c", "a"))


def test_an_endless_listing_ends():
    at_most = listed("bundle.json", *(f"{number}" for number in range(MAX_OBJECTS - 1)))
    assert len(choose(at_most, URL)) == MAX_OBJECTS
    refusal(TooLarge, [*at_most, *listed("one more")])
    endless = (Remote(f"{number}", 1, "1") for number in count())
    assert f"{MAX_OBJECTS:,}" in refusal(TooLarge, endless)


@pytest.mark.parametrize(
    ("name", "limit"),
    [("bundle.json", MAX_MANIFEST_BYTES), ("statements/cost.json", MAX_STATEMENT_BYTES)],
)
def test_what_is_too_large_to_be_what_it_should_be_is_refused(name, limit):
    others = [one for one in listed("bundle.json") if one.name != name]
    choose([*others, Remote(name, limit, "1")], URL)
    assert name in refusal(TooLarge, [*others, Remote(name, limit + 1, "1")])


def test_nothing_and_no_bundle_and_several_are_told_apart():
    assert "no objects" in refusal(NotFound, [])
    assert "bundle.json is missing" in refusal(NotFound, listed("a/b/bundle.json"))
    assert ": a, b" in refusal(Invalid, listed("b/bundle.json", "a/bundle.json"))


# -- an object that is not as it was listed --


class Fake:
    """A place whose one object is other than it says."""

    def __init__(self, pieces):
        self.pieces = pieces

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __call__(self, *_):
        return self

    def objects(self):
        yield Remote("bundle.json", 8, "1")

    def copy(self, one, into):
        for piece in self.pieces:
            into.write(piece)


@pytest.fixture
def place(monkeypatch):
    def put(fake):
        monkeypatch.setattr("bascule.remotes.gcs.open_place", fake)
        assert PLACES["gs"] == "bascule.remotes.gcs:open_place"

    return put


@pytest.mark.parametrize("pieces", [(), (b"1234567",), (b"12345678", b"9")])
def test_an_object_of_another_size_than_was_listed_is_named_and_nothing_is_left(
    place, pieces, tmp_path
):
    place(Fake(pieces))
    with pytest.raises(Conflict, match=r"bundle\.json of gs://models/late changed"):
        fetch(URL, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_an_object_that_does_not_end_is_not_read_on(place, tmp_path):
    pieces = repeat(b"x", 1_000)
    place(Fake(pieces))
    with pytest.raises(Conflict):
        fetch(URL, tmp_path / "bundle")
    assert len(list(pieces)) == 1_000 - 9, "it was listed with eight bytes"


def test_a_disk_that_is_full_is_told_as_such_and_nothing_is_left(place, tmp_path, monkeypatch):
    """To a client of a network, an error of the disk is one of the network."""

    class Client(Fake):
        def copy(self, one, into):
            try:
                super().copy(one, into)
            except OSError:
                raise Unavailable("cannot be reached") from None

    place(Client([b"12345678"]))
    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr("bascule.remotes.fetching.Path.open", lambda *_: full)
        with pytest.raises(Invalid) as caught:
            fetch(URL, tmp_path / "bundle")
    reason = os.strerror(errno.ENOSPC)
    assert caught.value.message == f"{tmp_path}/bundle/bundle.json cannot be written: {reason}"
    assert list(tmp_path.iterdir()) == []
