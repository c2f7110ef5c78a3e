"""A repository that stays valid: published twice, by two at once, killed between any two writes."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

import pytest
from tests.devices import Edge, published_edge, weights  # noqa: F401 - a fixture
from tests.tiers import first_of

from bascule.core import Conflict, Invalid, NotFound, Refused
from bascule.fleet import key_in, publish
from bascule.monitoring.alerts.sources import SignatureSource
from bascule.registry import open_registry


class Killed(BaseException):
    """The process ends."""


class Watched:
    """A place whose writes are counted; `before` runs before each."""

    def __init__(self, place, before):
        self.place, self.before, self.writes = place, before, 0

    def __getattr__(self, name):
        return getattr(self.place, name)

    def create(self, name, content):
        self.writes += 1
        self.before(self.writes, name)
        return self.place.create(name, content)

    def swap(self, name, before, after):
        self.writes += 1
        self.before(self.writes, name)
        return self.place.swap(name, before, after)


def killed_at(edge, number):
    def before(write, _name):
        if write == number:
            raise Killed

    return edge.repository_at(Watched(edge.place, before))


def test_publishing_twice_changes_nothing(edge):
    version = edge.push(b"one")
    first = edge.publish(version)
    timestamp = edge.place.read("metadata/timestamp.json")
    assert edge.publish(version) == first
    assert edge.place.read("metadata/timestamp.json") == timestamp


def test_an_earlier_version_may_be_published_again_and_devices_follow(edge):
    for version in (edge.push(b"one"), edge.push(b"two"), "late/1"):
        edge.publish(version)
        assert edge.channel().stable.version == version
    assert edge.channel().sequence == 3


def test_channels_have_versions_and_keys_of_their_own(edge):
    edge.publish(edge.push(b"one"))
    edge.publish(edge.push(b"two"), "beta")
    offers = [edge.channel(name).stable.version for name in ("stable", "beta")]
    assert offers == ["late/1", "late/2"]
    state = edge.repository.read()
    assert set(state.keyids("channel-stable")).isdisjoint(state.keyids("channel-beta"))
    with pytest.raises(Conflict, match="is of late"):
        edge.publish(edge.push(b"three", "other"))


def test_a_publication_that_is_killed_at_any_write_leaves_what_was_or_what_is_next(edge):
    first, second = edge.push(weights(1, 500)), edge.push(weights(2, 500))
    edge.publish(first)
    for number in range(1, 9):
        with pytest.raises(Killed):
            publish(edge.registry, killed_at(edge, number), second, "stable", by="ada")
        assert edge.channel().stable.version == first
    edge.publish(second)
    assert edge.channel().stable.version == second
    assert edge.obtain(second) > 0


def test_a_repository_whose_making_was_killed_at_any_write_is_made_by_the_next_try(tmp_path):
    for number in (1, 2, 3, 4):
        (tmp_path / str(number)).mkdir()
        edge = Edge(tmp_path / str(number))
        with pytest.raises(Killed):
            killed_at(edge, number).init(edge.root_keys)
        edge.repository.init(edge.root_keys)
        assert set(edge.repository.read().roles) == {"targets"}
        with pytest.raises(Conflict, match="there is a repository"):
            edge.repository.init(edge.root_keys)


@pytest.mark.parametrize("place", ["", pytest.param("s3", marks=pytest.mark.slow)])
def test_of_two_that_publish_at_once_both_are_published(tmp_path, place, request):
    url = request.getfixturevalue("s3_url") if place else ""
    edge = Edge(tmp_path, url)
    edge.repository.init(edge.root_keys)
    edge.enroll()
    versions = [edge.push(b"one"), edge.push(b"two")]

    def publish_other(_write, name):
        if name == "metadata/timestamp.json" and versions:
            edge.publish(versions.pop(), "beta")

    slow = edge.repository_at(Watched(edge.place, publish_other))
    publish(edge.registry, slow, versions.pop(0), "stable", by="ada")
    with edge.server.running():
        offers = [edge.channel(name).stable.version for name in ("stable", "beta")]
        assert offers == ["late/1", "late/2"]
        assert edge.obtain("late/2") > 0
        edge.place.create("targets/bundles/of-a-killed-process", b"half")
        edge.now += timedelta(days=31)
        edge.repository.refresh()
        edge.repository.prune()
        assert edge.place.read("targets/bundles/of-a-killed-process") is None
        assert edge.channel("beta").stable.version == "late/2"


def test_a_version_that_may_not_be_used_is_not_published(edge, tmp_path):
    from tests.unit.registry.conftest import say_gates, write_bundle

    failed = write_bundle(tmp_path / "failed", content=b"failed")
    say_gates(failed, passed=False)
    version = str(edge.registry.push(failed, by="ada"))
    with pytest.raises(Refused, match="failed its gates"):
        edge.publish(version)
    edge.registry.retire("late", 1, by="ada", reason="old")
    with pytest.raises(Refused):
        edge.publish(version)
    assert edge.repository.read().roles.keys() == {"targets"}


def test_a_version_is_published_with_the_claims_that_are_required_and_with_later_ones(
    edge, tmp_path
):
    from cryptography.hazmat.primitives.asymmetric import ec
    from tests.scenarios.test_bundle_signatures import write_key

    from bascule.bundle.disk import (
        PASSPORT,
        read_manifest,
        sign_bundle,
        sign_passport,
        write_statement,
    )
    from bascule.core import Untrusted

    key, bundle = tmp_path / "ada.pem", tmp_path / "bundle-0"
    write_key(tmp_path, "ada", ec.generate_private_key(ec.SECP256R1()))
    edge.push(b"one")
    sign_bundle(bundle, key, now=edge.now, by="ada")
    strict = open_registry(
        tmp_path / "home", required_keys=[tmp_path / "ada.pub"], required_claims=["gates"]
    )

    def publish_with(**claims):
        body = sign_passport(read_manifest(bundle), claims, key, now=edge.now, by="ada")
        write_statement(bundle, PASSPORT, body, at=edge.now, by="ada")
        strict.push(bundle, by="ada")
        return publish(strict, edge.repository, "late/1", "stable", by="ada")

    with pytest.raises(Untrusted, match="gates"):
        publish_with()
    assert edge.repository.read().roles.keys() == {"targets"}
    stated = []
    for claims in ({"gates": {"passed": True}}, {"gates": {"passed": True}, "fairness": {}}):
        assert publish_with(**claims).sequence == 1
        targets = edge.repository.read().roles["targets"].signed.targets
        stated.append(targets[f"statements/{edge.digest('late/1')[7:]}.json"])
    assert stated[0].hashes != stated[1].hashes
    assert edge.obtain("late/1") > 0
    assert len(list((tmp_path / "device/late-1/statements").glob("passport-*"))) == 3


def test_a_refresh_keeps_devices_going_and_signs_anew_what_is_half_over(edge):
    edge.publish(edge.push(b"one"))
    before = edge.repository.read()
    edge.repository.refresh()
    assert edge.repository.read().before == before.before
    edge.now += timedelta(days=4)
    edge.repository.refresh()
    after = edge.repository.read()
    assert after.timestamp.signed.version == before.timestamp.signed.version + 1
    assert after.snapshot.signed.version == before.snapshot.signed.version
    edge.now += timedelta(days=183)
    expires, root_expires = edge.repository.refresh()
    assert timedelta(days=6.9) < expires - edge.now < timedelta(days=7)
    assert timedelta(days=177) < root_expires - edge.now < timedelta(days=178)
    for part in (*edge.repository.read().roles.values(), edge.repository.read().snapshot):
        assert part.signed.expires > edge.now + timedelta(days=364)


def test_what_was_not_signed_anew_in_time_is_told_while_there_is_time(edge):
    source = SignatureSource(edge.repository.ending)
    assert [observed.findings for observed in source.look(edge.now)] == [()]
    edge.now += timedelta(days=6)
    ((finding,),) = [observed.findings for observed in source.look(edge.now)]
    assert (finding.column, finding.severity) == ("timestamp", "critical")
    edge.now += timedelta(days=330)
    edge.repository.refresh()
    ((finding,),) = [observed.findings for observed in source.look(edge.now)]
    assert (finding.column, finding.severity) == ("root", "warning")
    edge.repository.rotate("root", edge.root_keys)
    assert edge.repository.ending() == {}


@pytest.mark.slow
def test_what_no_device_can_reach_any_more_is_removed_and_all_else_stays(edge):
    def files():
        return {name for folder in ("metadata", "targets") for name, _ in edge.place.files(folder)}

    def publish_next(number):
        edge.publish(edge.push(weights(number, 500)))
        return files()

    for number in range(1, 6):
        at_first = publish_next(number)
    edge.now += timedelta(days=31)
    later = publish_next(6)  # a device may be reading what the channel said until now
    bundles = {name for name in at_first if "/bundles/" in name}
    assert bundles | {"metadata/5.channel-stable.json", "metadata/6.snapshot.json"} < later
    edge.now += timedelta(days=31)
    edge.repository.prune()
    left = files()
    (removed,) = bundles - left
    assert f"{edge.digest('late/1')[7:]}.tar" in removed
    assert not {"metadata/1.snapshot.json", "metadata/2.targets.json"} & left
    assert {"metadata/timestamp.json", "metadata/1.root.json"} < left
    edge.repository.refresh()
    assert edge.channel().stable.version == "late/6"
    full = edge.obtain("late/6")
    edge.publish("late/1")
    assert 0 < edge.obtain("late/1", have="late/6") < full, "a difference"


@pytest.mark.parametrize("role", first_of(["targets", "channel-stable"]))
def test_a_key_is_rotated_while_devices_go_on_and_the_former_one_counts_no_more(edge, role):
    edge.publish(edge.push(b"one"))
    edge.channel()
    former = edge.repository.read().keyids(role)
    keys = () if role.startswith("channel-") else edge.root_keys
    for number in range(1, 8):  # the next try takes the key that is there
        with suppress(Killed):
            killed_at(edge, number).rotate(role, keys)
        assert edge.channel().stable.version == "late/1"
    edge.repository.rotate(role, keys)
    assert not set(edge.repository.read().keyids(role)) & set(former)
    edge.publish(edge.push(b"two"))
    assert edge.channel().stable.version == "late/2"


def test_the_root_takes_as_many_keys_as_its_threshold(tmp_path):
    edge = Edge(tmp_path)
    keys = [key_in(tmp_path / f"{name}.pem", create=True) for name in ("a", "b", "c")]
    with pytest.raises(Invalid):
        edge.repository.init(keys[:1], threshold=2)
    edge.repository.init(keys[:2], threshold=2)
    edge.enroll()
    for role in ("root", "timestamp"):
        with pytest.raises(Refused, match="signatures of 2"):
            edge.repository.rotate(role, [keys[0], keys[2]])
    edge.repository.rotate("root", keys[:2], [keys[1], keys[2]])
    with pytest.raises(Refused):
        edge.repository.rotate("timestamp", keys[:2])
    edge.repository.rotate("timestamp", keys[1:])
    edge.publish(edge.push(b"one"))
    with edge.server.running():
        assert edge.channel().stable.version == "late/1"
    with pytest.raises(NotFound, match="no role"):
        edge.repository.rotate("channel-none")


def test_a_home_whose_key_has_lost_the_role_publishes_nothing(edge, tmp_path):
    version = edge.push(b"one")
    key = tmp_path / "home/edge/keys/targets.pem"
    key.unlink()
    with pytest.raises(Invalid, match="holds no private key"):
        edge.publish(version)
    key_in(key, create=True)
    with pytest.raises(Refused, match="has not that role") as raised:
        edge.publish(version)
    assert raised.value.hint == "bascule edge rotate targets"
    key.unlink()
    edge.repository.rotate("targets", edge.root_keys)
    assert edge.publish(version).sequence == 1


def test_what_was_published_and_rotated_is_in_the_history(edge, tmp_path):
    from typer.testing import CliRunner

    from bascule.app import open_catalogue
    from bascule.catalogue import events
    from bascule.cli.commands import app
    from bascule.jobs import Task, Unrecorded
    from bascule.kinds import KINDS
    from bascule.settings import load_settings

    environment = {"BASCULE_HOME": str(tmp_path / "home")}
    settings = load_settings(tmp_path, environment)
    kind = KINDS["publish_edge"]
    chosen = kind.parse({"version": edge.push(b"one")})
    task = Task(kind=kind.name, input=chosen, by="ada")
    assert kind.model_of(chosen) == "late"
    assert kind.run(settings, task, Unrecorded())["version"] == "late/1"
    with pytest.raises(Invalid):
        kind.parse({})
    refreshed = CliRunner().invoke(app, ["edge", "refresh"], env=environment)
    assert "the root ends" in refreshed.stdout
    rotated = ["edge", "rotate", "targets", "--root-key", str(tmp_path / "root.pem")]
    assert CliRunner().invoke(app, rotated, env=environment).exit_code == 0
    with open_catalogue(settings).read() as connection:
        found = [(event.subject.name, event.kind) for event in events.find(connection)][-2:]
    assert found == [("channel-stable", "channel_published"), ("targets", "role_rotated")]
