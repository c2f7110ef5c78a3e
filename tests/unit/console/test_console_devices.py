"""The page of devices, and the commands: what devices run, which are stuck, and rollouts."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from tests.console_work import looking
from tests.devices import Edge, weights
from tests.scenarios.commands import bascule, run
from tests.unit.fleet.fleets import CANDIDATE, report

from bascule.app import open_fleet
from bascule.fleet import read_reports
from bascule.settings import load_settings


@dataclass
class Home:
    settings: object

    @property
    def path(self):
        return self.settings.home

    def report(self, *sent):
        open_fleet(self.settings).receive({"camera-1": read_reports(sent)})


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    edge = Edge(tmp_path)
    edge.repository.init(edge.root_keys)
    for seed in (1, 2):
        edge.push(weights(seed, 100))
    edge.publish("late/1")
    return Home(load_settings(tmp_path, {"BASCULE_HOME": str(tmp_path / "home")}))


def enroll(home, name):
    where = ("--repository", "https://models.example", "--reports", "https://bascule.example")
    return bascule(home.path, "edge", "enroll", name, *where)


def test_a_device_is_enrolled_by_a_file_that_this_user_alone_reads(home, tmp_path):
    file = tmp_path / "camera-1.json"
    assert enroll(home, "camera-1")["file"] == file.name
    content = json.loads(file.read_text())
    assert file.stat().st_mode & 0o777 == 0o600
    assert {name: content[name] for name in ("device", "channel", "repository", "server")} == {
        "device": "camera-1", "channel": "stable", "repository": "https://models.example",
        "server": "https://bascule.example",
    }  # fmt: skip
    assert content["key"].startswith("bsc_")
    assert content["root"]["signed"]["_type"] == "root"
    code, _, errors = run(home.path, "edge", "enroll", "camera-1", "--repository", "https://a.b")
    assert (code, "there already" in errors) == (2, True)
    file.rename(tmp_path / "kept.json")
    assert run(home.path, "edge", "enroll", "camera-1", "--repository", "https://a.b")[0] != 0
    assert not file.exists()
    assert [one["name"] for one in bascule(home.path, "edge", "devices")] == ["camera-1"]


def test_page_and_commands_show_what_is_stuck_and_where_a_rollout_stands(home):
    enroll(home, "camera-1")
    enroll(home, "camera-2")
    begun = bascule(home.path, "edge", "rollout", "start", "late/2", "--hold", "2h")
    home.report(report("camera-1", 1, "installed", bytes_received=2_048))
    home.report(report("camera-1", 2, "golden_failed", CANDIDATE, reason="7 <of> 10 differ"))

    with looking(home.settings) as pages:
        page = pages.get("/devices").text
        assert page.index("camera-1") < page.index("camera-2")
        assert "7 &lt;of&gt; 10 differ" in page
        assert "late/2 in place of late/1" in page
        assert "camera" not in pages.get("/devices?group=other").text
    stuck, _ = bascule(home.path, "edge", "devices")
    assert (stuck["stuck_on"], stuck["bytes_received"]) == ("late/2", 2_048)
    groups = bascule(home.path, "edge", "groups")
    assert [(one["group"], one["runs"], one["devices"], one["stuck"]) for one in groups] == [
        ("stable", "", 1, 0), ("stable", "late/1", 1, 1),
    ]  # fmt: skip
    assert "2,048" in run(home.path, "edge", "groups")[1]
    shown = bascule(home.path, "edge", "rollout", "show")
    assert (shown["id"], shown["plan"]["hold_s"]) == (begun["id"], 7_200.0)
    ended = bascule(home.path, "edge", "rollout", "abort", begun["id"])
    assert ended["state"]["status"] == "aborted"
    code, text, _ = run(home.path, "edge", "rollout", "show")
    assert (code, "late/2 in place of late/1: aborted" in text) == (0, True)
    bascule(home.path, "edge", "revoke", "camera-2")
    assert "revoked" in run(home.path, "edge", "devices")[1]
