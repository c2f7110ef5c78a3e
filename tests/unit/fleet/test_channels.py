"""The channel of a rollout in a signed repository, read by a device: with its bundle, and back."""

from __future__ import annotations

import shutil
import subprocess
import sys
from datetime import timedelta

import pytest
from tests.devices import Edge, weights

from bascule.catalogue import Catalogue, SqliteDatabase
from bascule.control.loops.devices import keep_up
from bascule.core import Conflict
from bascule.fleet import Fleet, RepositoryChannels


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The first of two versions in a channel."""
    published = Edge(tmp_path_factory.mktemp("edge"))
    published.repository.init(published.root_keys)
    published.enroll()
    for seed in (1, 2):
        published.push(weights(seed, 500))
    published.publish("late/1")
    return published.folder


@pytest.fixture
def edge(published, tmp_path):
    """A copy of it."""
    shutil.copytree(published, tmp_path, dirs_exist_ok=True)
    edge = Edge(tmp_path)
    with edge.server.running():
        yield edge


@pytest.fixture
def fleet(edge):
    channels = RepositoryChannels(lambda: edge.registry, lambda: edge.repository)
    catalogue = Catalogue(SqliteDatabase(edge.folder / "home" / "catalogue.db"))
    return Fleet(catalogue, channels, lambda: edge.registry, edge.clock)


def begin(fleet, **plan):
    return fleet.begin("late/2", "stable", by="ada", **plan)


def turn(fleet, stored):
    fleet.advance(fleet.rollout(stored.id))


def test_devices_are_offered_the_candidate_by_a_share_and_find_its_bundle(edge, fleet):
    stored = begin(fleet, phases=(0.5, 1.0))
    turn(fleet, stored)

    channel = edge.channel()
    assert (channel.stable.version, channel.candidate.version) == ("late/1", "late/2")
    assert (channel.candidate.share, channel.candidate.rollout) == (0.5, stored.id)
    assert edge.obtain("late/2") > 0

    fleet.abort(stored.id, by="ada")
    for _ in range(2):
        turn(fleet, stored)
    back = edge.channel()
    assert (back.stable.version, back.candidate, back.sequence) == ("late/1", None, 3)


def test_an_enrolled_device_gets_the_root_that_it_trusts(edge, fleet):
    assert fleet.enroll("camera-1", "stable", by="ada").root == edge.root.read_text()


def test_a_control_process_signs_anew_what_is_half_over(edge, fleet):
    edge.now += timedelta(days=4)
    keep_up(fleet)
    assert edge.repository.ending() == {}
    assert edge.repository.read().timestamp.signed.expires > edge.now + timedelta(days=6)


@pytest.mark.slow
def test_a_home_that_publishes_nothing_is_kept_up_without_tuf(tmp_path):
    command = f"""
import sys
from pathlib import Path
from bascule.app import open_fleet
from bascule.control.loops.devices import keep_up
from bascule.settings import load_settings
fleet = open_fleet(load_settings(Path({str(tmp_path)!r}), {{"BASCULE_HOME": {str(tmp_path)!r}}}))
fleet.catalogue.create()
keep_up(fleet)
assert "tuf" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_promoted_version_is_stable_and_the_rollout_has_ended(edge, fleet):
    stored = begin(fleet, phases=(1.0,))
    for _ in range(2):
        turn(fleet, stored)
    assert edge.channel().stable.version == "late/2"
    assert fleet.rollout(stored.id).ended_at is not None
    with pytest.raises(Conflict):
        begin(fleet)


def test_of_two_that_write_a_channel_at_once_the_second_is_refused(edge, fleet):
    stored = begin(fleet)
    channels = RepositoryChannels(lambda: edge.registry, lambda: edge.repository)
    before = channels.channel("stable")
    turn(fleet, stored)
    with pytest.raises(Conflict):
        channels.publish_channel("stable", before)
    assert edge.channel().candidate is not None


def test_a_version_that_a_person_publishes_ends_the_rollout(edge, fleet):
    stored = begin(fleet)
    turn(fleet, stored)
    edge.push(weights(3, 500))
    edge.publish("late/3")
    edge.now += timedelta(hours=1)
    turn(fleet, stored)
    assert fleet.rollout(stored.id).state.status == "aborted"
    assert edge.channel().stable.version == "late/3"
