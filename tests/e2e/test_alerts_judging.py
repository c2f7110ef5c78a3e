"""Alerts of a running server: the drift of yesterday, and a catalogue that is away."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime

import httpx
import pytest
from tests.production import Day, fill, packed as packed_flights
from tests.receivers import hook
from tests.stores import open_database, postgresql

import bascule
from bascule.monitoring.alerts import AlertStore


@pytest.fixture
def there():
    with hook() as made:
        yield made


@pytest.fixture(scope="module")
def flights(tmp_path_factory):
    return packed_flights(tmp_path_factory.mktemp("bundle"))


def settings(there, home, **others):
    receivers = {"hook": {"url": there.url, "timeout_s": 2}}
    return {
        "BASCULE_HOME": str(home), "BASCULE_MONITORING__LEDGER": "on",
        "BASCULE_ALERTS__RECEIVERS": json.dumps(receivers), "BASCULE_ALERTS__EVERY_S": "1",
        "BASCULE_ALERTS__FOR_S": "0", "BASCULE_ALERTS__KEEP_FIRING_S": "0", **others,
    }  # fmt: skip


def push(home, bundle, monkeypatch, **registry):
    monkeypatch.setenv("BASCULE_HOME", str(home))
    for name, value in registry.items():
        monkeypatch.setenv(f"BASCULE_REGISTRY__{name.upper()}", value)
    bascule.push(bundle.path)


WAIT_S = 240
FOR_EVER = datetime.max.replace(tzinfo=UTC)


def wait(condition, seconds=WAIT_S):
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.05)


def away_s(server):
    text = httpx.get(f"http://127.0.0.1:{server.port}/metrics", timeout=WAIT_S).text
    return float(re.search(r"^bascule_catalogue_away_seconds (.*)$", text, re.M)[1])


def kinds(there):
    """Of the first alert of each notification; one that is sent again has the same id."""
    distinct = {one["id"]: (one["alerts"][0]["kind"], one["kind"]) for one in there.bodies}
    return list(distinct.values())


@pytest.mark.slow
def test_the_watcher_judges_yesterday_and_notifies_a_receiver(
    serve, flights, there, tmp_path, monkeypatch
):
    home = tmp_path / "home"
    push(home, flights, monkeypatch)
    fill(home, flights, "1", [Day(3), Day(2), Day(1, wind=14.0)])
    serve("late/1", env=settings(there, home))
    there.wait(lambda it: kinds(it), WAIT_S)
    (alert,) = [one for one in there.bodies[0]["alerts"] if one["column"] == "wind"]
    assert (alert["source"], alert["model"], alert["version"]) == ("drift", "late", "1")
    assert alert["sentence"].startswith("late/1 on ")


@pytest.mark.slow
def test_predictions_go_on_and_no_alert_is_lost_while_postgresql_is_stopped(
    serve, flights, there, tmp_path, monkeypatch
):
    home = tmp_path / "home"
    with postgresql() as database:
        push(home, flights, monkeypatch, store=database.url)
        fill(home, flights, "1", [Day(1, wind=14.0)])
        env = settings(there, home, BASCULE_REGISTRY__STORE=database.url)
        server = serve("late/1", env=env)
        there.wait(lambda it: ("drift", "firing") in kinds(it), WAIT_S)
        store = AlertStore(open_database(home, database.url))
        wait(lambda: not store.due(FOR_EVER))

        database.stop()
        there.wait(lambda it: ("catalogue_away", "firing") in kinds(it), WAIT_S)
        rows = {"wind": [10.0], "distance": [500.0], "carrier": ["AA"]}
        with bascule.Client(f"http://127.0.0.1:{server.port}", model="late") as client:
            assert len(client.predict(rows)["label"]) == 1
        assert away_s(server) > 0

        database.start()
        there.wait(lambda it: ("catalogue_away", "resolved") in kinds(it), WAIT_S)
        assert away_s(server) == 0
        wait(lambda: not store.due(FOR_EVER))
        assert {one.state for one in store.alerts()} == {"firing"}
        server.end()
    # The drift that fired before fires still: it is neither resolved nor notified again.
    found = kinds(there)
    assert found == [
        ("drift", "firing"), ("catalogue_away", "firing"), ("catalogue_away", "resolved"),
    ]  # fmt: skip
