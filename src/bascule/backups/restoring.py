"""Restores a backup: all is parsed and checked before anything is moved, and one commit decides.

    HOME/.restoring/           what was unpacked, and checked by a process of its own
    HOME/.restoring/ready      names this restore, once all of it is on the disk
    HOME/.restoring/aside/     what was in the place of the ledger

Bundles are put first: each is there whole or not at all, and no row names them yet. One transaction
then replaces the rows of the catalogue and notes the restore in them: it is the commit. The folders
of the ledger are moved after it, by renames. A restore that is killed before the commit leaves the
old state; one that is killed after it is finished by what opens the catalogue or the ledger next
(`settle`).
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa

from bascule.backups import rows
from bascule.backups.archive import CATALOGUE, HOME, OBJECTS, Manifest
from bascule.backups.taking import LEDGER_FOLDERS
from bascule.catalogue import Catalogue, metadata
from bascule.core import (
    Child,
    Conflict,
    Limits,
    NotFound,
    Scratch,
    check_file,
    replacing,
    sha256_file,
    writing,
)

if TYPE_CHECKING:
    from bascule.registry.stores import Objects

_STAGED, _READY, _ASIDE, _NOTE = ".restoring", "ready", "aside", "restore:"
_LIMITS = Limits(timeout_s=86_400.0, memory_bytes=288 << 20)
_leases = metadata.tables["leases"]


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored, or would be.

    Attributes:
        manifest: What the backup holds.
        is_trial: Whether the backup was verified alone.
        needs_force: Whether a restore would be refused without `force`.
    """

    manifest: Manifest
    is_trial: bool = False
    needs_force: bool = False

    def to_json(self) -> dict[str, Any]:
        said = self.manifest
        return {
            "made_at": said.made_at, "release": said.release, "schema": said.schema,
            "versions": said.versions, "bundles": said.bundles, "ledger": said.has_ledger,
            "restored": not self.is_trial, "needs_force": self.needs_force,
        }  # fmt: skip


