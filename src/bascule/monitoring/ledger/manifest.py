"""The manifest: which segments there are, and how far the spool is in them.

`ledger/manifest.json` is replaced as a whole, which commits both. A segment that the manifest
does not name does not count: it is left from a scribe that died before it committed, and the next
one removes it.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from bascule.core import Unavailable, Untrusted, sync_folder, synced
from bascule.monitoring.profiles import ProfileFile

LEDGER = "ledger"
MANIFEST = "manifest.json"


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """One Parquet file: rows of one version, of one UTC day, nearly sorted by time.

    Attributes:
        file: Its path below `ledger/`.
        model: Whose answers.
        version: Of which version.
        day: As `2026-11-26`.
        rows: How many.
        size_bytes: Of the file.
        sha256: Its digest, once hosts share it.
    """

    file: str
    model: str
    version: str
    day: str
    rows: int
    size_bytes: int
    sha256: str = ""


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that were answered and are not in the ledger.

    Attributes:
        writer: The name of the spool's folder, with host and process id.
        found_at: When it was noticed; ISO 8601.
        requests: How many.
        why: `killed` (its writer ended before it wrote them) or `dropped` (there was no space).
        ids: Of the latest of them, as far as they are known.
    """

    writer: str
    found_at: str
    requests: int
    why: str
    ids: tuple[str, ...] = ()


class Progress(msgspec.Struct, kw_only=True):
    """How far the blocks of one writer are in segments.

    Attributes:
        files: By name, how many bytes of a file are; a file that is not named is not begun.
        requests: How many requests are.
        dropped: How many dropped requests are listed as gaps.
        is_ended: The writer has ended, and all that it left is in segments: its folder is removed.
    """

    files: dict[str, int] = {}
    requests: int = 0
    dropped: int = 0
    is_ended: bool = False


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """A person, by digests of the value of one field; see `subjects`.

    Attributes:
        field: The name of the field.
        digest: Of the value, with the key of the home.
        hashes: What a field that is hashed has in its place, as a text and as a number.
        key: Tells homes whose keys differ.
        token: What a field that is tokenised has in its place; empty without its key.
    """

    field: str
    digest: str
    hashes: tuple[str, ...]
    key: str
    token: str = ""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be deleted.

    Attributes:
        id: Of the request.
        model: The model whose answers are looked at; its fields are columns.
        where: The condition, one SQL expression; empty with a subject.
        at_s: When it was asked for, by the clock of the epoch.
        subject: Whose rows are deleted, whenever they came.
    """

    id: str
    model: str
    where: str
    at_s: float
    subject: Subject | None = None


class Deleted(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one deletion.

    Attributes:
        at: When it was committed; ISO 8601.
        rows: How many of `predictions` are gone.
        outcomes: How many truths about them are gone.
        error: Why nothing was deleted; empty where it was.
    """

    at: str
    rows: int = 0
    outcomes: int = 0
    error: str = ""


class Manifest(msgspec.Struct, kw_only=True):
    """What the ledger consists of."""

    format: int = 1
    sequence: int = 0
    segments: list[Segment] = []
    profiles: list[ProfileFile] = []
    writers: dict[str, Progress] = {}
    gaps: list[Gap] = []
    deletions: dict[str, Deleted] = {}


def read_manifest(home: Path) -> Manifest:
    """The manifest; an empty one where there is no ledger.

    Raises:
        Untrusted: It cannot be read, or a newer release wrote it.
    """
    file = home / LEDGER / MANIFEST
    try:
        made = msgspec.json.decode(file.read_bytes(), type=Manifest)
    except FileNotFoundError:
        return Manifest()
    except msgspec.MsgspecError as error:
        raise Untrusted(f"{file} is no manifest of a ledger: {error}") from None
    if made.format != 1:
        raise Untrusted(
            f"{file} has format {made.format}, and this bascule reads 1", hint="update bascule"
        )
    return made


def commit(home: Path, manifest: Manifest) -> None:
    """Replace the manifest, on the disk when this returns. Raises `Unavailable`."""
    folder = home / LEDGER
    fresh = folder / f"{MANIFEST}.new"
    try:
        with synced(fresh) as file:
            file.write(msgspec.json.encode(manifest))
        fresh.rename(folder / MANIFEST)
        sync_folder(folder)
    except OSError as error:
        raise Unavailable(f"{folder} cannot be written: {error}") from error
