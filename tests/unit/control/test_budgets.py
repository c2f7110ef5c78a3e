"""Budgets and rates over servers: what is reserved, given back, and never exceeded."""

from __future__ import annotations

import random
import threading
import time
from datetime import UTC, datetime

import pytest

from bascule.catalogue import Catalogue, SqliteDatabase
from bascule.control.loops import budgets
from bascule.control.loops.budgets import Sharing
from bascule.core import Unavailable
from bascule.monitoring import Quotas, quotas
from bascule.serving.execution import Meters
from bascule.serving.execution.limiting import Allowance
from bascule.serving.execution.meters import (
    AWAY,
    EXHAUSTED,
    GRANTED,
    OPEN,
    ROWS,
    STATE,
    THROTTLED_NS,
    WANTED,
    today,
)

S = 1_000_000_000


@pytest.fixture
def catalogue(tmp_path):
    made = Catalogue(SqliteDatabase(tmp_path / "home"))
    made.create()
    return made


class Server:
    """One server with one worker, whose caller has a budget."""

    def __init__(self, folder, catalogue, name, limit):
        self.shared = Meters(folder / name)
        self.meter = self.shared.meter("m", "key:a", limit)
        self.meter.begin(today())
        self.sharing = Sharing(self.shared, lambda: Quotas(catalogue))

    def admits(self, rows):
        """As a worker does: within what is reserved, else it asks."""
        if self.used + rows <= self.granted:
            self.meter.take(0, rows, 0)
            return True
        self.meter.words[WANTED] = self.used + rows
        return False

    @property
    def used(self):
        return self.meter.words[ROWS]

    @property
    def granted(self):
        return self.meter.words[GRANTED]

    @property
    def state(self):
        return self.meter.words[STATE]


@pytest.fixture
def servers(tmp_path, catalogue):
    return lambda limit: [Server(tmp_path, catalogue, name, limit) for name in ("a", "b")]


def turn(servers):
    for server in servers:
        server.sharing.reserve(again=True)
        server.sharing.share(time.monotonic_ns())


def test_two_servers_use_a_budget_to_the_last_row_and_no_more(servers):
    both, draw = servers(30), random.Random(7)
    while all(server.state == OPEN for server in both):
        if not draw.choice(both).admits(draw.choice([1, 1, 1, 3])):
            turn(both)
    for server in both * 2:
        while server.admits(1):
            pass
        turn(both)
    assert sum(server.used for server in both) == 30


def test_what_one_server_holds_comes_back_to_the_other(servers):
    holder, other = servers(100)
    holder.admits(60)
    holder.sharing.reserve(again=False)
    assert holder.granted == 60
    assert holder.admits(5)
    other.admits(70)
    other.sharing.reserve(again=False)
    assert other.granted == 40
    holder.sharing.share(time.monotonic_ns())
    assert holder.granted == 5
    other.sharing.reserve(again=True)
    assert other.granted == 70


def test_a_budget_is_exhausted_once_no_server_gives_back(servers):
    server, _ = servers(10)
    assert not server.admits(10)
    server.sharing.reserve(again=False)
    assert server.admits(10)
    assert not server.admits(1)
    for _ in range(budgets.EXHAUSTED_TRIES):
        assert server.state == OPEN
        server.sharing.reserve(again=True)
        server.sharing.reserve(again=False)
    assert server.state == EXHAUSTED


def test_a_budget_that_was_exhausted_opens_again_once_a_call_gives_back(servers):
    """Of tokens, an answer takes what it may use, and gives back what it did not a minute later."""
    writing, refused = servers(1_000)
    writing.admits(900)
    writing.sharing.reserve(again=False)
    assert writing.admits(900)
    while refused.state == OPEN:
        assert not refused.admits(300)
        turn([refused])
    refused.sharing.reserve(again=False)
    assert (refused.state, refused.meter.words[WANTED]) == (EXHAUSTED, 0)
    writing.meter.take_back(0, 850, today())
    refused.meter.words[WANTED] = refused.used + 300  # as the next call that is refused leaves it
    refused.sharing.reserve(again=False)
    assert refused.state == EXHAUSTED, "it is asked for again no sooner than others give back"
    turn([refused, writing])
    refused.meter.words[WANTED] = refused.used + 300
    writing.sharing.reserve(again=True)
    assert writing.granted == 50, "what it wanted once it does not want again"
    refused.sharing.reserve(again=True)
    assert refused.state == OPEN
    assert refused.admits(300)
    assert writing.granted + refused.granted <= 1_000


