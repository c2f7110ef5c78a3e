"""Limits over workers and servers: 2 servers of 4 workers, 8 callers at once with one address."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter

import numpy as np
import pytest
from tests.stores import open_stores
from tests.waiting import until

import bascule

BUDGET = 3_000
SECONDS, SETTLING_S = 10, 3
BODY = json.dumps({"instances": [[0.0] * 4]})


def ask_until_refused(port, counts, lock):
    """One caller: until three answers in a row say that the budget is used."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    seen, refused = Counter(), 0
    while refused < 3:
        connection.request("POST", "/v1/models/gb:predict", BODY)
        reply = connection.getresponse()
        text = reply.read()
        seen[reply.status] += 1
        refused = refused + 1 if reply.status == 429 else 0
        assert reply.status in (200, 429), text
    connection.close()
    with lock:
        counts.update(seen)


@pytest.fixture
def servers(serve, tmp_path):
    """`servers(store, **policy)`: two of them, with one catalogue."""

    def start(store, **policy):
        from sklearn.linear_model import LogisticRegression

        X = np.random.default_rng(0).normal(size=(500, 4))
        model = LogisticRegression().fit(X, X[:, 0] > 0)
        made = bascule.pack(
            model, name="gb", train=X, to=tmp_path / "gb", measure=False, baseline=False
        )
        open_stores(tmp_path, store).push(made.path, by="ada")
        env = {
            "BASCULE_HOME": str(tmp_path), "BASCULE_REGISTRY__STORE": store,
            "BASCULE_SERVING__WORKERS": "4", "BASCULE_POLICIES": json.dumps({"gb": policy}),
        }  # fmt: skip
        return [serve("gb/1", env=env) for _ in range(2)]

    return start


def together(act, servers):
    """Eight callers at once, four of each server; what they were answered."""
    counts, lock = Counter(), threading.Lock()
    callers = [
        threading.Thread(target=act, args=(server.port, counts, lock)) for server in servers * 4
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return counts


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
def test_two_servers_of_four_workers_answer_the_budget_and_no_more(kind, request, servers):
    store = request.getfixturevalue("postgresql_url") if kind == "postgresql" else "sqlite"
    counts = together(ask_until_refused, servers(store, budget_rows_per_day=BUDGET))
    assert BUDGET <= counts[200] <= BUDGET + 2 * 3, "one call of each other worker of a server"


@pytest.mark.slow
def test_two_servers_of_four_workers_keep_a_rate(servers):
    """Once both know that the caller is busy, which takes `SETTLING_S`."""
    both = servers("sqlite", rate="100/s", burst=50)
    for server in both:
        until(lambda port=server.control_port: is_answering(port))
    begins_s = time.monotonic() + SETTLING_S

    def ask(port, counts, lock):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        seen = Counter()
        while (now_s := time.monotonic()) < begins_s + SECONDS:
            connection.request("POST", "/v1/models/gb:predict", BODY)
            reply = connection.getresponse()
            reply.read()
            seen[reply.status] += now_s >= begins_s
        connection.close()
        with lock:
            counts.update(seen)

    counts = together(ask, both)
    slack = 2 * (50 + 100 * 0.5) + 2 * 3
    assert counts[429], "they ask more than the rate"
    assert 0.8 * 100 * SECONDS <= counts[200] <= 100 * SECONDS + slack, counts


def is_answering(port):
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/api/v1/health")
        connection.getresponse().read()
    except OSError:
        return False
    finally:
        connection.close()
    return True
