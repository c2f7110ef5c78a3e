"""One version as one file: an OCI image layout in a tar archive, which any OCI registry can hold.

The layout is that of the OCI Image Format Specification 1.1, `image-layout.md`. The manifest
follows its "Guidelines for Artifact Usage": an `artifactType`, the empty config, and one layer for
each file of the bundle and each statement, whose path is the annotation
`org.opencontainers.image.title` (as ORAS has it, so its client unpacks a bundle into its folder).
The archive is not compressed, and the same version gives the same bytes.

Reading trusts nothing: every blob is compared with the digest and the size by which it is named,
every path must lead into the bundle, and the bundle must then verify like any other.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any

from bascule.bundle.disk import (
    MANIFEST,
    STATEMENTS,
    Statement,
    digest_of,
    read_manifest,
    read_statements as statements_beside,
)
from bascule.core import (
    Conflict,
    Invalid,
    NotFound,
    Unavailable,
    Untrusted,
    canonical_json,
    check_replaceable,
    replacing,
    sha256_bytes,
    sha256_file,
)

ARTIFACT_TYPE = "application/vnd.bascule.bundle.v1"
"""What tells a bundle from other artifacts."""

_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
_BUNDLE_JSON_TYPE = "application/vnd.bascule.manifest.v1+json"
_STATEMENT_TYPE = "application/vnd.bascule.statement.v1+json"
_FILE_TYPE = "application/octet-stream"
_TITLE = "org.opencontainers.image.title"
_DIGEST = "dev.bascule.digest"
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_EMPTY = b"{}"
_BLOB = re.compile(r"blobs/sha256/(?P<hex>[0-9a-f]{64})")
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")
_CHUNK_BYTES = 1 << 20
_MAX_JSON_BYTES = 16 << 20
_MAX_MEMBERS = 100_000
_MAX_TITLE = 1_024
_MAX_PART_BYTES = 255


@dataclass(frozen=True, slots=True)
class Cargo:
    """What is written into an archive.

    Attributes:
        model: The name, for people.
        number: The version's, for people: another registry gives its own.
        pushed_at: When, for people.
        path: The bundle's folder.
        statements: What has been said about it.
    """

    model: str
    number: int
    pushed_at: datetime
    path: Path
    statements: Sequence[Statement]


@dataclass(frozen=True, slots=True)
class _Blob:
    title: str
    media_type: str
    digest: str
    size: int
    source: Path | bytes


def write_archive(cargo: Cargo, target: Path, *, overwrite: bool = False) -> str:
    """Write `target`, whole or not at all; returns the digest of the OCI manifest.

    Raises:
        Conflict: There is a file already, and `overwrite` is False; or what is there is no file.
        Invalid: It cannot be written.
    """
    check_replaceable(target)
    if target.exists() and not overwrite:
        raise Conflict(f"{target} exists already", hint="choose another name, or pass --overwrite")
    blobs = list(_blobs(cargo))
    manifest = canonical_json(_manifest(cargo, blobs))
    content: dict[str, Path | bytes] = {blob.digest: blob.source for blob in blobs}
    content |= {sha256_bytes(_EMPTY): _EMPTY, sha256_bytes(manifest): manifest}
    with (
        replacing(target) as draft,
        draft.open("xb") as file,
        tarfile.open(fileobj=file, mode="w") as archive,
    ):
        _add(archive, "oci-layout", _LAYOUT)
        _add(archive, "index.json", canonical_json(_index(cargo, manifest)))
        for digest in sorted(content):
            _add(archive, f"blobs/sha256/{digest.removeprefix('sha256:')}", content[digest])
    return sha256_bytes(manifest)


def _blobs(cargo: Cargo) -> Iterator[_Blob]:
    files = sorted(
        name
        for file in cargo.path.rglob("*")
        if file.is_file()
        and not (name := file.relative_to(cargo.path).as_posix()).startswith(f"{STATEMENTS}/")
    )
    for name in sorted(files, key=lambda name: (name != MANIFEST, name)):
        file = cargo.path / name
        media_type = _BUNDLE_JSON_TYPE if name == MANIFEST else _FILE_TYPE
        yield _Blob(name, media_type, sha256_file(file), file.stat().st_size, file)
    for statement in cargo.statements:
        content = canonical_json(statement.to_json())
        title = f"{STATEMENTS}/{statement.file_name}"
        yield _Blob(title, _STATEMENT_TYPE, sha256_bytes(content), len(content), content)


def _manifest(cargo: Cargo, blobs: Sequence[_Blob]) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": _MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": {
            "mediaType": _EMPTY_TYPE,
            "digest": sha256_bytes(_EMPTY),
            "size": len(_EMPTY),
        },
        "layers": [
            {
                "mediaType": blob.media_type,
                "digest": blob.digest,
                "size": blob.size,
                "annotations": {_TITLE: blob.title},
            }
            for blob in blobs
        ],
        "annotations": {
            _TITLE: cargo.model,
            "org.opencontainers.image.version": str(cargo.number),
            "org.opencontainers.image.created": cargo.pushed_at.isoformat(),
            _DIGEST: digest_of(cargo.path),
        },
    }


def _index(cargo: Cargo, manifest: bytes) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": _INDEX_TYPE,
        "manifests": [
            {
                "mediaType": _MANIFEST_TYPE,
                "artifactType": ARTIFACT_TYPE,
                "digest": sha256_bytes(manifest),
                "size": len(manifest),
                "annotations": {"org.opencontainers.image.ref.name": str(cargo.number)},
            }
        ],
    }


def _add(archive: tarfile.TarFile, name: str, content: Path | bytes) -> None:
    member = tarfile.TarInfo(name)  # no owner, no time: the same bytes on every machine
    if isinstance(content, bytes):
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
        return
    with content.open("rb") as file:
        member.size = os.fstat(file.fileno()).st_size
        archive.addfile(member, file)


def read_archive(source: Path, folder: Path) -> None:
    """Unpack a version into the empty `folder`, as a bundle that has been verified.

    Raises:
        NotFound: There is no such file.
        Untrusted: It is no such archive, or a byte of it is not what its digest says, or a path
            leads out of the bundle. What is in `folder` then must not be used.
    """
    with _opened(source) as archive:
        members = _members(archive, source)
        if _json(archive, members, "oci-layout", source).get("imageLayoutVersion") != "1.0.0":
            raise _not_one(source, "its oci-layout is of another version than 1.0.0")
        descriptor = _choose(_json(archive, members, "index.json", source), source)
        manifest = _parse(_read_blob(archive, members, descriptor, source), source)
        if manifest.get("artifactType") != ARTIFACT_TYPE:
            raise _not_one(source, f"its artifactType is {manifest.get('artifactType')!r}")
        titles: set[str] = set()
        for layer in _list(manifest.get("layers"), source):
            title = _title(layer, source)
            if title in titles:
                raise _not_one(source, f"{title} is in it twice")
            titles.add(title)
            with _new_file(folder / title, title, source) as file:
                _copy_blob(archive, members, layer, file, source)
    _check_bundle(folder, manifest, titles, source)


def _new_file(target: Path, title: str, source: Path) -> IO[bytes]:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return target.open("xb")
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise _not_one(source, f"{title} in it is a file and a folder") from None


def _check_bundle(
    folder: Path, manifest: Mapping[str, Any], titles: set[str], source: Path
) -> None:
    if MANIFEST not in titles:
        raise _not_one(source, f"it holds no {MANIFEST}")
    read_manifest(folder)
    annotations = manifest.get("annotations")
    promised = annotations.get(_DIGEST) if isinstance(annotations, Mapping) else None
    if digest_of(folder) != promised:
        raise _not_one(source, f"its bundle is not the {promised} that it promises")
    said = sum(title.startswith(f"{STATEMENTS}/") for title in titles)
    if len(statements_beside(folder)) != said:
        raise _not_one(source, "a statement in it speaks of another bundle")


@contextmanager
def _opened(source: Path) -> Iterator[tarfile.TarFile]:
    try:
        # Without compression: what comes out is never more than what came in.
        with tarfile.open(source, mode="r:") as archive:
            yield archive
    except FileNotFoundError:
        raise NotFound(f"there is no file {source}", hint="bascule export gb/3 FILE") from None
    except IsADirectoryError:
        raise Invalid(f"{source} is a folder", hint="give the file that export wrote") from None
    except (tarfile.TarError, EOFError, ValueError, RecursionError) as problem:
        raise _not_one(source, str(problem)) from None
    except OSError as problem:
        raise Unavailable(f"{source} cannot be read: {problem.strerror or problem}") from None


def _members(archive: tarfile.TarFile, source: Path) -> dict[str, tarfile.TarInfo]:
    members: dict[str, tarfile.TarInfo] = {}
    for count, member in enumerate(archive):
        name = member.name.removeprefix("./")
        if member.isdir():
            continue
        if count > _MAX_MEMBERS:
            raise _not_one(source, f"it has more than {_MAX_MEMBERS:,} members")
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
            raise _not_one(source, f"{name} in it is not a plain file")
        if name not in ("oci-layout", "index.json") and not _BLOB.fullmatch(name):
            raise _not_one(source, f"{name!r} has no place in it")
        if name in members:
            raise _not_one(source, f"{name} is in it twice")
        members[name] = member
    return members


def _choose(index: Mapping[str, Any], source: Path) -> Mapping[str, Any]:
    found = _list(index.get("manifests"), source)
    if len(found) != 1:
        raise _not_one(source, f"it holds {len(found)} artifacts, and not one")
    return found[0]


def _title(layer: Mapping[str, Any], source: Path) -> str:
    annotations = layer.get("annotations")
    title = annotations.get(_TITLE) if isinstance(annotations, Mapping) else None
    if not isinstance(title, str) or not title:
        raise _not_one(source, "a layer of it has no title")
    pure = PurePosixPath(title)
    if (
        pure.is_absolute()
        or ".." in pure.parts
        or str(pure) != title
        or not title.isprintable()
        or len(title) > _MAX_TITLE
        or any(len(part.encode()) > _MAX_PART_BYTES for part in pure.parts)
        or "\\" in title
    ):
        raise _not_one(source, f"file name {title!r} leads out of the bundle")
    return title


def _read_blob(
    archive: tarfile.TarFile,
    members: Mapping[str, tarfile.TarInfo],
    descriptor: Mapping[str, Any],
    source: Path,
) -> bytes:
    content = io.BytesIO()
    size = descriptor.get("size")
    if not isinstance(size, int) or size > _MAX_JSON_BYTES:
        raise _not_one(source, "its manifest is too large to be one")
    _copy_blob(archive, members, descriptor, content, source)
    return content.getvalue()


def _copy_blob(
    archive: tarfile.TarFile,
    members: Mapping[str, tarfile.TarInfo],
    descriptor: Mapping[str, Any],
    target: IO[bytes],
    source: Path,
) -> None:
    digest, size = descriptor.get("digest"), descriptor.get("size")
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise _not_one(source, f"{digest!r} in it is not a digest that is known")
    member = members.get(f"blobs/sha256/{digest.removeprefix('sha256:')}")
    if member is None:
        raise _not_one(source, f"{digest} is missing from it")
    reader = archive.extractfile(member)
    if member.size != size or reader is None:
        raise _not_one(source, f"{digest} in it has {member.size} bytes, and not {size}")
    found = hashlib.sha256()
    while chunk := reader.read(_CHUNK_BYTES):
        found.update(chunk)
        target.write(chunk)
    if "sha256:" + found.hexdigest() != digest:
        raise _not_one(source, f"{digest} in it was altered")


def _json(
    archive: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo], name: str, source: Path
) -> Mapping[str, Any]:
    member = members.get(name)
    if member is None:
        raise _not_one(source, f"it holds no {name}")
    reader = archive.extractfile(member)
    if member.size > _MAX_JSON_BYTES or reader is None:
        raise _not_one(source, f"its {name} is too large to be one")
    return _parse(reader.read(), source)


def _parse(content: bytes, source: Path) -> Mapping[str, Any]:
    value = json.loads(content)
    if not isinstance(value, Mapping):
        raise _not_one(source, "a document in it is not a JSON object")
    return value


def _list(value: object, source: Path) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        raise _not_one(source, "a list in it is not one of descriptors")
    return value


def _not_one(source: Path, why: str) -> Untrusted:
    return Untrusted(
        f"{source} is not a version that was exported: {why}",
        hint="take the file from its source again, or export it anew: bascule export gb/3 FILE",
        file=str(source),
    )
