"""Anchors of the audit chain: when one is due, and what they find."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
from tests.waiting import until

from bascule.catalogue import Anchor, Catalogue, SqliteDatabase, events, sealing
from bascule.catalogue.events import Event, Subject
from bascule.control import anchoring, read_anchors
from bascule.control.loops.anchoring import EVERY, EVERY_ACTS, anchor_due, is_due, write
from bascule.core import Untrusted

T0 = datetime(2026, 3, 1, tzinfo=UTC)
MOMENT = timedelta(seconds=1)


@pytest.fixture
def catalogue(tmp_path):
    made = Catalogue(SqliteDatabase(tmp_path / "catalogue.db"))
    made.create()
    return made


def record(catalogue, count=1):
    with catalogue.write() as connection:
        for _ in range(count):
            events.append(connection, Event(Subject("model", "late"), "pushed", T0, "ada"))


def tried(catalogue, place, last=None, *, now=T0):
    return anchor_due(catalogue, str(place), last, now=now)


def problems_of(catalogue, place):
    return sealing.verify(catalogue.read, read_anchors(str(place))).problems


@pytest.mark.parametrize(
    ("acts", "anchored", "since", "expected"),
    [
        (0, None, None, False),
        (1, None, None, True),
        (5, 5, EVERY, False),
        (EVERY_ACTS, 1, MOMENT, False),
        (EVERY_ACTS + 1, 1, MOMENT, True),
        (2, 1, EVERY - MOMENT, False),
        (2, 1, EVERY, True),
    ],
)
def test_an_anchor_is_due_after_so_many_acts_or_so_long(acts, anchored, since, expected):
    last = None if anchored is None else Anchor("c0", anchored, "d", T0 - since)
    assert is_due(acts, last, T0) is expected


def test_a_place_gets_the_end_of_the_chain_once(catalogue, tmp_path):
    place = tmp_path / "anchors.jsonl"
    assert tried(catalogue, place) is None, "nothing was done yet"
    record(catalogue, 3)
    last = tried(catalogue, place)
    assert tried(catalogue, place, last, now=T0 + EVERY) is last
    record(catalogue)
    tried(catalogue, place, last, now=T0 + EVERY)

    assert [anchor.sequence for anchor in read_anchors(str(place))] == [3, 4]
    assert problems_of(catalogue, place) == ()


def test_two_processes_write_the_same_anchor_twice(catalogue, tmp_path):
    place = tmp_path / "anchors.jsonl"
    record(catalogue)
    tried(catalogue, place)
    tried(catalogue, place)  # also as after a kill in between

    assert [anchor.sequence for anchor in read_anchors(str(place))] == [1, 1]
    assert problems_of(catalogue, place) == ()


def test_a_place_that_fails_keeps_no_other_from_its_anchor(catalogue, tmp_path, caplog):
    bad, good, at_once = tmp_path / "nowhere" / "a", tmp_path / "b", threading.Event()
    record(catalogue)
    at_once.set()
    with anchoring([str(bad), str(good)], lambda: catalogue, after=at_once):
        until(lambda: good.exists() and "No such file" in caplog.text)

    assert problems_of(catalogue, good) == ()


def test_a_chain_that_was_made_anew_does_not_fit_its_anchors(catalogue, tmp_path):
    place = tmp_path / "anchors.jsonl"
    record(catalogue, 2)
    tried(catalogue, place)
    other = Catalogue(SqliteDatabase(tmp_path / "other.db"))
    other.create()
    record(other, 2)

    assert sealing.verify(other.read).problems == ()
    assert problems_of(other, place)


@pytest.mark.slow
def test_an_anchor_in_a_bucket_is_never_replaced(s3_url):
    place, anchor = f"{s3_url}/anchors", Anchor("c0" * 32, 7, "d1", T0)
    write(place, anchor)
    write(place, Anchor("c0" * 32, 7, "d1", T0 + EVERY))
    with pytest.raises(Untrusted, match="was rewritten"):
        write(place, Anchor("c0" * 32, 7, "d2", T0))
    assert read_anchors(place) == [anchor]
