"""The simulation against exact results: M/M/k (Erlang C), M/D/1, and batches counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from bascule.planning import Service, capacity_hz, forecast, simulate

ALONE = Service({1: 0.001}, spread=(1.0,), scales=(1.0,))


def erlang_c_wait(servers: int, load: float) -> float:
    """Mean wait in M/M/k as a multiple of the mean service time (Erlang 1917)."""
    offered, blocked = servers * load, 1.0
    for busy in range(1, servers + 1):
        blocked = offered * blocked / (busy + offered * blocked)
    return blocked / (1 - load * (1 - blocked)) / (servers * (1 - load))


def mean_wait(servers: int, load: float, *, is_exponential: bool, seed: int = 7) -> float:
    random = np.random.default_rng(seed)
    shape = 2_500, 1_000
    arrivals = np.cumsum(random.exponential(size=shape), axis=0) / (servers * load)
    took = random.exponential(size=shape) if is_exponential else np.ones(shape)
    seconds, _ = simulate(arrivals, np.ones(1), took, np.zeros(shape), servers)
    return float((seconds - took)[500:].mean())


@pytest.mark.parametrize(("servers", "load"), [(1, 0.5), (2, 0.5)])
def test_the_mean_wait_of_exponential_services_is_that_of_erlang(servers, load):
    waited = mean_wait(servers, load, is_exponential=True)
    assert waited == pytest.approx(erlang_c_wait(servers, load), rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("servers", "load"), [(1, 0.7), (3, 0.7), (8, 0.8)])
def test_the_mean_wait_of_many_servers_under_load_is_that_of_erlang(servers, load):
    waits = [mean_wait(servers, load, is_exponential=True, seed=seed) for seed in range(8)]
    assert np.mean(waits) == pytest.approx(erlang_c_wait(servers, load), rel=0.01)


def test_the_mean_wait_of_equal_services_is_that_of_pollaczek_and_khinchine():
    load = 0.6
    waited = mean_wait(1, load, is_exponential=False)
    assert waited == pytest.approx(load / (2 * (1 - load)), rel=0.01)


def test_the_mean_wait_where_idle_servers_take_longer_is_that_of_welch():
    """Welch 1964: services of 1, of 1.5 where the server was idle; rates are loads."""
    rate, service, first = 0.5, 1.0, 1.5
    random, shape = np.random.default_rng(7), (2_500, 1_000)
    arrivals = np.cumsum(random.exponential(size=shape), axis=0) / rate
    seconds, _ = simulate(arrivals, np.ones(1), np.ones(shape), np.full(shape, first - service))
    idle = (1 - rate * service) / (1 - rate * service + rate * first)
    waited = rate * service**2 / (2 * (1 - rate * service))
    waited += rate * (first**2 - service**2) / (2 * (1 - rate * service + rate * first))
    mean = seconds[500:].mean()
    assert mean == pytest.approx(waited + service + idle * (first - service), rel=0.01)


def test_a_worker_that_becomes_free_takes_all_that_wait_up_to_the_limit():
    """The first runs alone; 2 to 4 wait for it, and two of them fit into the next batch."""
    arrivals = np.array([[0.0], [0.1], [0.2], [0.3]])
    seconds, busy = simulate(arrivals, np.array([1.0, 1.5]), np.ones((4, 1)), np.zeros((4, 1)))
    assert (arrivals + seconds).ravel().tolist() == pytest.approx([1.0, 2.5, 2.5, 3.5])
    assert busy.tolist() == pytest.approx([3.5])


def test_a_request_at_no_load_takes_its_service_and_the_time_outside():
    service = Service({1: 0.001}, overhead_s=0.0005, outside_s=0.002, spread=(1.0,), scales=(1.0,))
    expected = forecast(service, 0.001)
    assert expected.latencies_s[0.5] == pytest.approx((0.0035, 0.0035, 0.0035))
    assert expected.busy == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_a_higher_rate_never_looks_faster(share):
    rates = range(50, 1_000, 300)
    at = [forecast(ALONE, rate).latencies_s[share].middle for rate in rates]
    assert np.diff(at).min() > -1e-9


def test_without_a_load_test_the_interval_is_wider():
    unmeasured = forecast(Service({1: 0.001}), 300).latencies_s[0.99]
    measured = forecast(ALONE, 300).latencies_s[0.99]
    assert unmeasured.high / unmeasured.low > 1.3 * measured.high / measured.low


def test_the_most_requests_keep_the_limit_and_five_percent_more_do_not():
    most_hz = capacity_hz(ALONE, {0.99: 0.005})
    assert forecast(ALONE, most_hz).latencies_s[0.99].high <= 0.005
    assert forecast(ALONE, most_hz * 1.05).latencies_s[0.99].high > 0.005


def test_no_rate_keeps_a_limit_below_the_time_of_a_single_request():
    assert capacity_hz(ALONE, {0.5: 0.0009}) == 0.0