def restore(
    source: Path,
    catalogue: Catalogue,
    objects: Objects,
    home: Path,
    *,
    force: bool = False,
    is_trial: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Restored:
    """Restore a backup; killed anywhere, the old state or the new one is there.

    Args:
        source: The archive.
        catalogue: Gets the rows.
        objects: Get the bundles.
        home: Gets the ledger, and a folder meanwhile that is as large as the backup.
        force: Whether what is recorded here may be replaced. Bundles are never removed.
        is_trial: Check all that a restore checks, and write nothing.
        tell: Takes a line for each part.

    Raises:
        NotFound: There is no file at `source`.
        Untrusted: It is no backup, is not whole, was altered, or holds what cannot be restored.
        TooLarge: It grows too much, or takes too much memory.
        Conflict: The catalogue or the home is not empty, and `force` is False.
    """
    check_file(source, "backup")
    if is_trial:
        with Scratch("bascule-restore-") as folder:
            manifest = _checked(source, folder, tell)
        is_refused = not force and bool(_occupied(catalogue, home))
        return Restored(manifest, is_trial=True, needs_force=is_refused)
    with writing(home):
        home.mkdir(parents=True, exist_ok=True)
    digest, staged = sha256_file(source), home / _STAGED
    with _alone(home):
        if _settled(home, catalogue) == digest:  # the same call again, after the commit
            with Scratch("bascule-restore-") as folder:
                return Restored(_checked(source, folder, tell))
        if not force and (what := _occupied(catalogue, home)):
            raise _not_empty(what)
        try:
            with writing(home):
                shutil.rmtree(staged, ignore_errors=True)
                staged.mkdir()
            manifest = _checked(source, staged, tell)
            _put_objects(staged / OBJECTS, objects, tell)
            _prepare_ledger(staged / HOME, manifest)
            catalogue.create()
            _commit(catalogue, staged, manifest, digest, force=force)
        finally:
            _settled(home, catalogue)
        tell(f"catalogue: {manifest.versions:,} versions restored")
    return Restored(manifest)


def settle(home: Path, catalogue: Catalogue) -> None:
    """Finish a restore of this home that was killed after its commit; forget one killed before it.

    Waits for one that is under way.

    Raises:
        Unavailable: The catalogue, which knows whether it was committed, is away.
        Invalid: The home cannot be written.
    """
    if (home / _STAGED / _READY).exists():
        with _alone(home):
            _settled(home, catalogue)


def _settled(home: Path, catalogue: Catalogue) -> str:
    """See `settle`; the digest of the backup whose restore was committed, empty for none."""
    staged = home / _STAGED
    try:
        name, digest = (staged / _READY).read_text().split()
    except FileNotFoundError:
        shutil.rmtree(staged, ignore_errors=True)
        return ""
    is_note = _leases.c.name == name
    try:
        with catalogue.read() as connection:
            is_committed = connection.scalar(sa.select(_leases.c.name).where(is_note)) is not None
    except NotFound:
        is_committed = False
    if is_committed:
        with writing(home):
            _move_ledger(staged / HOME, home, staged / _ASIDE)
        with catalogue.write() as connection:
            connection.execute(sa.delete(_leases).where(is_note))
    shutil.rmtree(staged, ignore_errors=True)
    return digest if is_committed else ""


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Wait until no other process restores into this home."""
    folder = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _checked(source: Path, folder: Path, tell: Callable[[str], None]) -> Manifest:
    """Unpack a backup into a folder, and check all of it, in a process of its own."""
    question = {"source": str(source), "folder": str(folder)}
    reply = Child("bascule.backups.checking", question, _LIMITS, what=f"reading {source}").answer()
    tell(f"verified {reply['parts']:,} parts of {source}")
    return msgspec.convert(reply["manifest"], Manifest)


def _commit(
    catalogue: Catalogue, staged: Path, manifest: Manifest, digest: str, *, force: bool
) -> None:
    name, is_note = f"{_NOTE}{secrets.token_hex(8)}", _leases.c.name.startswith(_NOTE)
    os.sync()  # the commit is on the disk, so what it decides about is too
    with replacing(staged / _READY) as note:
        note.write_text(f"{name} {digest}")
    with catalogue.write(alone=True) as connection:
        if not (force or rows.is_empty(connection)):
            raise _not_empty("the catalogue")
        # Of restores into other homes, whose ledgers are still to be moved.
        notes = connection.execute(sa.select(_leases).where(is_note)).mappings().all()
        rows.copy_in(connection, manifest.schema, staged / CATALOGUE)
        connection.execute(sa.delete(_leases).where(is_note))  # what the backup held of others
        row = {"name": name, "holder": "restore", "fence": 0, "expires_at": datetime.now(UTC)}
        connection.execute(sa.insert(_leases), [*map(dict, notes), row])


def _occupied(catalogue: Catalogue, home: Path) -> str:
    """What of the catalogue and the ledger is not empty; no text where both are."""
    try:
        with catalogue.read() as connection:
            if not rows.is_empty(connection):
                return "the catalogue"
    except NotFound:
        pass
    folders = [home / name for name in LEDGER_FOLDERS]
    return next((str(one) for one in folders if one.is_dir() and any(one.iterdir())), "")


def _not_empty(what: str) -> Conflict:
    return Conflict(
        f"{what} is not empty, and a restore would replace what is there",
        hint="restore into an empty home (BASCULE_HOME), or pass --force after a backup of it",
    )


def _put_objects(folder: Path, objects: Objects, tell: Callable[[str], None]) -> None:
    from bascule.bundle.disk import STATEMENTS, read_manifest
    from bascule.registry import files_to_keep

    bundles = sorted(folder.iterdir()) if folder.is_dir() else []
    for done, bundle in enumerate(bundles, start=1):
        digest = f"sha256:{bundle.name}"
        objects.put(digest, bundle, files_to_keep(bundle, digest, read_manifest(bundle)))
        for statement in sorted((bundle / STATEMENTS).glob("*")):
            objects.put_statement(digest, statement.name, statement.read_bytes())
        tell(f"bundles: {done:,} of {len(bundles):,}")


def _prepare_ledger(staged: Path, manifest: Manifest) -> None:
    """A folder of the ledger that the backup does not have is empty after the restore."""
    if manifest.has_ledger:
        for name in LEDGER_FOLDERS:
            (staged / name).mkdir(parents=True, exist_ok=True)


def _move_ledger(staged: Path, home: Path, aside: Path) -> None:
    """Put folders and files in the place of those of the home; again, where it was interrupted."""
    aside.mkdir(exist_ok=True)
    for part in sorted(staged.iterdir()) if staged.is_dir() else []:
        target = home / part.name
        if target.exists():
            target.rename(aside / part.name)
        part.rename(target)
