"""The file of a backup: a tar archive, whose last member names every other with its digest.

    catalogue/TABLE.jsonl      the rows of a table, one JSON list a line; the first has the columns
    objects/HEX/PATH           the files of a bundle, by the digest of its manifest
    home/PATH                  the ledger, the spool and the outcomes of the home
    backup.json                the manifest, last: an archive without it is not whole

Reading trusts no name and no byte: members are unpacked below one folder, and nothing is restored
before every digest was compared.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

import msgspec

from bascule.core import (
    Invalid,
    TooLarge,
    Untrusted,
    check_file,
    is_file_name,
    replacing,
)  # fmt: skip

FORMAT = 1
MANIFEST = "backup.json"
CATALOGUE, OBJECTS, HOME = "catalogue", "objects", "home"
_PARTS = (CATALOGUE, OBJECTS, HOME)
_CHUNK_BYTES = 1 << 20
_MAX_MANIFEST_BYTES = 64 << 20
_FREE_BYTES = 256 << 20
_MAX_GROWTH = 200
"""How many times its own size an archive may unpack to, beyond `_FREE_BYTES`."""
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Entry(msgspec.Struct, frozen=True):
    """One member of the archive.

    Attributes:
        sha256: Of its bytes, in hexadecimal.
        size_bytes: Of the member, not compressed.
    """

    sha256: str
    size_bytes: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup holds.

    Attributes:
        format: Of this file.
        made_at: When the catalogue was read; ISO 8601.
        release: The release of Bascule that wrote it.
        schema: The revision of the catalogue's schema.
        versions: How many versions the catalogue lists.
        bundles: How many bundles are in the archive.
        missing: Digests of retired versions whose bundles were collected before.
        has_ledger: Whether the ledger of the home is in it.
        files: Every member but this one, by its name.
    """

    format: int = FORMAT
    made_at: str
    release: str
    schema: str
    versions: int
    bundles: int
    missing: tuple[str, ...] = ()
    has_ledger: bool = False
    files: dict[str, Entry] = {}


class Writer:
    """Adds members to an archive and keeps their digests."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self.files: dict[str, Entry] = {}

    def add(self, name: str, source: Path) -> None:
        """Add the bytes of a regular file, as many as it has now."""
        with source.open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            hashing = _Hashing(file)
            self._archive.addfile(_member(name, size), hashing)
        self.files[name] = Entry(hashing.hexdigest(), size)

    def finish(self, manifest: Manifest) -> None:
        """Add the manifest, with what was added before."""
        content = msgspec.json.format(
            msgspec.json.encode(msgspec.structs.replace(manifest, files=self.files)), indent=1
        )
        self._archive.addfile(_member(MANIFEST, len(content)), io.BytesIO(content))


@contextmanager
def writing_archive(target: Path, *, overwrite: bool = True) -> Iterator[Writer]:
    """A writer; `target` is there whole when the block ends, and only its owner may read it.

    A name that ends in `.gz` or `.tgz` is compressed.

    Raises:
        Invalid: It cannot be written.
        Conflict: What is there is no regular file; or a file, without `overwrite`.
    """
    mode = "w|gz" if target.suffix in (".gz", ".tgz") else "w|"
    with replacing(target, overwrite=overwrite) as draft, draft.open("xb") as file:
        draft.chmod(0o600)  # the ledger's key and the hashes of callers' keys are in it
        with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
            yield Writer(archive)


def unpack(source: Path, folder: Path) -> Manifest:
    """Unpack an archive below `folder`, verified; nothing of it may be used after an error.

    Raises:
        NotFound: There is no file at `source`.
        Untrusted: It is no backup, is not whole, was altered, or a newer release wrote it.
        TooLarge: It grows too much.
    """
    check_file(source, "backup")
    found: dict[str, Entry] = {}
    manifest: Manifest | None = None
    try:
        left_bytes = _FREE_BYTES + _MAX_GROWTH * source.stat().st_size
        with tarfile.open(source, mode="r|*") as archive:
            for member in archive:
                left_bytes -= member.size
                if left_bytes < 0:
                    raise TooLarge(
                        f"{source} unpacks to over {_MAX_GROWTH} times its size, which is no backup"
                    )
                if manifest is not None:
                    raise Untrusted(f"{source}: {member.name!r} stands behind {MANIFEST}")
                file = archive.extractfile(member) if member.isreg() else None
                if file is None:
                    raise Untrusted(f"{source}: {member.name!r} is no regular file")
                if member.name == MANIFEST:
                    manifest = _manifest(file.read(_MAX_MANIFEST_BYTES), source)
                elif member.name in found:
                    raise Untrusted(f"{source}: {member.name!r} is there twice")
                else:
                    found[member.name] = _unpacked(file, folder / _checked(member.name, source))
    except (tarfile.TarError, EOFError, OSError, ValueError) as problem:
        if isinstance(problem, OSError) and problem.errno:
            raise Invalid(f"{source} cannot be unpacked: {problem.strerror}") from None
        raise Untrusted(
            f"{source} is no backup, or is not whole: {problem}", hint="use another copy of it"
        ) from None
    if manifest is None:
        raise Untrusted(
            f"{source} is not whole: {MANIFEST}, its last part, is missing",
            hint="use another copy of it",
        )
    _compare(manifest, found, source)
    return manifest


def _compare(manifest: Manifest, found: dict[str, Entry], source: Path) -> None:
    for name in sorted({*found, *manifest.files}):
        if found.get(name) != manifest.files.get(name):
            missing = "is missing" if name not in found else "was altered"
            raise Untrusted(
                f"{source}: {name} {missing}", hint="use another copy of the backup", part=name
            )


def _manifest(content: bytes, source: Path) -> Manifest:
    try:
        made = msgspec.json.decode(content, type=Manifest)
    except msgspec.MsgspecError as problem:
        raise Untrusted(f"{source}: {MANIFEST}: {problem}") from None
    if made.format != FORMAT:
        raise Untrusted(
            f"{source} has format {made.format}, and this release reads {FORMAT}",
            hint=f"restore it with Bascule {made.release}",
        )
    return made


def _checked(name: str, source: Path) -> PurePosixPath:
    """The path of a member; raises `Untrusted` where it leads out of its part."""
    path = PurePosixPath(name)
    is_ours = (
        len(path.parts) > 1
        and path.parts[0] in _PARTS
        and ".." not in path.parts
        and "\\" not in name
        and is_file_name(name)
        and (path.parts[0] != OBJECTS or bool(_DIGEST.fullmatch(path.parts[1])))
    )
    if not is_ours:
        raise Untrusted(f"{source}: {name!r} is no part of a backup", part=name)
    return path


def _unpacked(file: IO[bytes], target: Path) -> Entry:
    target.parent.mkdir(parents=True, exist_ok=True)
    reading, size = _Hashing(file), 0
    with target.open("xb") as out:
        while chunk := reading.read(_CHUNK_BYTES):
            size += out.write(chunk)
    return Entry(reading.hexdigest(), size)


def _member(name: str, size: int) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size, made.mode = size, 0o600
    return made


class _Hashing(io.RawIOBase):
    """Reads from a file, and hashes what was read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    def read(self, size: int | None = -1, /) -> bytes:
        found = self._file.read(-1 if size is None else size)
        self._digest.update(found)
        return found

    def hexdigest(self) -> str:
        return self._digest.hexdigest()
