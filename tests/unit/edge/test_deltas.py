"""Archives and differences: the same bytes for a digest, and back, whichever method is smaller."""

from __future__ import annotations

import os
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from tests.devices import weights
from tests.unit.registry.conftest import say_gates, write_bundle

from bascule.bundle.disk import digest_of
from bascule.core import Untrusted
from bascule.edge import Archive, Candidate, compress, difference, expand, pack, unpack


def archive(tmp_path, name, content):
    return pack(write_bundle(tmp_path / name, content=content), tmp_path / f"{name}.tar")


def test_a_digest_has_one_archive_whatever_lies_beside_the_bundle_and_whenever(tmp_path):
    first, second = (write_bundle(tmp_path / name, content=b"x") for name in ("a", "b"))
    say_gates(second, passed=True)
    os.utime(second / "bundle.json", (0, 0))
    (second / "bundle.json").chmod(0o400)
    assert digest_of(first) == digest_of(second)
    assert pack(first, tmp_path / "1").sha256 == pack(second, tmp_path / "2").sha256


def test_an_archive_becomes_the_bundle_again(tmp_path):
    before = archive(tmp_path, "late", weights(1))
    unpack(before.path, tmp_path / "again")
    assert pack(tmp_path / "again", tmp_path / "again.tar").sha256 == before.sha256


def fine_tuned(content):
    floats = np.frombuffer(content, np.float32)
    return (floats + np.float32(1e-5)).tobytes()


@pytest.mark.parametrize(
    ("change", "method"),
    [(lambda old: old + weights(2, rows=100), "prefix"), (fine_tuned, "planes")],
    ids=["appended", "fine-tuned"],
)
def test_the_smaller_method_is_taken_and_leads_to_the_same_bytes(tmp_path, change, method):
    old = archive(tmp_path, "old", weights(1))
    new = archive(tmp_path, "new", change(weights(1)))
    compress(new, tmp_path / "full")
    assert difference(old, new, tmp_path / "delta") == method
    assert (tmp_path / "delta").stat().st_size < 0.8 * (tmp_path / "full").stat().st_size
    for file, how, base in (("full", "full", None), ("delta", method, old)):
        expand(tmp_path / file, tmp_path / "got", how, new.size_bytes, base)
        assert (tmp_path / "got").read_bytes() == new.path.read_bytes()


@settings(max_examples=25)
@given(old=st.binary(max_size=300), new=st.binary(min_size=1, max_size=300))
def test_every_difference_leads_back(tmp_path_factory, old, new):
    folder = tmp_path_factory.mktemp("any")
    before, after = archive(folder, "old", old), archive(folder, "new", new)
    method = difference(before, after, folder / "delta")
    expand(folder / "delta", folder / "got", method, after.size_bytes, before)
    assert (folder / "got").read_bytes() == after.path.read_bytes()


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b"", lambda b: b[:30] + b"\0" * 9])
@pytest.mark.parametrize("name", ["full", "delta"])
def test_a_damaged_file_is_refused(tmp_path, name, damage):
    old = archive(tmp_path, "old", weights(1))
    new = archive(tmp_path, "new", fine_tuned(weights(1)))
    compress(new, tmp_path / "full")
    method = difference(old, new, tmp_path / "delta") if name == "delta" else "full"
    (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    with pytest.raises(Untrusted, match="corrupted"):
        expand(tmp_path / name, tmp_path / "got", method, new.size_bytes, old)


def test_no_more_is_written_than_the_archive_has(tmp_path):
    bomb = tmp_path / "bomb.tar"
    bomb.write_bytes(b"\0" * (8 << 20))
    compress(Archive(bomb, "", 8 << 20), tmp_path / "full")
    with pytest.raises(Untrusted, match="does not lead to 1,024 bytes"):
        expand(tmp_path / "full", tmp_path / "got", "full", 1_024)
    assert (tmp_path / "got").stat().st_size <= 2 << 20


@pytest.mark.parametrize("name", ["../out", "/out", "link"])
def test_an_archive_writes_plain_files_inside_its_folder_alone(tmp_path, name):
    with tarfile.open(tmp_path / "hostile", "w") as hostile:
        member = tarfile.TarInfo(name)
        if name == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        hostile.addfile(member)
    (tmp_path / "in").mkdir()
    with pytest.raises(Untrusted, match="the archive holds"):
        unpack(tmp_path / "hostile", tmp_path / "in")
    assert not (tmp_path / "out").exists()
    assert list((tmp_path / "in").iterdir()) == []


def test_devices_that_take_a_candidate_keep_it_while_its_share_grows():
    devices = [f"camera-{number}" for number in range(2_000)]

    def takers(share, salt="a"):
        candidate = Candidate("late/2", "sha256:2", "r1", share, salt)
        return {device for device in devices if candidate.takes(device)}

    assert takers(0.0) == set()
    assert takers(0.1) < takers(0.5) < takers(1.0) == set(devices)
    assert 140 < len(takers(0.1)) < 260
    assert takers(0.1) != takers(0.1, "b")
