"""The watcher: one process of several looks and sends, and the next goes on where it stopped."""

from __future__ import annotations

import threading

import pytest
from tests.receivers import dripping, hook
from tests.stores import open_database
from tests.tiers import first_of
from tests.waiting import until

from bascule.catalogue import Leases
from bascule.core import Conflict
from bascule.monitoring.alerts import (
    AlertStore,
    Finding,
    Observation,
    Routing,
    Rules,
    Watcher,
    Watching,
    sources,
)
from bascule.monitoring.alerts.sinks import Receiver
from bascule.monitoring.alerts.watcher import LEASE


class Told:
    """A source that finds what a test says."""

    every_s = 0.0

    def __init__(self, name="drift", place=""):
        self.name, self.place, self.is_wrong, self.looks = name, place, True, 0
        self.problem = None
        self.repeats = 0

    def again(self):
        self.repeats += 1

    def look(self, now):
        self.looks += 1
        if self.problem is not None:
            raise self.problem
        found = Finding(
            self.name, "kind", "late", "warning", "it is wrong", 1, 0, now, place=self.place
        )
        return [Observation(self.name, self.place, "late", (found,) if self.is_wrong else ())]


@pytest.fixture
def there():
    with hook() as made:
        yield made


@pytest.fixture
def watcher(tmp_path, there):
    made = []

    def build(*found, local=False, **settings):
        receiver = Receiver(name="it", kind="webhook", url=there.url, timeout_s=0.5)
        sources = {"place": "one", "local": found} if local else {"shared": found}
        plain = {"rules": Rules(), "routing": Routing(("it",)), "round_s": 0.02}
        watching = Watching(receivers=[receiver], **sources, **{**plain, **settings})
        made.append(Watcher(open_database(tmp_path, "sqlite"), watching))
        return made[-1]

    yield build
    for one in made:
        one.stop()


def rounds(watcher):
    watcher.keep_leases()
    watcher.look_for_all()
    watcher.deliver()


def test_of_two_processes_one_looks_and_its_successor_goes_on_without_a_repetition(watcher, there):
    first, second = Told(), Told()
    holder, other = watcher(first), watcher(second)
    rounds(holder)
    rounds(other)
    assert (first.looks, second.looks, len(there.requests)) == (1, 0, 1)
    until(lambda: rounds(other) or second.looks)  # the first is dead: its lease ends by itself
    assert len(there.requests) == 1
    second.is_wrong = False
    rounds(other)
    assert [one["kind"] for one in there.bodies] == ["firing", "resolved"]


def test_what_was_decided_before_a_death_is_sent_by_the_successor(watcher, there):
    holder = watcher(Told())
    holder.keep_leases()
    holder.look_for_all()  # and dies before the delivery
    other = watcher(Told())
    until(lambda: rounds(other) or there.requests)
    assert [one["kind"] for one in there.bodies] == ["firing"]


def test_the_sources_of_a_server_are_looked_at_by_its_own_process(watcher):
    local = Told("health", "one")
    holder, other = watcher(Told()), watcher(local, local=True)
    rounds(holder)
    rounds(other)
    other.look_locally()
    assert local.looks == 1


def test_the_alerts_of_a_server_that_is_gone_for_good_are_resolved(watcher, there):
    server, other = watcher(Told("health", "one"), local=True), watcher(gone_after_s=0.3)
    server.keep_leases()
    server.look_locally()  # and is never seen again
    until(lambda: rounds(other) or len(there.requests) >= 2)
    assert [one["kind"] for one in there.bodies] == ["firing", "resolved"]


def test_a_server_that_comes_back_keeps_its_alerts(watcher, there):
    local = Told("health", "one")
    server, other = watcher(local, local=True), watcher(gone_after_s=60)
    server.keep_leases()
    server.look_locally()
    server.stop()
    rounds(other)
    successor = watcher(local, local=True)
    successor.keep_leases()
    successor.look_locally()
    rounds(other)
    assert [one["kind"] for one in there.bodies] == ["firing"]


def test_a_look_that_could_not_be_kept_is_repeated(watcher, there):
    source = Told()
    made = watcher(source)
    made.keep_leases()
    Leases(made._catalogue).release(made._leases[LEASE])  # as if the database had been away
    with pytest.raises(Conflict):
        made.look_for_all()
    assert source.repeats == 1
    rounds(made)
    assert (source.looks, source.repeats, len(there.requests)) == (2, 1, 1)


def test_a_source_that_fails_neither_resolves_its_alerts_nor_stops_the_others(watcher, there):
    broken, fine = Told("drift"), Told("performance")
    made = watcher(broken, fine)
    rounds(made)
    assert len(there.bodies[0]["alerts"]) == 2
    broken.problem = OSError("the disk is gone")
    fine.is_wrong = False
    rounds(made)
    assert [one["kind"] for one in there.bodies] == ["firing", "resolved"]
    assert [one["source"] for one in there.bodies[1]["alerts"]] == ["performance"]


def test_a_receiver_that_is_away_for_a_while_loses_nothing(watcher, there):
    there.answers = [(503, {"Retry-After": "0"}), (500, {})]
    source = Told()
    made = watcher(source)
    made._courier._first_s = 0.01
    made.start()
    there.wait(lambda it: len(it.requests) == 3)
    assert len({one["id"] for one in there.bodies}) == 1
    threading.Event().wait(0.1)
    assert len(there.requests) == 3


@pytest.mark.parametrize("drip", first_of(["header", "continue", "silence"]))
def test_one_that_never_takes_anything_delays_no_other_and_is_an_alert_for_the_others(
    tmp_path, there, drip
):
    """Five of them, which is more than any number of threads that they might share."""
    catalogue, source = open_database(tmp_path, "sqlite"), Told()
    names = [f"bad{number}" for number in range(5)]
    with dripping(drip) as port:
        url = f"http://127.0.0.1:{port}"
        receivers = [Receiver(name=name, kind="webhook", url=url, timeout_s=2.0) for name in names]
        receivers.append(Receiver(name="good", kind="webhook", url=there.url, timeout_s=2.0))
        away = sources.ReceiverSource(AlertStore(catalogue).failing, (*names, "good"))
        watcher = Watcher(
            catalogue,
            Watching(
                shared=[source, away], receivers=receivers,
                routing=Routing((*names, "good")), round_s=0.02,
            ),
        )  # fmt: skip
        watcher.start()
        try:
            there.wait(lambda it: it.requests, timeout_s=1.5)
            there.wait(lambda it: away_of(it) == set(names))
        finally:
            watcher.stop()


def away_of(hook):
    return {
        alert["column"]
        for body in hook.bodies
        for alert in body["alerts"]
        if alert["kind"] == "receiver_away"
    }
