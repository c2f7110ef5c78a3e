"""Takes a backup: one consistent view of the catalogue, the bundles that it lists, the ledger."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from bascule.backups import rows
from bascule.backups.archive import CATALOGUE, HOME, OBJECTS, Manifest, Writer, writing_archive
from bascule.catalogue import HEAD, Catalogue
from bascule.core import VERSION, Conflict, NotFound, Scratch, Unavailable, check_replaceable

if TYPE_CHECKING:
    from bascule.registry.stores import Objects

LEDGER_FOLDERS = ("ledger", "spool", "outcomes")
_GROWING = ("spool", "outcomes")
_TRIES = 20


@dataclass(frozen=True, slots=True)
class BackedUp:
    """What a backup holds.

    Attributes:
        file: The archive.
        size_bytes: Of the archive.
        versions: How many versions the catalogue lists.
        bundles: How many bundles are in it.
        missing: Digests of retired versions whose bundles were collected before.
        has_ledger: Whether the ledger is in it.
    """

    file: Path
    size_bytes: int
    versions: int
    bundles: int
    missing: tuple[str, ...]
    has_ledger: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "file": str(self.file), "size_bytes": self.size_bytes, "versions": self.versions,
            "bundles": self.bundles, "missing": list(self.missing), "ledger": self.has_ledger,
        }  # fmt: skip


def back_up(
    catalogue: Catalogue,
    objects: Objects,
    home: Path,
    target: Path,
    *,
    with_ledger: bool = False,
    overwrite: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> BackedUp:
    """Write a backup to `target`, whole or not at all. Servers go on meanwhile.

    Args:
        catalogue: Where names, numbers and history are.
        objects: Where bundles are.
        home: Whose ledger is taken.
        target: The archive; compressed if its name ends in `.gz` or `.tgz`.
        with_ledger: Whether to take the ledger, the spool and the outcomes of the home too.
        overwrite: Whether a file may be replaced.
        tell: Takes a line for each part.

    Raises:
        NotFound: There is no catalogue; or a version in use has no bundle.
        Conflict: There is a file at `target`, or the catalogue has the tables of a newer release.
        Untrusted: A bundle was altered.
        Unavailable: The ledger changes faster than it is copied.
    """
    check_replaceable(target)
    if target.exists() and not overwrite:
        raise Conflict(f"{target} exists already", hint="choose another name, or --overwrite")
    with (
        Scratch("bascule-backup-") as scratch,
        writing_archive(target, overwrite=overwrite) as writer,
    ):
        made_at = datetime.now(UTC)
        with catalogue.read() as connection:
            rows.check_schema(connection)
            rows.copy_out(connection, HEAD, scratch)
            versions = digests_of(connection)
        for file in sorted(scratch.iterdir()):
            writer.add(f"{CATALOGUE}/{file.name}", file)
        tell(f"catalogue: {len(versions):,} versions")
        missing = _add_objects(writer, objects, versions, tell)
        has_ledger = with_ledger and _add_ledger(writer, home)
        if with_ledger:
            tell("ledger: taken" if has_ledger else "ledger: this home has none")
        bundles = len({digest for digest, _ in versions}) - len(missing)
        writer.finish(
            Manifest(
                made_at=made_at.isoformat(), release=VERSION, schema=HEAD,
                versions=len(versions), bundles=bundles, missing=missing, has_ledger=has_ledger,
            )
        )  # fmt: skip
    size = target.stat().st_size
    return BackedUp(target, size, len(versions), bundles, missing, has_ledger)


def digests_of(connection: sa.Connection) -> list[tuple[str, bool]]:
    """Of every version the digest, and whether it is in use."""
    table = sa.Table("versions", sa.MetaData(), autoload_with=connection)
    query = sa.select(table.c.digest, table.c.retired_at.is_(None)).order_by(table.c.pushed_at)
    return [(row[0], bool(row[1])) for row in connection.execute(query)]


def _add_objects(
    writer: Writer, objects: Objects, versions: list[tuple[str, bool]], tell: Callable[[str], None]
) -> tuple[str, ...]:
    needed = {digest for digest, is_used in versions if is_used}
    missing: list[str] = []
    every = list(dict.fromkeys(digest for digest, _ in versions))
    for done, digest in enumerate(every, start=1):
        try:
            folder = objects.path(digest)
        except NotFound:
            if digest in needed:
                raise
            missing.append(digest)
            continue
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            part = file.relative_to(folder).as_posix()
            if not file.name.startswith("."):
                writer.add(f"{OBJECTS}/{digest.removeprefix('sha256:')}/{part}", file)
        tell(f"bundles: {done:,} of {len(every):,}")
    return tuple(missing)


def _add_ledger(writer: Writer, home: Path) -> bool:
    """Add what the ledger of a home was at one moment; False where there is none."""
    if not any((home / name).is_dir() for name in LEDGER_FOLDERS):
        return False
    with Scratch("bascule-backup-", parent=home) as scratch:  # beside it: files are linked
        for _ in range(_TRIES):
            if _staged(home, scratch / "ledger"):
                break
            shutil.rmtree(scratch / "ledger", ignore_errors=True)
        else:
            raise Unavailable(
                f"the ledger of {home} changes faster than it is copied",
                hint="stop the server for the backup, or leave out --ledger",
            )
        staged = scratch / "ledger"
        for file in sorted(path for path in staged.rglob("*") if path.is_file()):
            writer.add(f"{HOME}/{file.relative_to(staged).as_posix()}", file)
    return True


def _staged(home: Path, staged: Path) -> bool:
    """Copy the ledger's files; False where the scribe committed meanwhile: then try again.

    Answers move from the spool to segments by the rename of the manifest: copies on both sides of
    it would have a row twice, or not at all. Segments never change, so they are linked.
    """
    from bascule.monitoring.ledger import KEY_FILE

    before = _ledger_state(home)
    try:
        for name in LEDGER_FOLDERS:
            for file in sorted((home / name).rglob("*")):
                if file.is_file() and file.name not in ("lock", "shared"):
                    copy = staged / file.relative_to(home)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    (_copy if name in _GROWING or file.suffix != ".parquet" else os.link)(
                        file, copy
                    )
        if (home / KEY_FILE).is_file():
            _copy(home / KEY_FILE, staged / KEY_FILE)
    except FileNotFoundError:
        return False
    return _ledger_state(home) == before


def _ledger_state(home: Path) -> bytes:
    """The manifest of the ledger, which each commit of the scribe replaces."""
    file = home / "ledger" / "manifest.json"
    return file.read_bytes() if file.is_file() else b""


def _copy(file: Path, copy: Path) -> None:
    shutil.copyfile(file, copy)
