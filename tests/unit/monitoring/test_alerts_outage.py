"""The catalogue is away: said once, by the sinks that need none, and over when it is back."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime, timedelta

import pytest
from tests.receivers import hook
from tests.stores import open_database, postgresql
from tests.unit.monitoring.test_alerts_watcher import Told

from bascule.core import Unavailable
from bascule.monitoring.alerts import AlertStore, Routing, Rules, Watcher, Watching
from bascule.monitoring.alerts.outage import Outage
from bascule.monitoring.alerts.sinks import Receiver

START = datetime(2026, 11, 26, 12, tzinfo=UTC)
AWAY = Unavailable("the registry at db cannot be used: connection refused")


class Sending:
    """Takes notifications, but for those of receivers that are away."""

    def __init__(self):
        self.taken, self.away = [], set()

    def __call__(self, one):
        if one.receiver in self.away:
            return False
        self.taken.append((one.receiver, one.kind))
        return True


def at(seconds):
    return START + timedelta(seconds=seconds)


def outage(sending, note=lambda _is_away: None):
    rules = Rules({"health": 60.0}, repeat_s=600)
    return Outage("one:8080", rules, Routing(("a", "b")), sending, note)


@pytest.mark.parametrize(("seconds", "count"), [(59, 0), (60, 2)])
def test_receivers_are_notified_once_it_has_lasted(seconds, count):
    sending = Sending()
    made = outage(sending)
    made.begin(AWAY, START)
    made.begin(AWAY, at(30))
    for _ in range(2):
        made.notify(at(seconds))
    assert len(sending.taken) == count


def test_a_receiver_hears_the_end_once_if_it_heard_the_beginning():
    sending = Sending()
    made = outage(sending)
    for start, end in ((0, 10), (100, 200)):  # the first is too short
        made.begin(AWAY, at(start))
        made.notify(at(end - 1))
        made.end(at(end))
        made.notify(at(end))
        made.notify(at(end + 1))
    assert sending.taken == [("a", "firing"), ("b", "firing"), ("a", "resolved"), ("b", "resolved")]


def test_it_is_repeated_while_it_lasts():
    sending = Sending()
    made = outage(sending)
    made.begin(AWAY, START)
    for seconds in (60, 659, 660):
        made.notify(at(seconds))
    assert [kind for receiver, kind in sending.taken if receiver == "a"] == ["firing", "repeated"]


def test_a_receiver_that_is_away_as_well_hears_of_it_later():
    sending = Sending()
    sending.away = {"a"}
    made = outage(sending)
    made.begin(AWAY, START)
    made.notify(at(60))
    sending.away = set()
    made.end(at(70))
    made.notify(at(70))
    assert [kind for receiver, kind in sending.taken if receiver == "a"] == ["firing", "resolved"]


def test_each_receiver_may_be_notified_by_a_thread_of_its_own():
    sending = Sending()
    sending.away = {"a"}
    made = outage(sending)
    made.begin(AWAY, START)
    for receiver in ("a", "b", "a", "b"):
        made.notify(at(60), [receiver])
    assert sending.taken == [("b", "firing")]
    sending.away = set()
    made.notify(at(61), ["a"])
    assert sending.taken == [("b", "firing"), ("a", "firing")]


def test_it_is_logged_and_noted_once(caplog):
    noted = []
    made = outage(Sending(), noted.append)
    for _ in range(3):
        made.begin(AWAY, START)
    made.end(at(42))
    made.end(at(43))
    assert noted == [False, True, False]
    assert [one.getMessage() for one in caplog.records] == [
        "alerts: the registry at db cannot be used: connection refused; alerts wait until it is "
        "back",
        "alerts: the catalogue is back after 0:00:42",
    ]


def kinds(there):
    """Of the alerts of each notification; one that is sent again has the same id."""
    distinct = {one["id"]: (one["alerts"][0]["kind"], one["kind"]) for one in there.bodies}
    return list(distinct.values())


def test_a_watcher_goes_on_where_it_stopped_when_the_database_is_back(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    noted = []
    with hook() as there, postgresql() as database:
        source = Told()
        watching = Watching(
            shared=[source],
            receivers=[Receiver(name="it", kind="webhook", url=there.url, timeout_s=0.5)],
            routing=Routing(("it",)), note_away=noted.append, round_s=0.05,
        )  # fmt: skip
        watcher = Watcher(open_database(tmp_path, database.url), watching)
        watcher.start()
        there.wait(lambda it: len(kinds(it)) == 1)
        database.stop()
        there.wait(lambda it: len(kinds(it)) == 2)
        source.is_wrong = False  # which it finds when the catalogue is back
        assert noted == [False, True]
        database.start()
        there.wait(lambda it: len(kinds(it)) == 4)
        assert AlertStore(open_database(tmp_path, database.url)).alerts() == []
        watcher.stop()
        threads = [one for one in threading.enumerate() if one.name.startswith("bascule-alerts")]
        for one in threads:
            one.join()
    said = kinds(there)
    assert said[:2] == [("kind", "firing"), ("catalogue_away", "firing")]
    assert sorted(said[2:]) == [("catalogue_away", "resolved"), ("kind", "resolved")]
    assert noted == [False, True, False]
    assert caplog.text.count("alerts wait until it is back") == 1
