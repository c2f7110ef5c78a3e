"""Budgets and rates over servers: what is reserved, given back, and never exceeded."""

from __future__ import annotations

import random
import threading
import time

import pytest

from bascule.catalogue import Catalogue, SqliteDatabase
from bascule.control.loops import budgets
from bascule.control.loops.budgets import Sharing
from bascule.core import Unavailable
from bascule.monitoring import Quotas
from bascule.serving.execution import Meters
from bascule.serving.execution.limiting import Rate
from bascule.serving.execution.meters import AWAY, EXHAUSTED, OPEN, today

S = 1_000_000_000


@pytest.fixture
def catalogue(tmp_path):
    made = Catalogue(SqliteDatabase(tmp_path / "home"))
    made.create()
    return made


class Server:
    """One server with one worker, whose caller has a budget; time stands where the test says."""

    def __init__(self, folder, catalogue, name, limit):
        self.shared = Meters(folder / name, 1)
        self.meter = self.shared.meter("m", "key:a", limit)
        self.sharing = Sharing(self.shared, lambda: Quotas(catalogue), name)
        self.limit = limit

    def admits(self, rows):
        """As a worker does: within what is reserved, else it asks."""
        if self.meter.rows(today()) + rows <= self.meter.granted(today()):
            self.meter.take(0, rows, today())
            return True
        self.meter.want(self.meter.rows(today()) + rows, today())
        return False

    @property
    def used(self):
        return self.meter.rows(today())


@pytest.fixture
def servers(tmp_path, catalogue):
    return lambda limit: [Server(tmp_path, catalogue, name, limit) for name in ("a", "b")]


def turn(servers, now_s):
    for server in servers:
        server.sharing.grant(now_s)
        server.sharing.share(now_s, lambda _: False)


def test_two_servers_use_a_budget_to_the_last_row_and_no_more(servers):
    both, now_s, draw = servers(30), 100.0, random.Random(7)
    while all(server.meter.state(today()) == OPEN for server in both):
        server = draw.choice(both)
        if not server.admits(draw.choice([1, 1, 1, 3])):
            now_s += 0.3
            turn(both, now_s)
    for server in both * 2:
        while server.admits(1):
            pass
        turn(both, now_s := now_s + 0.3)
    assert sum(server.used for server in both) == 30


def test_what_one_server_holds_comes_back_to_the_other(servers):
    holder, other = servers(100)
    holder.admits(60)
    holder.sharing.grant(100.0)
    assert holder.meter.granted(today()) == 60, "and the call that asked is gone"
    holder.meter.want(0, today())
    other.admits(70)
    other.sharing.grant(100.0)
    assert other.meter.granted(today()) == 40
    holder.sharing.share(100.5, lambda _: False)
    assert holder.meter.granted(today()) == 0
    other.sharing.grant(100.5)
    assert other.admits(70)


def test_a_call_under_way_while_a_server_gives_back_is_counted(servers):
    holder, other = servers(100)
    holder.admits(50)
    holder.sharing.grant(100.0)
    holder.meter.want(0, today())
    other.admits(100)
    other.sharing.grant(100.0)

    def admitted_just_before(_seconds):
        holder.meter.take(0, 5, today())
        return False

    holder.sharing.share(100.5, admitted_just_before)
    assert holder.meter.granted(today()) == 5
    other.sharing.grant(100.5)
    assert other.meter.granted(today()) == 95


def test_a_budget_is_exhausted_once_no_server_gives_back(servers):
    server, _ = servers(10)
    assert not server.admits(10)
    server.sharing.grant(100.0)
    assert server.admits(10)
    server.meter.want(11, today())
    for now_s, state in ((100.1, OPEN), (101.0, OPEN), (101.9, EXHAUSTED)):
        server.sharing.grant(now_s)
        assert server.meter.state(today()) == state


def test_while_the_catalogue_is_away_what_is_reserved_is_used_and_no_more(servers):
    server, _ = servers(1_600)
    server.admits(10)
    server.sharing.grant(100.0)
    reserved = server.meter.granted(today())
    assert reserved == 100

    def away():
        raise Unavailable("the catalogue is away")

    reach, server.sharing.open_quotas = server.sharing.open_quotas, away
    assert server.admits(90)
    assert not server.admits(11)
    with pytest.raises(Unavailable):
        server.sharing.grant(101.0)
    assert server.meter.state(today()) == AWAY
    assert server.admits(10), "what is reserved"
    server.sharing.open_quotas = reach
    server.meter.want(101, today())
    server.sharing.grant(102.0)
    assert server.meter.state(today()) == OPEN
    assert server.admits(1)


def test_without_a_catalogue_the_budget_is_of_the_server(tmp_path):
    server = Server(tmp_path, Catalogue(SqliteDatabase(tmp_path / "none")), "a", 10)
    server.admits(1)
    server.sharing.grant(100.0)
    assert server.meter.granted(today()) == 10


def test_a_control_process_that_is_replaced_goes_on_with_what_was_reserved(servers, catalogue):
    server, _ = servers(160)
    server.admits(1)
    server.sharing.grant(100.0)
    server.admits(1)
    server.sharing = Sharing(server.shared, lambda: Quotas(catalogue), "next")
    server.meter.want(11, today())
    server.sharing.grant(200.0)
    assert server.meter.granted(today()) == 10 + 150 // 16


@pytest.mark.parametrize("share", [0.9, 3.0])
def test_servers_keep_one_rate_together(servers, share):
    """A caller below its rate is refused nothing; one above gets its rate and the stated slack."""
    both, rate = servers(0), Rate.parse("100/s", 20)
    start_ns = time.monotonic_ns()
    taken, asked, seconds = 0, 0, 5
    for step in range(seconds * 1_000):
        now_ns = start_ns + step * S // 1_000
        for server in both:
            if (step * 100 * share / 2) % 1_000 < 100 * share / 2:
                asked += 1
                if server.meter.room_ns(rate.burst_ns, now_ns) >= rate.cost_ns(1):
                    server.meter.take(rate.cost_ns(1), 1, 1)
                    taken += 1
        if step % 500 == 0:
            for server in both:
                server.sharing.share(now_ns / S, lambda _: False)
    if share < 1:
        assert taken == asked
    else:
        slack = 20 + 100 * budgets.SHARE_EVERY_S
        assert 0.85 * 100 * seconds < taken <= 100 * seconds + 20 + slack * 2


def test_the_thread_reserves_within_a_moment(servers):
    server, _ = servers(10)
    ended, after = threading.Event(), threading.Event()
    after.set()
    with budgets.sharing_budgets(server.shared, server.sharing.open_quotas, after=after):
        until_s = time.monotonic() + 5
        while not server.admits(1):
            assert not ended.wait(0.01)
            assert time.monotonic() < until_s
