"""Restores a backup: everything is verified before anything is written.

The bundles come first: each is there whole or not at all, and no row names them yet. Then the
ledger's folders, by renames. The rows of the catalogue are one transaction, and come last: a
catalogue that has them has all the rest. A note in the home tells the next restore that one of
the same file was interrupted, so that it may finish it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.backups import rows
from bascule.backups.archive import CATALOGUE, HOME, OBJECTS, Manifest, unpack
from bascule.backups.taking import LEDGER_FOLDERS
from bascule.catalogue import Catalogue
from bascule.core import Conflict, NotFound, Scratch, Untrusted, replacing, sha256_file, writing

if TYPE_CHECKING:
    from bascule.registry.stores import Objects

_NOTE = ".restoring"


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored, or would be.

    Attributes:
        manifest: What the backup holds.
        is_trial: Whether the backup was verified alone.
    """

    manifest: Manifest
    is_trial: bool = False

    def to_json(self) -> dict[str, Any]:
        said = self.manifest
        return {
            "made_at": said.made_at, "release": said.release, "schema": said.schema,
            "versions": said.versions, "bundles": said.bundles, "ledger": said.has_ledger,
            "restored": not self.is_trial,
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
    """Restore a backup; killed anywhere, the same call again finishes it.

    Args:
        source: The archive.
        catalogue: Gets the rows.
        objects: Get the bundles.
        home: Gets the ledger, and a folder meanwhile that is as large as the backup.
        force: Whether what is recorded here may be replaced. Bundles are never removed.
        is_trial: Verify, and write nothing.
        tell: Takes a line for each part.

    Raises:
        NotFound: There is no file at `source`.
        Untrusted: It is no backup, is not whole, or was altered.
        Conflict: The catalogue or the home is not empty, and `force` is False.
    """
    digest = "" if is_trial else sha256_file(source) if source.is_file() else ""
    if not is_trial:
        _check_empty(catalogue, home, force=force, digest=digest)
        with writing(home):
            home.mkdir(parents=True, exist_ok=True)
    with Scratch("bascule-restore-", parent=None if is_trial else home) as folder:
        manifest = unpack(source, folder, tell=tell)
        if is_trial:
            return Restored(manifest, is_trial=True)
        with replacing(home / _NOTE) as note:
            note.write_text(digest)
        _put_objects(folder / OBJECTS, objects, tell)
        if manifest.has_ledger:
            _move_ledger(folder / HOME, home, folder / "aside")
            tell("ledger: restored")
        catalogue.create()
        with catalogue.write() as connection:
            if not (force or _was_begun(home, digest) or rows.is_empty(connection)):
                raise _not_empty("the catalogue")
            rows.copy_in(connection, manifest.schema, folder / CATALOGUE)
        tell(f"catalogue: {manifest.versions:,} versions restored")
        (home / _NOTE).unlink(missing_ok=True)
    return Restored(manifest)


def _check_empty(catalogue: Catalogue, home: Path, *, force: bool, digest: str) -> None:
    if force or _was_begun(home, digest):
        return
    try:
        with catalogue.read() as connection:
            is_empty = rows.is_empty(connection)
    except NotFound:
        is_empty = True
    if not is_empty:
        raise _not_empty("the catalogue")
    for name in LEDGER_FOLDERS:
        if (home / name).is_dir() and any((home / name).iterdir()):
            raise _not_empty(str(home / name))


def _was_begun(home: Path, digest: str) -> bool:
    """Whether a restore of the same file was interrupted here."""
    note = home / _NOTE
    return note.is_file() and note.read_text() == digest


def _not_empty(what: str) -> Conflict:
    return Conflict(
        f"{what} is not empty, and a restore would replace what is there",
        hint="restore into an empty home (BASCULE_HOME), or pass --force after a backup of it",
    )


def _put_objects(folder: Path, objects: Objects, tell: Callable[[str], None]) -> None:
    from bascule.bundle.disk import STATEMENTS, digest_of, read_manifest
    from bascule.registry import files_to_keep

    bundles = sorted(folder.iterdir()) if folder.is_dir() else []
    for done, bundle in enumerate(bundles, start=1):
        digest = f"sha256:{bundle.name}"
        if digest_of(bundle) != digest:
            raise Untrusted(f"the backup keeps another bundle under {digest}")
        objects.put(digest, bundle, files_to_keep(bundle, digest, read_manifest(bundle)))
        for statement in sorted((bundle / STATEMENTS).glob("*")):
            objects.put_statement(digest, statement.name, statement.read_bytes())
        tell(f"bundles: {done:,} of {len(bundles):,}")


def _move_ledger(staged: Path, home: Path, aside: Path) -> None:
    """Put folders and files in the place of those of the home, each by a rename."""
    aside.mkdir()
    for found in sorted(staged.iterdir()):
        target = home / found.name
        if target.exists():
            target.rename(aside / found.name)
        found.rename(target)
    shutil.rmtree(aside, ignore_errors=True)
