"""Two servers of one PostgreSQL: a plan within a second, a rollout with the evidence of both."""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pytest
import sqlalchemy as sa
from tests.stores import open_database, open_stores
from tests.waiting import until

import bascule
from bascule.endpoints import Arm, Endpoints, EndpointStore, Plan, PlanEvent
from bascule.release.rollouts import RolloutRequest, Rollouts, RolloutStore, summed


@pytest.fixture
def hosts(serve, tmp_path, postgresql_url):
    """Both servers, and the endpoints and rollouts in their catalogue."""
    from sklearn.linear_model import LogisticRegression

    X = np.random.default_rng(0).normal(size=(500, 4))
    registry = open_stores(tmp_path, postgresql_url)
    for number in (1, 2):
        model = LogisticRegression(C=number).fit(X, X[:, 0] > 0)
        made = bascule.pack(
            model, name="gb", train=X, to=tmp_path / f"{number}", measure=False, baseline=False
        )
        registry.push(made.path, by="ada")
    catalogue = open_database(tmp_path, postgresql_url)
    env = {"BASCULE_HOME": str(tmp_path), "BASCULE_REGISTRY__STORE": postgresql_url}
    endpoints = Endpoints(EndpointStore(catalogue), lambda: registry)
    endpoints.deploy("gb/1", by="ada")
    store = RolloutStore(catalogue)
    return SimpleNamespace(
        servers=[serve("gb", env=env) for _ in range(2)], endpoints=endpoints, store=store,
        rollouts=Rollouts(store, endpoints), url=postgresql_url,
    )  # fmt: skip


@contextmanager
def traffic(servers):
    """A caller of each server; the versions that answered by server, and all errors."""
    seen = [Counter() for _ in servers]
    errors: list[Exception] = []
    stop = threading.Event()
    row = np.zeros((1, 4))

    def ask(server, count):
        with bascule.Client(f"http://127.0.0.1:{server.port}", model="gb") as client:
            while not stop.is_set():
                try:
                    count[client.predict(row).version] += 1
                except Exception as error:
                    errors.append(error)
                time.sleep(0.001)

    threads = [threading.Thread(target=ask, args=pair) for pair in zip(servers, seen, strict=True)]
    for one in threads:
        one.start()
    try:
        yield seen
    finally:
        stop.set()
        for one in threads:
            one.join()
    assert not errors


@contextmanager
def away(url):
    """The database refuses connections, and has ended those that were open."""
    import psycopg

    server, _, name = url.rpartition("/")
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
        )
        yield
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def share(number, percent):
    arms = (Arm("current", "gb/1", 100.0 - percent), Arm("candidate", "gb/2", percent))
    return Plan("gb", number, arms)


def until_answered(seen, version):
    """How long it takes until each server has answered by a version again."""
    clock, before = time.monotonic(), [one[version] for one in seen]
    until(lambda: all(one[version] > n for one, n in zip(seen, before, strict=True)))
    return time.monotonic() - clock


@pytest.mark.slow
def test_a_plan_reaches_both_hosts_within_a_second(hosts):
    took = []
    with traffic(hosts.servers) as seen:
        until(lambda: all(one["1"] for one in seen))
        for number in range(2, 12):
            plan = share(number, 100.0 * (number % 2 == 0))
            hosts.endpoints.apply(plan, PlanEvent("changed", datetime.now(UTC), "ada", "", "test"))
            took.append(until_answered(seen, "21"[number % 2]))
    assert statistics.median(took[1:]) < 1.0, took  # the first one loads gb/2


@pytest.mark.slow
def test_a_rollout_has_the_evidence_of_both_and_outlives_a_catalogue_that_is_away(hosts):
    with traffic(hosts.servers) as seen:
        asked = RolloutRequest(
            version="gb/2", guards=("errors +2 pp",), steps_percent=(20, 50, 100), step_s=1.0
        )
        rollout = hosts.rollouts.begin(asked, by="ada").rollout.id
        until(lambda: all(one["2"] for one in seen))
        with away(hosts.url):
            before = [sum(one.values()) for one in seen]
            until(
                lambda: all(
                    sum(one.values()) > n + 100 for one, n in zip(seen, before, strict=True)
                )
            )
        found = until(lambda: (one := hosts.rollouts.get(rollout)).ended_at and one)
    assert type(found.latest.state).__name__ == "Promoted", found.latest.sentence
    decisions = hosts.rollouts.decisions(rollout)
    assert [one.number for one in decisions] == [1, 2, 3]
    assert hosts.rollouts.replay(rollout) == []
    sealed = summed([one for one, _ in hosts.store.intervals(rollout)])
    with hosts.store.catalogue.read() as connection:
        sources = connection.execute(sa.text("SELECT source FROM rollout_counts")).scalars().all()
    assert len({source.rpartition("/")[0] for source in sources}) == 2, "evidence of both"
    assert sealed.candidate.requests + sealed.current.requests > 0
