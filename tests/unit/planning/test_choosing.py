"""Goals, traffic and prices are read, and the cheapest plan within the goals is first."""

from __future__ import annotations

import math
from importlib.resources import files

import msgspec
import numpy as np
import pytest

from bascule.core import Invalid
from bascule.planning import (
    Goals,
    Load,
    Prices,
    Service,
    capacity_hz,
    choose,
    instances_for,
    measured_of,
    rates_of,
)
from bascule.ship import Resources

SERVICE = Service({1: 0.01}, spread=(1.0,), scales=(1.0,))
POD = Resources(cpu_millis=250, memory_mib=1_024)
PRICES = Prices.parse(b"""
as_of = "2026-11-01"
currency = "EUR"
[instances]
one = { vcpus = 1, memory_gib = 2, price = 1.0 }
four = { vcpus = 4, memory_gib = 8, price = 3.0 }
tiny = { vcpus = 1, memory_gib = 0.5, price = 0.1 }
""")


FASTER = Prices(
    "2026-11-01", "EUR", {"fast": msgspec.structs.replace(PRICES.instances["one"], speed=2.0)}
)


SEARCHED = {}


@pytest.fixture(autouse=True)
def searched_once(monkeypatch):
    """The most requests of a worker are simulated for half a second: once for equal limits."""

    def search(service, limits_s):
        key = repr((service, limits_s))
        if key not in SEARCHED:
            SEARCHED[key] = capacity_hz(service, limits_s)
        return SEARCHED[key]

    monkeypatch.setattr("bascule.planning.choosing.capacity_hz", search)


def plans_for(rates, *goals, prices=PRICES, **options):
    return choose(Load(SERVICE, rates, Goals.parse(goals), POD), prices, **options)


def test_goals_are_read_together_and_one_by_one():
    together = Goals.parse(["p99 <= 50 ms, availability 99.9 %, cost min"])
    assert together == Goals.parse(["p99 <= 50ms", "availability >= 99.9%"])
    assert together == Goals({0.99: 0.05}, pytest.approx(0.999))


@pytest.mark.parametrize(
    "text", ["p99 <= 50", "availability 100 %", "p99 <= fast", "cost <= 5", ""]
)
def test_a_goal_that_cannot_be_read_is_refused(text):
    with pytest.raises(Invalid):
        Goals.parse([text])


def test_goals_without_a_limit_of_time_are_refused():
    with pytest.raises(Invalid, match="how soon"):
        Goals.parse(["availability 99 %"])


def test_traffic_is_a_rate_or_a_table():
    assert rates_of("120 requests per minute") == [2.0]
    assert rates_of("time,requests_per_s\nmon,5\ntue,10\n") == [5.0, 10.0]


@pytest.mark.parametrize(
    "text", ["many", "0 per second", "requests_per_s\n-1\n", "requests_per_s\nnan"]
)
def test_traffic_that_is_no_rate_is_refused(text):
    with pytest.raises(Invalid, match="no rate"):
        rates_of(text)


@pytest.mark.parametrize(("needed", "goal"), [(1, 0.999), (3, 0.9999), (20, 0.99)])
def test_spare_instances_are_those_of_the_binomial_law(needed, goal):
    def works(count):
        tail = range(needed, count + 1)
        return sum(math.comb(count, up) * 0.99**up * 0.01 ** (count - up) for up in tail)

    count = instances_for(needed, 0.99, goal)
    assert works(count) >= goal
    assert count == needed or works(count - 1) < goal


def test_pods_grow_with_the_rate_and_the_cheapest_instances_are_first():
    best = plans_for([1_000.0], "p99 <= 50 ms")[0]
    pods = math.ceil(1_000 / best.most_hz)
    assert (best.way, best.instance) == ("real time", "four")
    assert best.instances == math.ceil(pods / 4)
    assert best.replicas >= pods
    assert best.cost == pytest.approx(best.instances * 3.0 * 730)
    assert best.latencies_s[0.99].high <= 0.05


def test_the_autoscaler_goes_from_the_lowest_rate_to_beyond_the_highest():
    best = plans_for([1.0, 1_000.0], "p99 <= 50 ms")[0]
    assert best.min_replicas < best.replicas < best.max_replicas
    assert 80 < best.target_cpu_percent < 400  # of a quarter of a core


def test_a_faster_instance_keeps_a_limit_that_others_miss_at_any_rate():
    assert plans_for([10.0], "p50 <= 8 ms") == []
    assert plans_for([10.0], "p50 <= 8 ms", prices=FASTER)[0].instance == "fast"


def test_answers_that_may_take_an_hour_are_scored_in_batches():
    best = plans_for([1.0], "p99 <= 1h")[0]
    assert (best.way, best.every_s) == ("batch", 1_800)
    assert best.cost < plans_for([1.0], "p99 <= 50 ms")[0].cost


def test_more_rows_than_a_job_scores_before_the_next_one_are_no_plan():
    assert all(plan.way == "real time" for plan in plans_for([120.0], "p99 <= 1h"))


def test_devices_answer_for_nothing_where_they_are_fast_enough():
    assert plans_for([10.0], "p99 <= 50 ms", device_factor=4.0)[0].way == "edge"
    assert plans_for([10.0], "p99 <= 50 ms", device_factor=6.0)[0].way == "real time"


def test_the_example_of_prices_can_be_read_and_others_say_what_is_wrong():
    assert Prices.parse((files("bascule.planning") / "prices.toml").read_bytes()).as_of
    with pytest.raises(Invalid, match="vcpus"):
        Prices.parse(b'as_of = ""\ncurrency = ""\n[instances]\nx = { vcpus = 0 }')


def test_a_load_test_splits_a_request_into_its_run_overhead_and_the_time_outside():
    """5 ms of CPU time for a run of 4 ms; the client sees 2 ms more."""
    times = np.column_stack([np.full(50, 0.00203), np.full(50, 0.007)])
    service = measured_of([(times, 50 * 0.00503)] * 3, np.full(9, 0.0085), Service({1: 0.004}))
    assert service.run_s[1] == pytest.approx(0.004)
    assert service.overhead_s == pytest.approx(0.001)
    assert service.outside_s == pytest.approx(0.002)
    assert set(service.scales) == {1.0}
    assert service.starts_s == pytest.approx([0.0015] * len(service.starts_s))


def test_a_worker_that_is_faster_than_at_packing_has_shorter_runs():
    times = np.column_stack([np.full(50, 0.001), np.full(50, 0.003)])
    service = measured_of([(times, 50 * 0.00203)], np.full(9, 0.003), Service({1: 0.004}))
    assert service.batches_s()[0] == pytest.approx(0.002, rel=0.02)
