"""A version as one file: what goes in comes out, and whatever was altered is refused."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from tests.conformance.test_catalogue_and_objects import write_bundle
from tests.stores import open_stores
from tests.tiers import examples

from bascule.bundle.disk.folder import digest_of, read_manifest, read_statements, write_statement
from bascule.core.digests import canonical_json, sha256_bytes
from bascule.core.errors import BasculeError, Conflict, NotFound, Refused, Untrusted
from bascule.registry import Registry, open_registry
from bascule.registry.oci import ARTIFACT_TYPE

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = open_registry(tmp_path / "home")
    source = write_bundle(tmp_path / "bundle", b"a model" * 1_000)
    write_statement(source, "audit", {"latency": 1.5}, at=T0, by="ada")
    registry.push(source, by="ada")
    body = {"passed": True, "results": [{"criterion": "auc >= 0.8", "value": 0.9, "passed": True}]}
    registry.add_statement(registry.resolve("late"), "gates", body, at=T0, by="ci")
    return registry


@pytest.fixture
def archive(registry: Registry, tmp_path: Path) -> Path:
    registry.export("late/1", tmp_path / "late.tar")
    return tmp_path / "late.tar"


@pytest.fixture
def other(tmp_path: Path) -> Registry:
    return open_registry(tmp_path / "other")


def members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive, "r:") as opened:
        return {one.name: opened.extractfile(one).read() for one in opened}  # type: ignore[union-attr]


def written(archive: Path, content: dict[str, bytes], *more: tarfile.TarInfo) -> Path:
    with tarfile.open(archive, "w") as opened:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            opened.addfile(member, io.BytesIO(data))
        for member in more:
            opened.addfile(member, io.BytesIO(b"\0" * member.size))
    return archive


def blob(data: bytes) -> str:
    return f"blobs/sha256/{sha256_bytes(data).removeprefix('sha256:')}"


def remade(archive: Path, change: Callable[[dict[str, Any], dict[str, bytes]], object]) -> Path:
    """The archive with another manifest, whose digests are right all the way up."""
    content = members(archive)
    index = json.loads(content["index.json"])
    (descriptor,) = index["manifests"]
    manifest = json.loads(content.pop("blobs/sha256/" + descriptor["digest"][7:]))
    change(manifest, content)
    data = canonical_json(manifest)
    content[blob(data)] = data
    descriptor |= {"digest": sha256_bytes(data), "size": len(data)}
    content["index.json"] = canonical_json(index)
    return written(archive, content)


def layer(manifest: dict[str, Any], title: str) -> dict[str, Any]:
    (found,) = [
        one
        for one in manifest["layers"]
        if one["annotations"]["org.opencontainers.image.title"] == title
    ]
    return found  # type: ignore[no-any-return]


# -- what travels --


def test_a_version_travels_whole_with_its_statements_and_their_verdict(registry, archive, other):
    there = other.import_archive(archive, by="bob")

    assert there.digest == registry.resolve("late/1").digest
    assert (str(there), there.gates, there.pushed_by) == ("late/1", "passed", "bob")
    assert other.statements(there) == registry.statements("late/1")
    assert {said.kind for said in read_statements(other.path(there))} == {"audit", "gates"}
    assert (other.path(there) / "card.md").read_text() == "# a card\n"
    assert [str(one.version) for one in other.search("metric.auc >= 0.9")] == ["late/1"]


def test_it_gets_the_next_number_there_and_only_once(archive, other, tmp_path):
    other.push(write_bundle(tmp_path / "theirs", b"theirs"), by="bob")

    assert [other.import_archive(archive, by="bob").number for _ in range(2)] == [2, 2]
    other.retire("late", 2, by="bob", reason="it leaks")
    with pytest.raises(Refused, match="it leaks"):
        other.import_archive(archive, by="bob")


def test_the_same_version_gives_the_same_bytes(registry, archive, tmp_path):
    registry.export("late/1", tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()


def test_a_version_travels_between_a_laptop_and_shared_stores(
    registry, archive, other, postgresql_url, s3_url, tmp_path
):
    shared = open_stores(tmp_path / "shared", postgresql_url, s3_url)
    shared.import_archive(archive, by="ci")
    shutil.rmtree(tmp_path / "shared")  # so that it comes out of the bucket
    shared.export("late/1", tmp_path / "back.tar")

    assert other.import_archive(tmp_path / "back.tar", by="bob") is not None
    assert other.statements("late/1") == registry.statements("late/1")


def test_the_layout_is_as_the_specification_says(archive):
    content = members(archive)
    index = json.loads(content["index.json"])
    (descriptor,) = index["manifests"]
    manifest = json.loads(content["blobs/sha256/" + descriptor["digest"][7:]])

    assert json.loads(content["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    assert (index["schemaVersion"], manifest["schemaVersion"]) == (2, 2)
    assert manifest["artifactType"] == descriptor["artifactType"] == ARTIFACT_TYPE
    assert manifest["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"
    assert content["blobs/sha256/" + manifest["config"]["digest"][7:]] == b"{}"
    for name, data in content.items():
        assert name in ("oci-layout", "index.json") or name == blob(data)
    titles = [one["annotations"]["org.opencontainers.image.title"] for one in manifest["layers"]]
    assert titles[0] == "bundle.json"
    assert len([title for title in titles if title.startswith("statements/")]) == 2


def test_skopeo_reads_it_and_what_it_copied_is_imported(registry, archive, other, tmp_path):
    program = shutil.which("skopeo")
    assert program, "skopeo is missing: apt-get install skopeo"

    def skopeo(*arguments: str) -> bytes:
        done = subprocess.run(
            [program, "--insecure-policy", f"--tmpdir={tmp_path}", *arguments],
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    raw = skopeo("inspect", "--raw", f"oci-archive:{archive}:1")
    assert json.loads(raw)["artifactType"] == ARTIFACT_TYPE
    copied = tmp_path / "copied.tar"
    skopeo("copy", "--preserve-digests", f"oci-archive:{archive}:1", f"oci-archive:{copied}:1")

    assert other.import_archive(copied, by="bob").digest == registry.resolve("late/1").digest
    assert other.statements("late/1") == registry.statements("late/1")


# -- what is in the way --


def test_a_file_that_is_there_is_not_overwritten_unasked(registry, archive):
    before = archive.read_bytes()
    with pytest.raises(Conflict, match="exists already"):
        registry.export("late/1", archive)
    assert archive.read_bytes() == before
    registry.export("late/1", archive, overwrite=True)
    assert not list(archive.parent.glob(".late.tar.*"))


def test_a_damaged_copy_is_not_exported(registry, tmp_path):
    file = registry.path("late/1") / "original/model.onnx"
    file.chmod(0o644)
    file.write_bytes(b"other" + file.read_bytes()[5:])

    with pytest.raises(Untrusted, match=r"model\.onnx"):
        registry.export("late/1", tmp_path / "late.tar")
    assert not (tmp_path / "late.tar").exists()


def test_a_file_that_is_not_there_is_told(other, tmp_path):
    with pytest.raises(NotFound, match="no file"):
        other.import_archive(tmp_path / "nothing.tar", by="bob")


# -- attacks --


def refused(other: Registry, archive: Path, told: str = "") -> None:
    with pytest.raises(Untrusted) as caught:
        other.import_archive(archive, by="bob")
    assert told in caught.value.message
    assert not (archive.parent / "other").exists(), "something was kept"


@pytest.mark.parametrize("content", [b"", b"not a tar", b"\x1f\x8b" + b"\0" * 600], ids=len)
def test_what_is_no_archive_is_refused(other, tmp_path, content):
    (tmp_path / "late.tar").write_bytes(content)
    refused(other, tmp_path / "late.tar")


@pytest.mark.parametrize(
    "title", ["../out", "/etc/passwd", "a/../../out", "a\\b", "a//b", "\0", ""]
)
def test_a_title_that_leads_out_of_the_bundle_is_refused(other, archive, title, tmp_path):
    def change(manifest: dict[str, Any], _: dict[str, bytes]) -> None:
        layer(manifest, "card.md")["annotations"]["org.opencontainers.image.title"] = title

    refused(other, remade(archive, change))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_a_link_or_device_in_the_archive_is_refused(other, archive, kind):
    content = members(archive)
    name = next(name for name in content if name.startswith("blobs/"))
    del content[name]
    link = tarfile.TarInfo(name)
    link.type, link.linkname = kind, "/etc/passwd"
    refused(other, written(archive, content, link), "not a plain file")


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "blobs/sha256/short", "extra"])
def test_a_member_that_has_no_place_in_the_layout_is_refused(other, archive, name):
    refused(other, written(archive, {**members(archive), name: b"x"}), "has no place")


def test_a_blob_whose_bytes_are_not_its_digest_is_refused(other, archive):
    content = members(archive)
    for name in [name for name in content if name.startswith("blobs/") and len(content[name]) > 2]:
        data = content[name]
        changed = {**content, name: data[:-1] + bytes([data[-1] ^ 1])}
        refused(other, written(archive, changed))


def test_a_missing_blob_and_one_that_is_there_twice_are_refused(other, archive):
    content = members(archive)
    name = next(name for name in content if name.startswith("blobs/") and content[name] != b"{}")
    again = tarfile.TarInfo(name)
    refused(other, written(archive, content, again), "in it twice")
    del content[name]
    refused(other, written(archive, content))


def test_other_bytes_under_right_digests_are_refused_by_the_bundle_itself(other, archive):
    def change(manifest: dict[str, Any], content: dict[str, bytes]) -> None:
        evil = b"b model" * 1_000
        content[blob(evil)] = evil
        layer(manifest, "original/model.onnx")["digest"] = sha256_bytes(evil)

    refused(other, remade(archive, change), "model.onnx")


def test_a_bundle_other_than_the_promised_one_is_refused(other, archive):
    def change(manifest: dict[str, Any], _: dict[str, bytes]) -> None:
        manifest["annotations"]["dev.bascule.digest"] = "sha256:" + "0" * 64

    refused(other, remade(archive, change), "promises")


def test_a_statement_about_another_bundle_is_refused(other, archive):
    def change(manifest: dict[str, Any], content: dict[str, bytes]) -> None:
        said = {"kind": "gates", "subject": "sha256:" + "0" * 64, "at": T0.isoformat(),
                "by": "eve", "body": {"passed": True}, "schema_version": 1}  # fmt: skip
        data = canonical_json(said)
        content[blob(data)] = data
        manifest["layers"].append(
            {
                "mediaType": "application/vnd.bascule.statement.v1+json",
                "digest": sha256_bytes(data),
                "size": len(data),
                "annotations": {"org.opencontainers.image.title": "statements/gates-x.json"},
            }
        )

    refused(other, remade(archive, change), "speaks of another bundle")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda manifest: manifest.update(artifactType="application/x"), "artifactType"),
        (lambda manifest: manifest.update(layers=None), "$.layers"),
        (lambda manifest: manifest.update(layers=[1]), "$.layers[0]"),
        (lambda manifest: manifest.update(layers=[]), "holds no bundle.json"),
        (lambda manifest: manifest["layers"].append(manifest["layers"][0]), "in it twice"),
        (lambda manifest: manifest["layers"][0].pop("annotations"), "leads out"),
        (lambda manifest: manifest["layers"][0].update(size="1"), "$.layers[0].size"),
        (lambda manifest: manifest["layers"][0].update(size=1), "bytes, and not"),
        (lambda manifest: manifest["layers"][0].update(digest="md5:x"), "$.layers[0].digest"),
        (lambda manifest: manifest.pop("annotations"), "promises"),
    ],
)
def test_a_manifest_that_is_none_of_ours_is_refused(other, archive, change, told):
    refused(other, remade(archive, lambda manifest, _: change(manifest)), told)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("oci-layout", b'{"imageLayoutVersion":"2.0.0"}'),
        ("oci-layout", b"[]"),
        ("index.json", b"{"),
        ("index.json", b'{"manifests":[]}'),
        ("index.json", b'{"manifests":[{"digest":"sha256:","size":null}]}'),
        ("index.json", b"[" * 100_000),
    ],
)
def test_an_index_that_leads_nowhere_is_refused(other, archive, name, content):
    refused(other, written(archive, {**members(archive), name: content}))


@settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_an_archive_with_any_byte_changed_is_refused_or_the_same(archive, tmp_path, data):
    """Bytes of the tar's own headers may not matter; then what comes out is what went in."""
    content = bytearray(archive.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    changed = tmp_path / "changed.tar"
    changed.write_bytes(content)
    whole = open_registry(tmp_path / "home").resolve("late/1").digest
    folder = tmp_path / "fuzz"
    shutil.rmtree(folder, ignore_errors=True)

    try:
        found = open_registry(folder).import_archive(changed, by="eve")
    except BasculeError:
        assert not folder.exists()
        return
    assert found.digest == whole == digest_of(open_registry(folder).path(found))
    read_manifest(open_registry(folder).path(found))