def test_while_the_catalogue_is_away_what_is_reserved_is_used_and_no_more(servers):
    server, _ = servers(1_600)
    server.admits(10)
    server.sharing.reserve(again=False)
    assert server.granted == 100

    def away():
        raise Unavailable("the catalogue is away")

    reach, server.sharing.open_quotas = server.sharing.open_quotas, away
    assert server.admits(90)
    assert not server.admits(11)
    with pytest.raises(Unavailable):
        server.sharing.reserve(again=False)
    assert server.state == AWAY
    assert server.admits(10), "what is reserved"
    server.sharing.open_quotas = reach
    server.sharing.reserve(again=False)
    assert server.state == OPEN
    assert server.admits(1)


def test_without_a_catalogue_the_budget_is_of_the_server(tmp_path):
    server = Server(tmp_path, Catalogue(SqliteDatabase(tmp_path / "none")), "a", 10)
    server.admits(1)
    server.sharing.reserve(again=False)
    assert server.granted == 10


def test_a_control_process_that_is_replaced_goes_on_with_what_was_reserved(servers, catalogue):
    server, _ = servers(160)
    server.admits(1)
    server.sharing.reserve(again=False)
    server.admits(1)
    server.sharing = Sharing(server.shared, lambda: Quotas(catalogue))
    server.admits(10)
    server.sharing.reserve(again=False)
    assert server.granted == 10 + 150 // 16


@pytest.mark.parametrize("share", [0.97, 3.0])
def test_servers_keep_one_rate_together(servers, catalogue, monkeypatch, share):
    """A caller below its rate is refused nothing; one above gets its rate and the stated slack."""
    both, rate, seconds = servers(0), Allowance("", 0, "100/s", S // 100, 0, 5 * S // 100), 20
    start_ns, clock = time.monotonic_ns(), [0]
    monkeypatch.setattr(
        quotas, "database_now", lambda _: datetime.fromtimestamp(clock[0] / S, tz=UTC)
    )
    for server in both:
        server.sharing = Sharing(server.shared, server.sharing.open_quotas, 0, start_ns)
    taken, asked, due = 0, 0, [0.0, 0.0]
    for step in range(seconds * 1_000):
        now_ns = clock[0] = start_ns + step * S // 1_000
        for place, server in enumerate(both):
            due[place] += 0.1 * share / 2
            if due[place] >= 1:
                due[place] -= 1
                asked += 1
                if server.meter.room_ns(rate.burst_ns, now_ns) >= rate.cost_ns(1):
                    server.meter.take(rate.cost_ns(1), 1, now_ns)
                    taken += 1
            if (step + 200 * place) % 500 == 0:
                server.sharing.share(now_ns)
    if share < 1:
        assert taken == asked
    else:
        slack = 2 * (5 + 100 * budgets.SHARE_EVERY_S)
        assert 0.95 * 100 * seconds < taken <= 100 * seconds + slack


def test_callers_are_throttled_for_as_long_as_that_is_said(servers):
    server, _ = servers(0)
    server.sharing.throttled = lambda: [("m", "key:a")]
    server.sharing.throttle(1_000 * S)
    assert server.meter.words[THROTTLED_NS] == (1_000 + 15) * S


def test_the_thread_reserves_within_a_moment(servers):
    server, _ = servers(10)
    ended, after = threading.Event(), threading.Event()
    after.set()
    with budgets.sharing_budgets(server.shared, server.sharing.open_quotas, tuple, after=after):
        until_s = time.monotonic() + 5
        while not server.admits(1):
            assert not ended.wait(0.01)
            assert time.monotonic() < until_s
