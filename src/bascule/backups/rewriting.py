"""Changes what a backup holds: it is unpacked verified, changed, and written again whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from bascule.backups import rows
from bascule.backups.archive import CATALOGUE, HOME, unpack, writing_archive
from bascule.catalogue import HEAD, Catalogue, SqliteDatabase
from bascule.core import Scratch, sync_folder


def rewrite(source: Path, change: Callable[[Path, Catalogue], object]) -> None:
    """Change the contents of a backup.

    Args:
        source: The archive; replaced at the end.
        change: Gets the folder of its home, which may not be there, and its catalogue.

    Raises:
        Untrusted: It was altered, or what was written again does not verify.
    """
    with Scratch("bascule-backup-", parent=source.parent) as folder:
        parts = folder / "parts"
        manifest = unpack(source, parts)
        catalogue = Catalogue(SqliteDatabase(folder / "catalogue.db"))
        catalogue.create()
        with catalogue.write(alone=True) as connection:
            rows.copy_in(connection, manifest.schema, parts / CATALOGUE)
        change(parts / HOME, catalogue)
        shutil.rmtree(parts / CATALOGUE)
        (parts / CATALOGUE).mkdir()
        with catalogue.read() as connection:
            rows.copy_out(connection, HEAD, parts / CATALOGUE)
        # Beside the old one until it is read again, and found whole.
        fresh = folder / f"fresh{''.join(source.suffixes[-2:])}"
        with writing_archive(fresh) as writer:
            for file in sorted(path for path in parts.rglob("*") if path.is_file()):
                writer.add(file.relative_to(parts).as_posix(), file)
            writer.finish(msgspec.structs.replace(manifest, schema=HEAD))
        unpack(fresh, folder / "verified")
        sync_folder(folder)
        fresh.replace(source)
        sync_folder(source.parent)
