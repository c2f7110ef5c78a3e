"""Attacks on devices over the repository: each is refused by its name, and leaves all as it was."""

from __future__ import annotations

import shutil
from datetime import timedelta

import pytest
from tests.devices import Edge, weights

from bascule.core import Untrusted


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """A device that has seen the second version of a channel; all files after the first."""
    seen = Edge(tmp_path_factory.mktemp("edge"))
    seen.repository.init(seen.root_keys)
    seen.enroll()
    with seen.server.running():
        for seed in (1, 2):
            seen.publish(seen.push(weights(seed, 500)))
            seen.channel()
            if seed == 1:
                seen.first = {path: seen.place.read(path) for path in seen.server.paths}
    return seen


@pytest.fixture
def edge(seen, tmp_path):
    """A copy of it."""
    shutil.copytree(seen.folder, tmp_path, dirs_exist_ok=True)
    edge = Edge(tmp_path)
    edge.first = seen.first
    with edge.server.running():
        yield edge


def test_older_metadata_is_rolled_back(edge):
    path = "metadata/timestamp.json"
    edge.server.altered[path] = edge.first[path]
    with pytest.raises(Untrusted, match=r"^rolled back"):
        edge.channel()


def test_metadata_that_stays_the_same_for_too_long_is_frozen(edge):
    edge.now -= timedelta(days=8)
    edge.publish(edge.push(weights(3, 500)))
    with pytest.raises(Untrusted, match=r"^frozen, or the clock of this device"):
        edge.channel()


@pytest.mark.parametrize("role", ["snapshot", "targets", "channel-stable"])
def test_metadata_of_two_times_is_mixed_and_matched(edge, role):
    older = next(path for path in edge.first if path.endswith(f".{role}.json"))
    edge.publish(edge.push(weights(3, 500)))
    snapshot = edge.repository.read().snapshot.signed
    version = snapshot.version if role == "snapshot" else snapshot.meta[f"{role}.json"].version
    edge.server.altered[f"metadata/{version}.{role}.json"] = edge.place.read(older)
    with pytest.raises(Untrusted, match=r"^mixed and matched"):
        edge.channel()


def test_a_role_that_was_not_given_to_a_key_is_unknown(edge, tmp_path):
    (tmp_path / "other").mkdir()
    other = Edge(tmp_path / "other")
    other.repository.init(other.root_keys)
    path = "metadata/timestamp.json"
    edge.server.altered[path] = other.place.read(path)
    with pytest.raises(Untrusted, match=r"^unknown role"):
        edge.channel()


def test_a_bundle_that_was_altered_is_corrupted(edge):
    (full,) = edge.folder.glob(
        f"home/edge/repository/targets/bundles/*{edge.digest('late/2')[7:]}*"
    )
    content = full.read_bytes()
    full.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(Untrusted, match=r"^corrupted"):
        edge.obtain("late/2")
    full.write_bytes(content)
    assert edge.obtain("late/2") > 0


def test_metadata_without_an_end_is_endless_data(edge):
    edge.server.altered["metadata/timestamp.json"] = b" " * 1_000_000
    with pytest.raises(Untrusted, match=r"^endless data"):
        edge.channel()
    edge.server.altered["metadata/timestamp.json"] = b"{}"
    with pytest.raises(Untrusted, match=r"^corrupted"):
        edge.channel()


def test_a_device_goes_on_when_the_attack_has_ended(edge):
    edge.server.altered["metadata/timestamp.json"] = edge.first["metadata/timestamp.json"]
    with pytest.raises(Untrusted):
        edge.channel()
    edge.server.altered.clear()
    assert edge.channel().sequence == 2


def test_a_server_signs_nothing_that_its_keys_did_not_sign_before(edge):
    """A place that was tampered with does not get the tampering signed by the next publication."""
    path = edge.folder / "home/edge/repository/metadata"
    version = edge.repository.read().roles["targets"].signed.version
    targets = path / f"{version}.targets.json"
    targets.write_bytes(targets.read_bytes().replace(b"bundles/", b"bundle5/"))
    with pytest.raises(Untrusted, match="tampered"):
        edge.publish(edge.push(weights(3, 500)))
