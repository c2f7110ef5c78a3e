"""The chain over the history: what it finds, what an erasure leaves, and its order."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from hypothesis import given, settings, strategies as st

from bascule.catalogue import Anchor, chain, events, forget, origins, redact, sealing
from bascule.catalogue.events import Event, Subject

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATE = Subject("model", "late")
HOME = origins.Origin("PUT aliases", key="k1", address="192.0.2.7", request="r1")


def record(catalogue, count, *, actor="ada", reason="it is better", person=""):
    with catalogue.write() as connection, origins.acting(HOME):
        for number in range(count):
            body = {"alias": "best", "from_number": number, "to_number": number + 1}
            at = T0 + timedelta(minutes=number)
            events.append(
                connection, Event(LATE, "alias_moved", at, actor, reason, body, person=person)
            )


def lines_of(catalogue):
    return list(sealing.export(catalogue.read))


def verify(lines, anchors=()):
    return chain.verify(*chain.read_export(lines), anchors)


def problems_of(catalogue, anchors=()):
    """Of the catalogue itself and of its export, which are the same."""
    result = sealing.verify(catalogue.read, anchors)
    assert result == verify(lines_of(catalogue), anchors)
    return result.problems


def anchor_of(catalogue):
    with catalogue.read() as connection:
        head = sealing.read_head(connection)
    return Anchor(head.chain, head.sequence, head.digest, T0)


def test_every_event_has_an_entry_with_where_it_came_from(catalogue):
    record(catalogue, 2)

    first = json.loads(lines_of(catalogue)[1])
    assert (first["sequence"], first["kind"], first["values"]["what"]["before"]) == (
        1, "alias_moved", {"number": 0}
    )  # fmt: skip
    assert first["values"]["who"]["actor"] == "ada"
    assert first["values"]["who"]["address"] == "192.0.2.7"
    assert verify(lines_of(catalogue)).entries == 2
    assert problems_of(catalogue) == ()


def test_a_transaction_that_fails_leaves_neither_event_nor_entry(catalogue):
    record(catalogue, 1)

    def fail():
        with catalogue.write() as connection:
            events.append(connection, Event(LATE, "retired", T0, "ada"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    record(catalogue, 1)

    assert verify(lines_of(catalogue)).entries == 2
    assert problems_of(catalogue) == ()


def test_many_writers_at_once_make_one_chain_in_the_order_of_their_commits(catalogue):
    def write():
        for _ in range(8):
            record(catalogue, 2)

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    assert verify(lines_of(catalogue)).entries == 64
    assert problems_of(catalogue) == ()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("UPDATE events SET reason = 'none' WHERE id = 3", "entry 3: why was changed"),
        ("UPDATE events SET kind = 'retired' WHERE id = 3", "entry 3 or the one before"),
        ("UPDATE events SET subject = 'gb' WHERE id = 3", "entry 3 or the one before"),
        ("UPDATE events SET actor = 'bob' WHERE id = 3", "entry 3: who was changed"),
        ("DELETE FROM audit_values WHERE sequence = 3", "entry 3 has lost values"),
        ("UPDATE audit_values SET sealed = substr(sealed, 1, 20) WHERE sequence = 3", "lost"),
        ("DELETE FROM audit_keys", "entry 1 has lost values"),
        ("DELETE FROM audit_chain WHERE sequence = 3", "after entry 2 comes 4"),
        ("DELETE FROM audit_chain WHERE sequence = 5", "ends with entry 4, and its head says 5"),
        ("UPDATE audit_chain SET sequence = 9 WHERE sequence = 5", "after entry 4 comes 9"),
    ],
)
def test_a_change_past_bascule_is_found(catalogue, change, problem):
    record(catalogue, 5)
    with catalogue.write() as connection:
        connection.exec_driver_sql(change)

    assert any(problem in found for found in problems_of(catalogue))


def test_an_event_that_was_deleted_is_found(catalogue):
    record(catalogue, 2)
    with catalogue.write() as connection:
        if connection.dialect.name == "sqlite":
            connection.connection.dbapi_connection.commit()
            connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
            connection.exec_driver_sql("BEGIN")
        else:
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        connection.exec_driver_sql("DELETE FROM events WHERE id = 1")

    assert "entry 1 or the one before it was changed" in problems_of(catalogue)


def test_an_event_that_was_added_past_the_chain_is_found(catalogue):
    record(catalogue, 1)
    with catalogue.write() as connection:
        events.append(connection, Event(LATE, "retired", T0, "mallory"))
        connection.info.pop("acts")

    assert problems_of(catalogue) == ("event 2 is in no entry",)


def test_entries_that_were_cut_off_are_found_back_to_the_last_anchor(catalogue):
    record(catalogue, 3)
    anchor = anchor_of(catalogue)
    record(catalogue, 2)
    first = lines_of(catalogue)[:3]
    head = json.loads(first[0])
    shorter = json.loads(first[-1])
    head |= {"sequence": 2, "digest": shorter["digest"]}
    cut = [json.dumps(head), *first[1:]]

    assert verify(cut).problems == ()
    (problem,) = verify(cut, [anchor]).problems
    assert problem.startswith("the entries 3 to 3 are missing")
    whole = verify(lines_of(catalogue), [anchor])
    assert (whole.problems, whole.anchored, whole.entries) == ((), 3, 5)


def test_a_person_is_forgotten_and_the_chain_still_verifies(catalogue):
    record(catalogue, 3, actor="ada", reason="Ada asked")
    record(catalogue, 1, actor="bob", reason="of Ada", person="ada")
    anchor = anchor_of(catalogue)
    with catalogue.write() as connection:
        assert forget(connection, "ada", now=T0, by="bob") == 4
        assert forget(connection, "ada", now=T0, by="bob") == 0

    text = b"".join(lines_of(catalogue)).decode()
    assert '"ada"' not in text
    assert "Ada" not in text
    assert "192.0.2.7" in text, "the address of bob stays"
    assert problems_of(catalogue, [anchor]) == ()
    with catalogue.read() as connection:
        found = events.find(connection)
    assert [event.actor for event in found] == ["erased"] * 3 + ["bob"] * 2
    assert [event.subject.name for event in found] == ["late"] * 3 + ["erased"] * 2


def test_a_reason_that_names_a_customer_is_changed_and_the_chain_still_verifies(catalogue):
    record(catalogue, 2, reason="asked by cust-48151623")
    anchor = anchor_of(catalogue)
    for _ in range(2):
        with catalogue.write() as connection:
            held = [event.id for event in events.find(connection) if "cust-" in event.reason]
            changes = {n: {"reason": "asked by (erased)", "subject": "(erased)"} for n in held}
            redact(connection, changes, now=T0, by="bob")

    assert b"cust-48151623" not in b"".join(lines_of(catalogue))
    assert problems_of(catalogue, [anchor]) == ()
    with catalogue.read() as connection:
        assert [event.kind for event in events.find(connection)][2:] == ["person_forgotten"]
        first = events.find(connection)[0]
    assert first.subject.name == "late", "what is in the chain as it is stays"
    assert first.reason == "asked by (erased)"


def test_a_reason_that_was_changed_without_the_act_is_found(catalogue):
    record(catalogue, 1)
    with catalogue.write() as connection:
        connection.execute(sa.text("UPDATE events SET reason = 'another'"))

    assert problems_of(catalogue)


def test_forgetting_who_forgot_leaves_no_problem(catalogue):
    record(catalogue, 1)
    for person, by in (("ada", "bob"), ("bob", "eve")):
        with catalogue.write() as connection:
            forget(connection, person, now=T0, by=by)

    assert problems_of(catalogue) == ()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The export of a chain of six acts, and an anchor of its end."""
    from bascule.catalogue import Catalogue, SqliteDatabase

    made = Catalogue(SqliteDatabase(tmp_path_factory.mktemp("chain") / "catalogue.db"))
    made.create()
    record(made, 6)
    return lines_of(made), anchor_of(made)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_byte_that_is_flipped_is_found(whole, data):
    """But of `after_event`, which only says what is older than the chain."""
    lines, anchor = whole
    number = data.draw(st.integers(1, len(lines) - 1))
    place = data.draw(st.integers(0, len(lines[number]) - 2))
    changed = bytearray(lines[number])
    changed[place] ^= data.draw(st.integers(1, 255))

    assert verify([*lines[:number], bytes(changed), *lines[number + 1 :]], [anchor]).problems


@settings(max_examples=100, deadline=None)
@given(order=st.lists(st.integers(1, 6), unique=True))
def test_any_entry_that_is_dropped_or_moved_is_found(whole, order):
    lines, anchor = whole
    result = verify([lines[0], *(lines[number] for number in order)], [anchor])

    assert bool(result.problems) is (order != [1, 2, 3, 4, 5, 6])
