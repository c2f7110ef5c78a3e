"""States and notifications of alerts: pure decisions, at each boundary from both sides."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, strategies as st

from bascule.monitoring.alerts import (
    Alert,
    Contacts,
    Finding,
    Observation,
    Route,
    Routing,
    Rules,
    Silence,
    advance,
    notify,
)
from bascule.monitoring.alerts.advancing import Acknowledgement

T0 = datetime(2026, 11, 26, 12, tzinfo=UTC)
RULES = Rules(for_s={"health": 60}, keep_firing_s={"health": 300}, repeat_s=3_600)
ROUTING = Routing(("pager", "team"))


def at(seconds):
    return T0 + timedelta(seconds=seconds)


def finding(seconds=0, **changes):
    plain = Finding("health", "error_share", "late", "warning", "3 % fail", 0.03, 0.01, at(seconds))
    return replace(plain, **changes)


def look(*findings, model="late", source="health"):
    return Observation(source, "", model, findings)


class Book:
    """Alerts as a store keeps them, in memory."""

    def __init__(self, rules=RULES, routing=ROUTING, contacts=None):
        self.alerts = {}
        self.sent = []
        self.silences = []
        self.rules, self.routing, self.contacts = rules, routing, contacts or {}

    def take(self, seconds, *looks):
        for change in advance(self.alerts, looks, self.rules, at(seconds)):
            self.alerts[change.id] = change.alert
        self.alerts = {name: one for name, one in self.alerts.items() if one is not None}
        told, sent = notify(
            self.alerts.values(), self.silences, self.routing, self.contacts, self.rules.repeat_s,
            at(seconds),
        )  # fmt: skip
        self.alerts |= {one.id: one for one in told}
        self.sent += sent
        return [(one.receiver, one.kind) for one in sent]

    @property
    def state(self):
        return next(iter(self.alerts.values())).state if self.alerts else None


def test_an_alert_fires_once_its_finding_has_lasted_long_enough():
    book = Book()
    book.take(0, look(finding()))
    book.take(59, look(finding(59)))
    assert book.state == "pending"
    assert book.take(60, look(finding(60))) == [("pager", "firing"), ("team", "firing")]
    assert book.state == "firing"


def test_a_finding_that_ends_before_that_leaves_nothing():
    book = Book()
    book.take(0, look(finding()))
    assert book.take(30, look()) == []
    assert book.alerts == {}


def test_an_alert_is_resolved_once_its_finding_was_absent_long_enough():
    book = Book(Rules(keep_firing_s={"health": 300}))
    book.take(0, look(finding()))
    assert book.take(10, look()) == []
    assert book.take(309, look()) == []
    assert book.state == "firing"
    assert book.take(310, look()) == [("pager", "resolved"), ("team", "resolved")]
    assert book.state == "resolved"
    assert book.take(320, look()) == []


def test_a_value_that_swings_about_its_limit_is_notified_once():
    book = Book(Rules(keep_firing_s={"health": 300}))
    for second in range(0, 3_000, 15):
        found = [finding(second)] if second // 15 % 2 else []
        book.take(second, look(*found))
    assert [one.kind for one in book.sent if one.receiver == "pager"] == ["firing"]


def test_no_news_is_neither_good_nor_bad():
    book = Book(Rules())
    book.take(0, look(finding()))
    assert book.take(10, look(model="other"), look(source="drift")) == []
    assert book.take(10) == []
    assert book.state == "firing"


def test_an_alert_of_another_host_is_left_alone():
    book = Book(Rules())
    book.take(0, Observation("health", "one", "late", (finding(place="one"),)))
    assert book.take(10, Observation("health", "two", "late", ())) == []
    assert book.state == "firing"


def test_an_alert_is_repeated_after_the_repetition_time_and_not_before():
    book = Book(Rules(repeat_s=3_600))
    book.take(0, look(finding()))
    assert book.take(3_599, look(finding(3_599))) == []
    assert book.take(3_600, look(finding(3_600)))[0] == ("pager", "repeated")


def test_an_acknowledged_alert_is_not_repeated_and_its_end_is_notified():
    book = Book(Rules(repeat_s=60))
    book.take(0, look(finding()))
    name, alert = next(iter(book.alerts.items()))
    book.alerts[name] = replace(alert, acknowledgement=Acknowledgement("ada", "mine", at(1)))
    assert book.take(600, look(finding(600))) == []
    assert book.take(700, look())[0] == ("pager", "resolved")


def silence(until_s, **changes):
    plain = Silence("s", "late*", "ada", "planned", T0, at(until_s))
    return replace(plain, **changes)


def test_a_silenced_alert_is_notified_when_the_silence_ends_if_it_still_fires():
    book = Book(Rules())
    book.silences = [silence(100)]
    assert book.take(0, look(finding())) == []
    assert book.take(99, look(finding(99))) == []
    assert book.take(100, look(finding(100)))[0] == ("pager", "firing")


def test_what_ended_while_it_was_silenced_is_never_notified():
    book = Book(Rules())
    book.silences = [silence(100)]
    book.take(0, look(finding()))
    assert book.take(50, look()) == []
    assert book.take(200, look()) == []


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, True),
        ({"model": "other"}, False),
        ({"model": "*"}, True),
        ({"source": "health"}, True),
        ({"source": "drift"}, False),
        ({"alert": finding().id}, True),
        ({"alert": "another"}, False),
    ],
)
def test_a_silence_is_about_the_alerts_that_it_matches(changes, holds):
    assert silence(100, **changes).holds(Alert(finding(), "firing", T0), T0) is holds


def test_alerts_of_one_model_that_begin_together_are_one_notification():
    book = Book(Rules())
    both = [finding(), finding(kind="latency_p99", sentence="slow")]
    book.take(0, look(*both), look(finding(model="other"), model="other"))
    of_pager = [(one.model, len(one.alerts)) for one in book.sent if one.receiver == "pager"]
    assert sorted(of_pager) == [("late", 2), ("other", 1)]


CRITICAL = {"severity": "critical"}


@pytest.mark.parametrize(
    ("routes", "contacts", "changes", "receivers"),
    [
        ((), Contacts(), {}, ("pager", "team")),
        ((Route(("team",)),), Contacts(), {}, ("team",)),
        ((Route(("pager",), severity="critical"), Route(("team",))), Contacts(), {}, ("team",)),
        (
            (Route(("pager",), severity="critical"), Route(("team",))),
            Contacts(),
            CRITICAL,
            ("pager", "team"),
        ),
        ((Route(("team",), models=("late*",)),), Contacts(), {"model": "later"}, ("team",)),
        # Where nothing names a receiver, all are notified: no alert is lost.
        ((Route(("team",), models=("churn",)),), Contacts(), {}, ("pager", "team")),
        ((Route(("team",), teams=("risk",)),), Contacts(team="risk"), {}, ("team",)),
        ((Route(("team",), teams=("risk",)),), Contacts(team="ads"), {}, ("pager", "team")),
        ((), Contacts(owner="team", on_call="pager"), {}, ("team",)),
        ((), Contacts(owner="team", on_call="pager"), CRITICAL, ("pager", "team")),
        ((Route(("pager",)),), Contacts(owner="no receiver"), {}, ("pager",)),
    ],
)
def test_an_alert_goes_to_its_routes_its_owner_and_its_on_call(
    routes, contacts, changes, receivers
):
    alert = Alert(finding(**changes), "firing", T0)
    assert Routing(("pager", "team"), routes).receivers_of(alert, contacts) == receivers


@pytest.mark.parametrize(
    ("routes", "receivers"),
    [
        ((), ("team",)),
        ((Route(("pager",)),), ("team",)),  # also where the routes name no other
        ((Route(("pager", "team")),), ("team",)),
        ((Route(("team",), severity="critical"),), ("team",)),
    ],
)
def test_an_alert_about_a_receiver_goes_to_the_others(routes, receivers):
    book = Book(routing=Routing(("pager", "team"), routes))
    book.take(0, look(finding(source="receivers", model="", column="pager"), model=""))
    assert [one.receiver for one in book.sent] == list(receivers)


def test_numbers_of_a_firing_alert_are_refreshed_once_a_minute_and_with_its_severity():
    book = Book(Rules())
    book.take(0, look(finding()))
    book.take(59, look(finding(59, value=0.04)))
    assert next(iter(book.alerts.values())).finding.value == 0.03
    book.take(60, look(finding(60, value=0.05)))
    assert next(iter(book.alerts.values())).finding.value == 0.05
    book.take(61, look(finding(61, value=0.5, severity="critical")))
    assert next(iter(book.alerts.values())).finding.value == 0.5


@given(
    st.lists(st.tuples(st.integers(1, 400), st.booleans(), st.booleans()), min_size=1, max_size=60)
)
def test_each_beginning_is_notified_once_and_each_end_after_its_beginning(history):
    book = Book()
    second = 0
    for wait_s, is_found, is_looked in history:
        second += wait_s
        book.take(second, *([look(*([finding(second)] if is_found else []))] if is_looked else []))
    kinds = [one.kind for one in book.sent if one.receiver == "pager"]
    turns = [kind for kind in kinds if kind != "repeated"]
    assert turns == ["firing", "resolved"] * (len(turns) // 2) + ["firing"] * (len(turns) % 2)
    ids = [one.id for one in book.sent]
    assert len(set(ids)) == len(ids)
