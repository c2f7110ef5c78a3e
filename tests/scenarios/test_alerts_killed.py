"""Processes that watch for alerts are killed with no warning: nothing is lost, nothing is new."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest
from tests.receivers import hook
from tests.stores import open_database
from tests.tiers import first_of

from bascule.catalogue import events
from bascule.monitoring.alerts import AlertStore

# One source, which finds something wrong while a file is there.
WATCHER = """
import signal, sys
from datetime import UTC, datetime
from pathlib import Path
from bascule.catalogue import Catalogue, SqliteDatabase
from bascule.monitoring.alerts import Finding, Observation, Routing, Watcher, Watching
from bascule.monitoring.alerts.sinks import Receiver

home, url = Path(sys.argv[1]), sys.argv[2]

class Source:
    name, every_s = "drift", 0.0
    def again(self): ...
    def look(self, now):
        wrong = (home / "wrong").exists()
        found = Finding("drift", "drift", "late", "warning", "wind drifts", 1, 0, now)
        return [Observation("drift", "", "late", (found,) if wrong else ())]

watching = Watching(
    shared=[Source()], receivers=[Receiver(name="it", kind="webhook", url=url, timeout_s=0.2)],
    routing=Routing(("it",)), round_s=0.02,
)
watcher = Watcher(Catalogue(SqliteDatabase(home / "catalogue.db")), watching)
watcher._courier._first_s = 0.05
watcher.start()
print("started", flush=True)
signal.pause()
"""


def start(home, there):
    made = subprocess.Popen(
        [sys.executable, "-c", WATCHER, str(home), there.url], stdout=subprocess.PIPE
    )
    assert made.stdout.readline() == b"started\n"
    return made


@pytest.mark.parametrize("kills", first_of([2, 60]))
def test_each_change_is_notified_once_whatever_is_killed_and_refused(tmp_path, kills):
    random.seed(kills)
    catalogue = open_database(tmp_path, "sqlite")
    catalogue.create()
    wrong = tmp_path / "wrong"
    with hook() as there:
        running = [start(tmp_path, there), start(tmp_path, there)]
        for _ in range(kills):
            there.answers += [(503, {})] * random.randrange(2)
            wrong.unlink() if wrong.exists() else wrong.touch()
            time.sleep(random.uniform(0.0, 1.2))  # where it is killed is the luck of the test
            killed = running.pop(random.randrange(2))
            killed.send_signal(signal.SIGKILL)
            killed.communicate()
            running.append(start(tmp_path, there))
        wrong.touch()
        settle(AlertStore(catalogue), ["firing"])
        wrong.unlink()
        settle(AlertStore(catalogue), [])
        for one in running:
            one.kill()
            one.communicate()
    distinct = {one["id"]: one for one in there.taken}
    assert all(one == distinct[one["id"]] for one in there.taken)
    kinds = [one["kind"] for one in distinct.values()]
    assert kinds == ["firing", "resolved"] * (len(kinds) // 2)
    with catalogue.read() as connection:
        kept = [one.kind for one in events.find(connection, kinds=["alert_firing"])]
    assert len(kept) == len(kinds) // 2


def settle(store, states):
    """Until the alerts are in these states and nothing waits to be sent."""
    ends = time.monotonic() + 60
    for_ever = datetime.max.replace(tzinfo=UTC)
    while [one.state for one in store.alerts()] != states or store.due(for_ever):
        assert time.monotonic() < ends, (store.alerts(), store.undelivered())
        time.sleep(0.05)
