"""What a device receives: the difference, the rest of what came, within its budget, and once."""

from __future__ import annotations

import pytest
from tests.devices import published_edge, weights  # noqa: F401 - a fixture

from bascule.bundle.disk import digest_of
from bascule.core import Invalid, NotFound, Unavailable, Untrusted
from bascule.edge import Repository


@pytest.fixture
def versions(edge):
    """Two versions, published in this order; the second has some weights more."""
    contents = (weights(1), weights(1) + weights(2, rows=2_000))
    versions = [edge.push(content) for content in contents]
    for version in versions:
        edge.publish(version)
    return versions


def test_a_device_gets_the_full_bundle_and_then_the_difference(edge, versions):
    device = edge.folder / "device"
    device.mkdir()
    repository = Repository(device, edge.server.url, edge.root)
    channel = repository.channel("stable")
    assert (channel.model, channel.stable.version, channel.sequence) == ("late", "late/2", 2)
    first = edge.obtain("late/1")
    second = repository.obtain(channel.stable.digest, device / "late-1", device / "b")
    assert edge.downloads == ["bundles", "deltas"]
    assert second < first / 5
    assert first + second == edge.server.sent_bytes
    assert digest_of(device / "b") == channel.stable.digest


def test_a_download_that_breaks_off_goes_on_where_it_ended(edge, versions):
    edge.server.cut_after = 40_000
    with pytest.raises(Unavailable, match="are missing") as raised:
        edge.obtain("late/1")
    received = [raised.value.facts["bytes_received"]]
    assert received == [40_000]
    edge.server.cut_after = None
    received.append(edge.obtain("late/1"))
    assert sum(received) == edge.server.sent_bytes
    full = next((edge.folder / "home/edge/repository/targets/bundles").glob(
        f"*{edge.digest('late/1')[7:]}*"
    ))  # fmt: skip
    assert sum(received) == full.stat().st_size


def test_a_server_without_ranges_sends_all_of_it_again(edge, versions):
    edge.server.cut_after, edge.server.knows_ranges = 30_000, False
    with pytest.raises(Unavailable, match="are missing"):
        edge.obtain("late/1")
    edge.server.cut_after = None
    assert edge.obtain("late/1") > 30_000


def test_no_more_is_received_than_the_budget_and_the_rest_comes_later(edge, versions):
    with pytest.raises(Unavailable, match="budget of 5,000 bytes is used up") as raised:
        edge.obtain("late/1", budget_bytes=5_000)
    assert raised.value.facts["bytes_received"] == 5_000
    with pytest.raises(Unavailable, match="budget of 0 bytes"):
        edge.obtain("late/1", budget_bytes=0)
    rest = edge.obtain("late/1", budget_bytes=10_000_000)
    assert rest > 5_000


def test_a_difference_that_was_altered_is_refused_once_and_the_full_file_taken_then(edge, versions):
    edge.obtain("late/1")
    with pytest.raises(NotFound):
        edge.ask(do="obtain", digest="sha256:0", into="x", have=None, budget_bytes=None)
    place = edge.folder / "home/edge/repository/targets/deltas"
    (delta,) = place.iterdir()
    delta.write_bytes(delta.read_bytes()[:-1] + b"?")
    with pytest.raises(Untrusted, match=r"^corrupted"):
        edge.obtain("late/2", have="late/1")
    edge.obtain("late/2", have="late/1")
    assert edge.downloads == ["bundles", "deltas", "bundles"]


def test_a_difference_is_no_use_to_a_device_whose_bundle_was_altered(edge, versions):
    edge.obtain("late/1")
    (edge.folder / "device/late-1/programs/onnx.onnx").write_bytes(b"other")
    with pytest.raises(Untrusted, match=r"programs/onnx\.onnx"):
        edge.obtain("late/2", have="late/1")
    assert not (edge.folder / "device/late-2").exists()


def test_a_bundle_whose_folder_is_there_stays_as_it_is(edge, versions):
    edge.obtain("late/1")
    before = digest_of(edge.folder / "device/late-1")
    with pytest.raises(Exception, match="cannot be written"):
        edge.obtain("late/1")
    assert digest_of(edge.folder / "device/late-1") == before


def test_a_process_that_fetches_and_dies_says_nothing_of_the_model(edge, monkeypatch):
    repository = Repository(edge.folder / "device", edge.server.url, edge.root)
    monkeypatch.setattr("bascule.edge.fetching._LOOK_S", 0.0)
    with pytest.raises(Unavailable, match="channel stable took over 0 s"):
        repository.channel("stable")


def test_a_device_without_a_trusted_root_says_what_to_do(tmp_path):
    with pytest.raises(Invalid, match=r"root\.json is missing") as raised:
        Repository(tmp_path, "http://localhost", tmp_path / "root.json")
    assert "enroll" in raised.value.hint


def test_a_repository_that_does_not_answer_is_no_attack(edge):
    edge.server.altered["metadata/timestamp.json"] = None
    with pytest.raises(Unavailable):
        edge.channel()
