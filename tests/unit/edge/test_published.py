"""The agent of a device on a real repository: over the air, by a difference, and back."""

from __future__ import annotations

import time

import pytest
from tests.devices import Edge
from tests.unit.edge.conftest import QUICK
from tests.waiting import until

from bascule.edge import Agent, Device, Repository


@pytest.mark.slow
def test_a_device_follows_its_channel_over_the_air(tmp_path, versions):
    edge = Edge(tmp_path)
    edge.repository.init(edge.root_keys)
    edge.enroll()
    published = [str(edge.registry.push(path, by="ada")) for path in versions[:2]]
    device = Device(tmp_path / "device")
    with edge.server.running():
        repository = Repository.open(tmp_path / "device", edge.server.url, edge.root)
        agent = Agent(device, repository, "stable", name="camera-1", plan=QUICK)
        agent.start()
        now_s = time.monotonic()

        def serves(version):
            nonlocal now_s
            now_s += 1.0
            agent.turn(now_s)
            current = agent.state.current
            return current is not None and current.version == version

        for version in published:
            edge.publish(version)
            until(lambda version=version: serves(version), within_s=120)
        assert any("/deltas/" in path for path in edge.server.paths)
        assert agent.state.last_good.version == published[0]
        edge.server.altered["metadata/timestamp.json"] = b"{}"
        now_s += 100.0
        until(lambda: serves(published[1]) and "corrupted" in agent.resting, within_s=120)
        agent.home.unlock()
