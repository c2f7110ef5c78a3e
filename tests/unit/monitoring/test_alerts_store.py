"""Alerts in the catalogue: one transaction a decision, on SQLite and PostgreSQL."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from tests.stores import open_database
from tests.unit.catalogue.conftest import (  # noqa: F401  # migrations run once for all tests
    new_file,
    new_server_database,
)

from bascule.catalogue import Leases, events
from bascule.core import Conflict, Invalid, NotFound, Unavailable
from bascule.monitoring.alerts import AlertStore, Courier, Finding, Observation, Routing, Rules
from bascule.monitoring.alerts.delivery import GIVE_UP_AFTER
from bascule.monitoring.alerts.sinks import Receiver

T0 = datetime(2026, 11, 26, 12, tzinfo=UTC)
ROUTING = Routing(("pager",))


@pytest.fixture(params=["new_file", "new_server_database"], ids=["sqlite", "postgresql"])
def catalogue(request, tmp_path):
    return open_database(tmp_path, request.getfixturevalue(request.param)(tmp_path))


@pytest.fixture
def lease(catalogue):
    return Leases(catalogue).acquire("alerts", "test", 60)


def finding(minutes=0, **changes):
    now = T0 + timedelta(minutes=minutes)
    plain = Finding("health", "error_share", "late", "warning", "3 % fail", 0.03, 0.01, now)
    return replace(plain, **changes)


def take(store, lease, minutes, *found, routing=ROUTING):
    now = T0 + timedelta(minutes=minutes)
    look = Observation("health", "", "late", found)
    return store.take(lease, [look], Rules(), routing, {}, now)


def kinds(catalogue, alert):
    with catalogue.read() as connection:
        subject = events.Subject("alert", alert)
        return [one.kind for one in events.find(connection, subject=subject)]


def test_a_beginning_and_an_end_are_kept_with_their_history_and_notifications(catalogue, lease):
    store = AlertStore(catalogue)
    take(store, lease, 0, finding())
    assert [one.state for one in store.alerts()] == ["firing"]
    take(store, lease, 1)
    assert store.alerts() == []
    assert [one.state for one in store.alerts(resolved=True)] == ["resolved"]
    waiting = store.due(T0 + timedelta(minutes=1))
    assert [one.notification.kind for one in waiting] == ["firing", "resolved"]
    assert waiting[0].notification.alerts[0]["sentence"] == "3 % fail"
    assert kinds(catalogue, finding().id) == ["alert_firing", "alert_resolved"]


def test_what_fires_again_is_neither_acknowledged_nor_notified_already(catalogue, lease):
    store = AlertStore(catalogue)
    take(store, lease, 0, finding())
    store.acknowledge(finding().id, by="ada", why="mine", now=T0)
    take(store, lease, 1)
    take(store, lease, 2, finding(2))
    (alert,) = store.alerts()
    assert (alert.state, alert.acknowledgement, alert.told) == ("firing", None, ("pager",))


def test_an_acknowledgement_has_person_and_reason_and_is_in_the_history(catalogue, lease):
    store = AlertStore(catalogue)
    take(store, lease, 0, finding())
    alert = store.acknowledge(finding().id, by="ada", why="rolling back", now=T0)
    assert (alert.acknowledgement.by, alert.acknowledgement.why) == ("ada", "rolling back")
    take(store, lease, 5, finding(5))  # with new numbers, which must not undo it
    assert store.find(finding().id).acknowledgement is not None
    assert "alert_acknowledged" in kinds(catalogue, finding().id)


def test_only_what_is_there_and_not_over_can_be_acknowledged(catalogue, lease):
    store = AlertStore(catalogue)
    with pytest.raises(NotFound, match="no alert has the id"):
        store.acknowledge("none", by="ada", why="mine", now=T0)
    take(store, lease, 0, finding())
    with pytest.raises(Invalid, match="why"):
        store.acknowledge(finding().id, by="ada", why=" ", now=T0)
    take(store, lease, 1)
    with pytest.raises(Conflict, match="resolved"):
        store.acknowledge(finding().id, by="ada", why="mine", now=T0)


def test_a_silence_holds_until_its_end_or_until_it_is_ended(catalogue, lease):
    store = AlertStore(catalogue)
    made = store.silence(
        by="ada", why="planned", until=T0 + timedelta(hours=1), now=T0, model="late"
    )
    take(store, lease, 0, finding())
    assert store.due(T0) == []
    store.end_silence(made.id, by="ada", now=T0 + timedelta(minutes=5))
    take(store, lease, 6, finding(6))
    assert len(store.due(T0 + timedelta(minutes=6))) == 1
    with pytest.raises(NotFound, match="no silence"):
        store.end_silence(made.id, by="ada", now=T0 + timedelta(minutes=7))
    with pytest.raises(Invalid, match="past"):
        store.silence(by="ada", why="planned", until=T0, now=T0)


def test_a_holder_whose_lease_has_ended_writes_nothing(catalogue, lease):
    store, leases = AlertStore(catalogue), Leases(catalogue)
    leases.release(lease)
    leases.acquire("alerts", "another", 60)
    with pytest.raises(Conflict, match="no longer holds"):
        take(store, lease, 0, finding())
    assert store.alerts() == []


def test_a_look_that_changes_nothing_writes_nothing(catalogue, lease):
    store = AlertStore(catalogue)
    take(store, lease, 0, finding())
    with catalogue.watch() as watch:
        watch.wait(0)
        assert not take(store, lease, 0, finding())
        assert not watch.wait(0.3)


class Scripted:
    """A sink that raises what the script says, then takes."""

    def __init__(self, *script):
        self.script = list(script)
        self.taken = []

    def send(self, notification):
        if self.script and (error := self.script.pop(0)) is not None:
            raise error
        self.taken.append((notification.kind, notification.model))


def courier(store, clock, **sinks):
    made = Courier(
        store, [Receiver(name=name, kind="webhook", url="http://x") for name in sinks], clock
    )
    made._sinks = sinks
    return made


def test_a_receiver_that_is_away_gets_all_of_it_in_order_when_it_is_back(catalogue, lease):
    store, now = AlertStore(catalogue), [T0]
    sink = Scripted(Unavailable("away", retry_after_s=120), None)
    sending = courier(store, lambda: now[0], pager=sink)
    take(store, lease, 0, finding())
    sending.deliver(lease)
    assert (sink.taken, store.undelivered()[0]["problem"]) == ([], "away")
    now[0] = T0 + timedelta(seconds=119)
    take(store, lease, 1)
    sending.deliver(lease)
    assert sink.taken == []  # what it asked for is respected, and nothing overtakes
    now[0] = T0 + timedelta(seconds=121)
    sending.deliver(lease)
    assert sink.taken == [("firing", "late"), ("resolved", "late")]
    sending.deliver(lease)
    assert len(sink.taken) == 2
    assert store.undelivered() == []


def test_a_receiver_fails_from_its_first_refusal_until_it_takes_something(catalogue, lease):
    store, now = AlertStore(catalogue), [T0]
    sink = Scripted(Unavailable("away"), Unavailable("still away"), None)
    sending = courier(store, lambda: now[0], pager=sink, team=Scripted())
    take(store, lease, 0, finding(), routing=Routing(("pager", "team")))
    assert store.failing() == {}
    for minutes, failing in ((0, (1, "away")), (1, (2, "still away")), (3, None)):
        now[0] = T0 + timedelta(minutes=minutes)
        sending.deliver(lease)
        assert store.failing() == ({} if failing is None else {"pager": (T0, *failing)})


def test_a_receiver_that_was_given_up_fails_until_it_takes_something(catalogue, lease):
    store = AlertStore(catalogue)
    take(store, lease, 0, finding())
    now = [T0 + GIVE_UP_AFTER]
    courier(store, lambda: now[0], pager=Scripted(Unavailable("away"))).deliver(lease)
    assert store.failing() == {"pager": (T0, 1, "away")}
    take(store, lease, 1)
    courier(store, lambda: now[0], pager=Scripted()).deliver(lease)
    assert store.failing() == {}


@pytest.mark.parametrize(("after", "state"), [(-1, "waiting"), (0, "failed")])
def test_a_notification_is_given_up_after_three_days(catalogue, lease, after, state):
    store = AlertStore(catalogue)
    take(store, lease, 0, finding())
    now = T0 + GIVE_UP_AFTER + timedelta(seconds=after)
    courier(store, lambda: now, pager=Scripted(Unavailable("away"))).deliver(lease)
    assert store.undelivered()[0]["state"] == state


def test_a_notification_for_a_receiver_that_was_removed_is_given_up(catalogue, lease):
    store = AlertStore(catalogue)
    take(store, lease, 0, finding())
    courier(store, lambda: T0).deliver(lease)
    assert "no such receiver" in store.undelivered()[0]["problem"]


def test_a_process_that_died_before_it_noted_the_delivery_sends_the_same_id_again(catalogue, lease):
    store = AlertStore(catalogue)
    take(store, lease, 0, finding())
    (first,) = store.due(T0)  # sent, and then the process died
    (second,) = AlertStore(catalogue).due(T0)
    assert first.notification.id == second.notification.id


def test_what_ended_long_ago_is_swept_and_the_rest_stays(catalogue, lease):
    store = AlertStore(catalogue)
    take(store, lease, 0, finding())
    take(store, lease, 1)
    store.sweep(lease, T0 + timedelta(days=90))
    assert len(store.alerts(resolved=True)) == 1
    store.sweep(lease, T0 + timedelta(days=91))
    assert store.alerts(resolved=True) == []
