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
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, MsgspecError, Struct, field

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

T = TypeVar("T")

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
_CHUNK_BYTES = 1 << 20
_MAX_JSON_BYTES = 16 << 20
_MAX_READ_BYTES = _MAX_JSON_BYTES + tarfile.BLOCKSIZE
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


class _Descriptor(Struct):
    """See the OCI Image Format Specification, `descriptor.md`."""

    digest: Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
    size: Annotated[int, Meta(ge=0)]
    annotations: dict[str, str] = {}


class _Layout(Struct):
    version: Literal["1.0.0"] = field(name="imageLayoutVersion")


class _Index(Struct):
    manifests: Annotated[list[_Descriptor], Meta(min_length=1, max_length=1)]


class _Manifest(Struct):
    kind: str = field(name="artifactType")
    layers: list[_Descriptor]
    annotations: dict[str, str] = {}


def read_archive(source: Path, folder: Path) -> None:
    """Unpack a version into the empty `folder`, as a bundle that has been verified.

    Raises:
        NotFound: There is no such file.
        Untrusted: It is no such archive, or a byte of it is not what its digest says, or a path
            leads out of the bundle. What is in `folder` then must not be used.
    """
    with _opened(source) as archive:
        members = _members(archive)
        for name in ("oci-layout", "index.json"):
            if name not in members:
                raise ValueError(f"it holds no {name}")
        _decoded(_Layout, archive, members["oci-layout"])
        (descriptor,) = _decoded(_Index, archive, members["index.json"]).manifests
        manifest = _decoded(_Manifest, archive, _member(members, descriptor))
        _copy_blob(archive, members, descriptor, io.BytesIO())
        if manifest.kind != ARTIFACT_TYPE:
            raise ValueError(f"its artifactType is {manifest.kind!r}")
        titles: set[str] = set()
        for layer in manifest.layers:
            title = _title(layer)
            if title in titles:
                raise ValueError(f"{title} is in it twice")
            titles.add(title)
            with _new_file(folder / title, title) as file:
                _copy_blob(archive, members, layer, file)
        _check_bundle(folder, manifest, titles)


def _new_file(target: Path, title: str) -> IO[bytes]:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return target.open("xb")
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise ValueError(f"{title} in it is a file and a folder") from None


def _check_bundle(folder: Path, manifest: _Manifest, titles: set[str]) -> None:
    if MANIFEST not in titles:
        raise ValueError(f"it holds no {MANIFEST}")
    read_manifest(folder)
    promised = manifest.annotations.get(_DIGEST)
    if digest_of(folder) != promised:
        raise ValueError(f"its bundle is not the {promised} that it promises")
    said = sum(title.startswith(f"{STATEMENTS}/") for title in titles)
    if len(statements_beside(folder)) != said:
        raise ValueError("a statement in it speaks of another bundle")


class _BoundedReads(io.FileIO):
    """A file of which no large part is read at once: tarfile reads a long name or header whole."""

    def read(self, size: int | None = -1, /) -> Any:
        if size is not None and size > _MAX_READ_BYTES:
            raise ValueError(f"a header in it has {size:,} bytes")
        return super().read(size)


@contextmanager
def _opened(source: Path) -> Iterator[tarfile.TarFile]:
    """The archive; a `ValueError` says what keeps it from being one."""
    try:
        # Without compression: what comes out is never more than what came in.
        with _BoundedReads(source) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            yield archive
    except FileNotFoundError:
        raise NotFound(f"there is no file {source}", hint="bascule export gb/3 FILE") from None
    except IsADirectoryError:
        raise Invalid(f"{source} is a folder", hint="give the file that export wrote") from None
    except (tarfile.TarError, EOFError, ValueError, RecursionError, MsgspecError) as problem:
        raise Untrusted(
            f"{source} is not a version that was exported: {problem}",
            hint="send a file that bascule export has written: bascule export gb/3 FILE",
            file=str(source),
        ) from None
    except OSError as problem:
        raise Unavailable(f"{source} cannot be read: {problem.strerror or problem}") from None


def _members(archive: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    members: dict[str, tarfile.TarInfo] = {}
    for count, member in enumerate(archive):
        name = member.name.removeprefix("./")
        if member.isdir():
            continue
        if count > _MAX_MEMBERS:
            raise ValueError(f"it has more than {_MAX_MEMBERS:,} members")
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
            raise ValueError(f"{name} in it is not a plain file")
        if name not in ("oci-layout", "index.json") and not _BLOB.fullmatch(name):
            raise ValueError(f"{name!r} has no place in it")
        if name in members:
            raise ValueError(f"{name} is in it twice")
        members[name] = member
    return members


def _title(layer: _Descriptor) -> str:
    title = layer.annotations.get(_TITLE, "")
    pure = PurePosixPath(title)
    if (
        not title
        or pure.is_absolute()
        or ".." in pure.parts
        or str(pure) != title
        or not title.isprintable()
        or len(title) > _MAX_TITLE
        or any(len(part.encode()) > _MAX_PART_BYTES for part in pure.parts)
        or "\\" in title
    ):
        raise ValueError(f"file name {title!r} leads out of the bundle")
    return title


def _member(members: Mapping[str, tarfile.TarInfo], descriptor: _Descriptor) -> tarfile.TarInfo:
    digest = descriptor.digest
    member = members.get(f"blobs/sha256/{digest.removeprefix('sha256:')}")
    if member is None:
        raise ValueError(f"{digest} is missing from it")
    if member.size != descriptor.size:
        raise ValueError(f"{digest} in it has {member.size} bytes, and not {descriptor.size}")
    return member


def _copy_blob(
    archive: tarfile.TarFile,
    members: Mapping[str, tarfile.TarInfo],
    descriptor: _Descriptor,
    target: IO[bytes],
) -> None:
    reader = archive.extractfile(_member(members, descriptor))
    assert reader is not None, "only plain files are members"
    found = hashlib.sha256()
    while chunk := reader.read(_CHUNK_BYTES):
        found.update(chunk)
        target.write(chunk)
    if "sha256:" + found.hexdigest() != descriptor.digest:
        raise ValueError(f"{descriptor.digest} in it was altered")


def _decoded(kind: type[T], archive: tarfile.TarFile, member: tarfile.TarInfo) -> T:
    """The JSON document of a member, as a `kind`."""
    reader = archive.extractfile(member)
    if member.size > _MAX_JSON_BYTES or reader is None:
        raise ValueError(f"its {member.name} is too large to be one")
    return msgspec.json.decode(reader.read(), type=kind)
