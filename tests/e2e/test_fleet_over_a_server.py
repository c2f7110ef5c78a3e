"""The commands of `bascule edge` through a server, and a device that reports to it."""

from __future__ import annotations

import json

import pytest
from tests.devices import Edge, weights
from tests.scenarios.commands import bascule
from tests.unit.fleet.fleets import CANDIDATE, report
from tests.waiting import until

from bascule.core import BasculeError
from bascule_client.control import ControlClient

pytestmark = pytest.mark.slow


def test_devices_are_enrolled_updated_and_revoked_through_a_server(
    serve, cancer_bundle, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    edge = Edge(tmp_path)
    edge.repository.init(edge.root_keys)
    edge.enroll()
    for seed in (1, 2):
        edge.push(weights(seed, 100))
    server = serve(cancer_bundle, env={"BASCULE_HOME": str(tmp_path / "home")})
    address = f"http://127.0.0.1:{server.control_port}"

    def call(*words):
        return bascule(tmp_path / "elsewhere", "--server", address, "edge", *words)

    assert call("publish", "late/1")["version"] == "late/1"
    with edge.server.running():
        assert edge.channel().stable.version == "late/1"
    for device in ("camera-1", "camera-2"):
        call("enroll", device, "--repository", "https://models.example")
    enrolment = json.loads((tmp_path / "camera-1.json").read_text())
    assert (enrolment["server"], enrolment["root"]) == (address, json.loads(edge.root.read_text()))

    begun = call("rollout", "start", "late/2", "--phases", "50,100", "--hold", "2h")
    with edge.server.running():
        until(lambda: edge.channel().candidate)  # the control process has written it
        assert edge.channel().candidate.rollout == begun["id"]
    device = ControlClient(address, key=enrolment["key"])
    reports = [
        report("camera-1", 1, "installed"), report("camera-1", 2, "golden_failed", CANDIDATE),
    ]  # fmt: skip
    for _ in range(2):
        reply = device.do("POST /api/v1/edge/reports", {"reports": reports})
        assert reply == {"sequence": 2}
    stuck, other = call("devices", "--group", "stable")
    assert (stuck["name"], stuck["version"], stuck["stuck_on"]) == ("camera-1", "late/1", "late/2")
    assert (other["name"], other["seen_at"]) == ("camera-2", None)
    assert [(row["runs"], row["stuck"]) for row in call("groups")] == [("", 0), ("late/1", 1)]
    assert call("rollout", "show", begun["id"])["plan"]["phases"] == [0.5, 1.0]
    assert call("rollout", "abort", begun["id"])["state"]["status"] == "aborted"

    assert call("revoke", "camera-1")["revoked_at"]

    def is_refused():
        try:
            device.do("POST /api/v1/edge/reports", {"reports": [report("camera-1", 2)]})
        except BasculeError as error:
            return "camera-1" in str(error) or "key" in str(error)
        return False

    until(is_refused)
    assert call("devices")[0]["sequence"] == 2
