"""Anchors of the audit chain: when one is due, and what they find."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from bascule.catalogue import (
    Catalogue,
    Leases,
    SqliteDatabase,
    audit_anchors,
    events,
    sealing,
)  # fmt: skip
from bascule.catalogue.events import Event, Subject
from bascule.control import anchors_at, export, verify
from bascule.control.loops.anchoring import EVERY, EVERY_ACTS, anchor_due, is_due
from bascule.core import Conflict, Untrusted

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


def held(catalogue, name="one"):
    return Leases(catalogue).acquire(name, "test", 60.0)


@pytest.mark.parametrize(
    ("acts", "anchored", "since", "expected"),
    [
        (5, 5, None, False),
        (1, 0, None, True),
        (EVERY_ACTS, 1, MOMENT, False),
        (EVERY_ACTS + 1, 1, MOMENT, True),
        (2, 1, EVERY - MOMENT, False),
        (2, 1, EVERY, True),
    ],
)
def test_an_anchor_is_due_after_so_many_acts_or_so_long(acts, anchored, since, expected):
    head = sealing.Head("c0", 0, acts, "d")
    assert is_due(head, anchored, None if since is None else T0 - since, T0) is expected


def test_each_place_gets_the_end_of_the_chain_once(catalogue, tmp_path):
    place, lease = str(tmp_path / "anchors.jsonl"), held(catalogue)
    record(catalogue, 3)
    anchor_due(catalogue, [place], lease, now=T0)
    anchor_due(catalogue, [place], lease, now=T0 + EVERY)
    record(catalogue)
    anchor_due(catalogue, [place], lease, now=T0 + EVERY)

    anchors = list(anchors_at([place]))
    assert [anchor.sequence for anchor in anchors] == [3, 4]
    assert verify(export(lambda: catalogue), anchors).problems == ()


def test_a_place_that_fails_keeps_no_other_from_its_anchor(catalogue, tmp_path):
    bad, good = str(tmp_path / "nowhere" / "a"), str(tmp_path / "b")
    record(catalogue)
    anchor_due(catalogue, [bad, good], held(catalogue), now=T0)

    with catalogue.read() as connection:
        rows = {row.place: row for row in connection.execute(sa.select(audit_anchors))}
    assert "No such file" in rows[bad].problem
    assert (rows[good].sequence, rows[good].problem) == (1, "")


def test_a_process_that_lost_the_lease_writes_the_same_anchor_at_most(catalogue, tmp_path):
    place, lease = str(tmp_path / "anchors.jsonl"), held(catalogue)
    record(catalogue)
    Leases(catalogue).release(lease)
    with pytest.raises(Conflict, match="no longer holds"):
        anchor_due(catalogue, [place], lease, now=T0)
    anchor_due(catalogue, [place], held(catalogue), now=T0)  # as after a kill in between

    anchors = list(anchors_at([place]))
    assert [anchor.sequence for anchor in anchors] == [1, 1]
    assert verify(export(lambda: catalogue), anchors).problems == ()


def test_a_chain_that_was_made_anew_does_not_fit_its_anchors(catalogue, tmp_path):
    place = str(tmp_path / "anchors.jsonl")
    record(catalogue, 2)
    anchor_due(catalogue, [place], held(catalogue), now=T0)
    other = Catalogue(SqliteDatabase(tmp_path / "other.db"))
    other.create()
    record(other, 2)

    assert verify(export(lambda: other)).problems == ()
    assert verify(export(lambda: other), list(anchors_at([place]))).problems


@pytest.mark.slow
def test_an_anchor_in_a_bucket_is_never_replaced(catalogue, s3_url):
    from bascule.catalogue import Anchor
    from bascule.control.loops.anchoring import AnchorBucket

    bucket, anchor = AnchorBucket(f"{s3_url}/anchors"), Anchor("c0" * 32, 7, "d1", T0)
    bucket.write(anchor)
    bucket.write(Anchor("c0" * 32, 7, "d1", T0 + EVERY))
    with pytest.raises(Untrusted, match="was rewritten"):
        bucket.write(Anchor("c0" * 32, 7, "d2", T0))
    assert bucket.read() == [anchor]
