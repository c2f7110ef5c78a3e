"""The channel of a rollout in a signed repository, read by a device: with its bundle, and back."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.devices import published_edge, weights  # noqa: F401 - a fixture

from bascule.catalogue import Catalogue, SqliteDatabase
from bascule.core import Conflict
from bascule.fleet import Fleet, RepositoryChannels, RolloutRequest


@pytest.fixture
def fleet(edge):
    for seed in (1, 2):
        edge.push(weights(seed))
    edge.publish("late/1")
    channels = RepositoryChannels(lambda: edge.registry, lambda: edge.repository)
    catalogue = Catalogue(SqliteDatabase(edge.folder / "home" / "catalogue.db"))
    return Fleet(catalogue, channels, lambda: edge.registry, edge.clock)


def begin(fleet, **plan):
    return fleet.begin(RolloutRequest("late/2", "stable", **plan), by="ada")


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
    edge.push(weights(3))
    edge.publish("late/3")
    edge.now += timedelta(hours=1)
    turn(fleet, stored)
    assert fleet.rollout(stored.id).state.status == "aborted"
    assert edge.channel().stable.version == "late/3"
