"""Requests that differ from the training data raise drift of a channel, from what devices report.

The agent is a process of its own; the control API takes its reports over HTTP.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from urllib.error import HTTPError

import numpy as np
import pytest
from tests.controls import Services, asking, control_app
from tests.edge_devices import Publisher
from tests.unit.catalogue.conftest import (  # noqa: F401  # migrations run once for all tests
    catalogue,
    current,
    new_file,
    new_server_database,
)
from tests.waiting import until

from bascule.bundle import load
from bascule.edge import Home, device_statements, lay_statements
from bascule.fleet import Fleet
from bascule.monitoring import measure_production_drift

FIRST = datetime(1970, 1, 1, tzinfo=UTC)


class NoRepository:
    """Devices of this test follow a folder, which they trust as it is."""

    def root(self):
        return b""


@pytest.fixture
def fleet(catalogue):  # noqa: F811
    return Fleet(catalogue, NoRepository(), None)


@pytest.fixture(scope="module")
def bundle(packed):
    from sklearn.linear_model import LogisticRegression

    rows = np.random.default_rng(0).normal(size=(500, 4))
    labels = rows.sum(axis=1) > 0
    path = packed("late", LogisticRegression().fit(rows, labels), rows, (rows[:200], labels[:200]))
    lay_statements(path, device_statements(path, by="test"))
    return path


@contextmanager
def agent(home, repository, server, device):
    """A device that reports each second; its address."""
    plan = home.parent / "plan.json"
    plan.write_text(json.dumps({"look_s": 1.0, "report_s": 1.0, "sample_rows": 2}))
    command = [
        sys.executable, "-m", "tests.edge_devices", "run", "--repository", repository,
        "--channel", "stable", "--home", home, "--server", server, "--device", device,
        "--plan", plan, "--listen", "127.0.0.1:0",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        yield json.loads(process.stdout.readline())["listening"]
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()


def ask(address, rows):
    """Whether the device has answered: it has no version at first."""
    tensor = {"name": "input", "datatype": "FP64", "shape": list(rows.shape)}
    body = json.dumps({"inputs": [{**tensor, "data": rows.ravel().tolist()}]}).encode()
    request = urllib.request.Request(f"http://{address}/v2/models/late/infer", body)
    with suppress(HTTPError), urllib.request.urlopen(request) as reply:
        return reply.status == 200
    return False


@pytest.mark.slow
def test_inputs_that_have_shifted_on_devices_are_drift_of_their_channel(fleet, bundle, tmp_path):
    for name in ("camera-1", "camera-2"):
        fleet.enroll(name, "stable", by="ada")
    (tmp_path / "repository").mkdir()
    Publisher(tmp_path / "repository").publish(bundle, "late/1")
    app = control_app(Services(), lambda: None, None, open_fleet=lambda: fleet)
    draw = np.random.default_rng(1)

    def report(name, client, shift):
        """Two hundred rows of a device in requests of five, received by the server."""
        home = tmp_path / name / "home"
        home.mkdir(parents=True)
        with agent(home, tmp_path / "repository", str(client.base_url), name) as address:
            until(lambda: ask(address, draw.normal(size=(5, 4))))
            for _ in range(39):
                rows = draw.normal(size=(5, 4))
                rows[:, 2] += shift
                assert ask(address, rows)
            requests = 40
            until(lambda: received(name) >= requests)
            until(lambda: Home(home).read_state().sequence > 0)

    def received(name):
        import sqlalchemy as sa

        from bascule.fleet.schema import reports

        query = sa.select(sa.func.sum(reports.c.requests)).where(reports.c.device == name)
        return fleet.catalogue.rows(query)[0][0] or 0

    def drift():
        fleet.copy_windows(tmp_path, FIRST)
        found = measure_production_drift(tmp_path, "late", lambda _: load(bundle))
        (version,) = found.versions
        return found, version

    with asking(app) as client:
        report("camera-1", client, shift=0.0)
        calm, version = drift()
        assert version.version == "1@stable"
        assert sum(window.rows for window in version.windows) == 200
        assert not calm.is_alarm

        report("camera-2", client, shift=1.5)
        shifted, version = drift()
        assert sum(window.rows for window in version.windows) == 400
        assert shifted.is_alarm
        inputs = {
            column.name
            for window in version.windows
            for column in window.alarms
            if column.where == "input"
        }
        assert inputs == {"input.2"}
        reply = client.get("/api/v1/edge/devices/camera-2/rows")
        assert reply.status_code == 200, reply.text
        (rows, *_) = reply.json()
        assert len(rows["rows"]) == 2
        assert 0 < rows["share"] <= 1
