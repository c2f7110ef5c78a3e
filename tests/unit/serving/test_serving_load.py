"""What a server does between two looks at it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, strategies as st

from bascule.serving.telemetry.counters import BUCKETS_S
from bascule.serving.telemetry.load import Look, VersionLook, WorkerLook, load_between, quantile_s

BOUNDS = (0.001, 0.01, 0.1)


def look(at_s, *versions, workers=()):
    other = VersionLook("", "", True, 0, 0, 0, (0, 0, 0, 0), 0)
    return Look("1", at_s, BOUNDS, (other, *versions), tuple(workers))


def version(requests, errors=0, rows=0, buckets=None, open_calls=0, model="gb"):
    buckets = buckets or (requests, 0, 0, 0)
    return VersionLook(model, "1", True, requests, errors, rows, buckets, open_calls)


def worker(pid=10, cpu_s=0.0):
    return WorkerLook(0, pid, True, 0, cpu_s, 1 << 20, 1 << 10)


def test_rates_are_what_was_done_in_between_by_the_time_it_took():
    load = load_between(
        look(100.0, version(10, 1, 30)), look(102.0, version(50, 5, 130, open_calls=7))
    )
    (one,) = load.versions
    assert (one.requests_per_s, one.errors_per_s, one.rows_per_s) == (20.0, 2.0, 50.0)
    assert (one.open_calls, one.requests) == (7, 50)
    assert load.inference == replace(one, model="", version="")


def test_all_versions_together_are_their_sum_and_their_common_histogram():
    slow = version(10, buckets=(0, 0, 10, 0), model="slow")
    zero = version(0, buckets=(0, 0, 0, 0))
    load = load_between(look(1.0, zero), look(2.0, version(90), slow))
    assert load.inference.requests_per_s == 100.0
    assert load.inference.p50_s < 0.001 < load.inference.p99_s
    assert load.other.requests_per_s == 0.0


def test_a_version_that_was_loaded_meanwhile_has_done_all_that_it_counted():
    load = load_between(look(1.0), look(3.0, version(10)))
    assert load.versions[0].requests_per_s == 5.0


def test_durations_are_those_of_the_time_between_and_none_where_there_was_nothing():
    before = look(1.0, version(1_000, buckets=(0, 0, 1_000, 0)))
    after = look(2.0, version(1_010, buckets=(10, 0, 1_000, 0)))
    assert load_between(before, after).versions[0].p99_s < 0.001
    assert load_between(after, replace(after, at_s=3.0)).versions[0].p99_s is None


def test_a_server_that_was_started_again_has_counted_from_zero():
    load = load_between(look(500.0, version(1_000)), look(10.0, version(20)))
    assert load.versions[0].requests_per_s == 2.0
    load = load_between(look(500.0, version(1_000)), look(510.0, version(20)))
    assert load.versions[0].requests_per_s == 2.0


def test_a_worker_that_was_started_again_has_only_its_own_processor_time():
    before = look(1.0, workers=[worker(10, 100.0)])
    same = load_between(before, look(3.0, workers=[worker(10, 101.0)]))
    other = load_between(before, look(3.0, workers=[worker(11, 0.5)]))
    assert same.workers[0].cpu_percent == 50.0
    assert other.workers[0].cpu_percent == 25.0


def test_two_looks_at_the_same_moment_divide_by_nothing():
    assert load_between(look(1.0, version(5)), look(1.0, version(5))).versions


@pytest.mark.parametrize(
    ("buckets", "share", "expected"),
    [
        ((0, 0, 0, 0), 0.5, None),
        ((10, 0, 0, 0), 0.5, 0.0005),
        ((10, 0, 0, 0), 1.0, 0.001),
        ((1, 0, 0, 1), 0.5, 0.001),
        ((1, 0, 0, 1), 0.51, 0.1),
        ((0, 0, 0, 3), 0.01, 0.1),
        ((0, 10, 0, 0), 0.5, 0.0055),
    ],
)
def test_a_quantile_rises_evenly_within_its_bucket(buckets, share, expected):
    assert quantile_s(BOUNDS, buckets, share) == (expected and pytest.approx(expected))


@given(
    st.lists(st.floats(1e-5, 9.0), min_size=1, max_size=200), st.sampled_from([0.1, 0.5, 0.9, 0.99])
)
def test_a_quantile_is_in_the_bucket_of_the_true_one(durations_s, share):
    buckets = np.bincount(np.searchsorted(BUCKETS_S, durations_s), minlength=len(BUCKETS_S) + 1)
    true_s = np.quantile(durations_s, share, method="inverted_cdf")
    place = int(np.searchsorted(BUCKETS_S, true_s))
    lower_s = BUCKETS_S[place - 1] if place else 0.0
    assert lower_s <= quantile_s(BUCKETS_S, buckets.tolist(), share) <= BUCKETS_S[place]
