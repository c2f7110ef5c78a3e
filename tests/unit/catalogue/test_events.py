from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.stores import open_database, open_stores

from bascule.catalogue import events
from bascule.catalogue.events import Event, Subject
from bascule.cli.showing import event_row

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATE, FRONT = Subject("model", "late"), Subject("endpoint", "front")
GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture
def told(catalogue):
    """Seven events: of two models and an endpoint, an hour apart."""
    lines = [
        (LATE, "pushed"), (Subject("model", "gb"), "pushed"), (FRONT, "created"),
        (LATE, "alias_moved"), (FRONT, "plan_changed"), (LATE, "retired"),
        (Subject("job", "late"), "pushed"),
    ]  # fmt: skip
    with catalogue.write() as connection:
        for hour, (subject, kind) in enumerate(lines):
            at = T0 + timedelta(hours=hour)
            events.append(connection, Event(subject, kind, at, "ada", body={"hour": hour}))
    return catalogue


def hours(catalogue, **conditions):
    with catalogue.read() as connection:
        return [one.body["hour"] for one in events.find(connection, **conditions)]


def test_an_event_comes_back_as_it_was_recorded(catalogue):
    event = Event(FRONT, "plan_changed", T0, "0123456789ab", "ünder tëst", {"to": 2, "shares": [1]})
    with catalogue.write() as connection:
        number = events.append(connection, event)

    with catalogue.read() as connection:
        (found,) = events.find(connection)
    assert found == Event(*event_fields(event), id=number)


def event_fields(event):
    return event.subject, event.kind, event.at, event.actor, event.reason, event.body


FOUND = [
    ({}, [0, 1, 2, 3, 4, 5, 6]),
    ({"subject": LATE}, [0, 3, 5]),
    ({"subject": Subject("job", "late")}, [6]),
    ({"subject": Subject("job", "front")}, []),
    ({"subject_kind": "model"}, [0, 1, 3, 5]),
    ({"kinds": ["pushed", "created"]}, [0, 1, 2, 6]),
    ({"kinds": []}, []),
    ({"since": T0 + timedelta(hours=4)}, [4, 5, 6]),
    ({"since": T0 + timedelta(hours=4, microseconds=1)}, [5, 6]),
    ({"limit": 2}, [0, 1]),
    ({"limit": 2, "latest_first": True}, [6, 5]),
    ({"subject": LATE, "kinds": ["pushed", "retired"], "latest_first": True}, [5, 0]),
]


def test_events_are_found_by_subject_kind_and_time(told):
    for conditions, found in FOUND:
        assert hours(told, **conditions) == found, conditions


@pytest.mark.parametrize("latest_first", [False, True])
def test_pages_follow_each_other_without_gap_or_overlap_while_events_are_added(told, latest_first):
    seen, cursor = [], None
    while True:
        with told.read() as connection:
            page = events.find(connection, cursor=cursor, limit=3, latest_first=latest_first)
        if not page:
            break
        if cursor is None:
            with told.write() as connection:
                events.append(connection, Event(FRONT, "late_comer", T0, "ada", body={"hour": 7}))
        seen += [one.body["hour"] for one in page]
        cursor = page[-1].id
    assert seen == (list(range(7))[::-1] if latest_first else list(range(8)))


def test_an_event_of_a_failed_transaction_is_not_recorded(catalogue):
    def fail():
        with catalogue.write() as connection:
            events.append(connection, Event(LATE, "pushed", T0, "ada"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert hours(catalogue) == []


# -- migration 0005 --

OLD_ROWS = [
    (6, "tag_set", 1, None, None, None, "team", "a", "risk"),
    (7, "alias_moved", 2, "champion", 1, 2, None, None, None),
    (9, "alias_dropped", 2, "champion", 2, None, None, None, None),
]
INSERT = (
    'INSERT INTO events (id, kind, number, alias, from_number, to_number, "key", from_value, '
    "to_value, model, at, \"by\", reason) VALUES ({}, 'late', '2026-03-01 12:00:00.250000', "
    "'bob', 'why')"
)


@pytest.fixture
def opened(tmp_path, store):
    """A registry whose catalogue was written by the release of schema 0004."""
    if store == "sqlite":
        with closing(sqlite3.connect(tmp_path / "catalogue.db")) as old, old:
            old.executescript((GOLDEN / "registry-0004.sql").read_text())
            for row in OLD_ROWS:
                old.execute(INSERT.format(", ".join("?" * 9)), row)
        old.close()
    else:
        import psycopg

        with psycopg.connect(store) as server:
            server.execute((GOLDEN / "postgresql-0004.sql").read_text())
            server.execute("SET search_path = public")
            for row in OLD_ROWS:
                server.execute(INSERT.format(", ".join(["%s"] * 9)), row)
        open_database(tmp_path, store).migrate()
    return open_stores(tmp_path, store)


def test_every_column_of_old_events_arrives_in_the_history(opened):
    assert [
        (
            one.kind, one.number, one.alias, one.from_number, one.to_number, one.key,
            one.from_value, one.to_value,
        )
        for one in opened.history("late")[5:]
    ] == [row[1:] for row in OLD_ROWS]  # fmt: skip
    last = opened.history("late")[-1]
    assert (last.at, last.by, last.reason) == (T0.replace(microsecond=250_000), "bob", "why")


def test_new_events_follow_the_old_ones(opened, tmp_path, store):
    opened.set_tag("late/1", "team", "fraud", by="ada")

    with open_database(tmp_path, store).read() as connection:
        found = events.find(connection, subject=LATE)
    assert [one.id for one in found] == [1, 2, 3, 4, 5, 6, 7, 9, 10]
    assert (found[-1].kind, found[-1].body["to_value"]) == ("tag_set", "fraud")


def test_a_kind_of_event_that_another_room_records_is_part_of_a_models_history(
    opened, tmp_path, store
):
    with open_database(tmp_path, store).write() as connection:
        events.append(connection, Event(LATE, "rollout_started", T0, "ada", body={"steps": 3}))

    last = opened.history("late")[-1]
    assert (last.kind, last.by) == ("rollout_started", "ada")
    assert event_row(last)[1] == "late rollout_started"
