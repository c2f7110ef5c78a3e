"""Unpacks and checks a backup in a process of its own: `python -m bascule.backups.checking`.

A few kilobytes of an archive may stand for gigabytes, so it is read with a bound of memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from bascule.backups import rows
from bascule.backups.archive import CATALOGUE, HOME, OBJECTS, Manifest, unpack
from bascule.backups.taking import LEDGER_FOLDERS, digests_of
from bascule.catalogue import Catalogue, SqliteDatabase
from bascule.core import BasculeError, Untrusted, answer_parent, first_line

_TRIAL = "trial.db"


def check(source: Path, folder: Path) -> tuple[Manifest, int]:
    """Unpack a backup into a folder; its manifest, and how many parts it has.

    Raises:
        Untrusted: It is no backup, or holds what cannot be restored.
        TooLarge: It grows too much.
    """
    manifest = unpack(source, folder)
    try:
        digests = _check_rows(folder, manifest.schema)
    except (ValueError, TypeError, KeyError, IndexError, sa.exc.SQLAlchemyError) as problem:
        raise _damaged(source, f"the rows of its catalogue: {first_line(problem)}") from None
    _check_bundles(source, folder / OBJECTS, digests)
    if manifest.has_ledger:
        _check_ledger(source, folder / HOME)
    return manifest, len(manifest.files)


def _check_rows(folder: Path, revision: str) -> list[tuple[str, bool]]:
    """Restore the rows into a database that is thrown away; its versions, as `digests_of`."""
    database = SqliteDatabase(folder / _TRIAL)
    try:
        Catalogue(database).create()
        with database.engine.connect() as connection, connection.begin():
            rows.copy_in(connection, revision, folder / CATALOGUE)
            return digests_of(connection)
    finally:
        for file in folder.glob(f"{_TRIAL}*"):
            file.unlink()


def _check_bundles(source: Path, folder: Path, digests: list[tuple[str, bool]]) -> None:
    from bascule.bundle.disk import digest_of, read_manifest

    there = {f"sha256:{bundle.name}": bundle for bundle in folder.glob("*")}
    for digest, bundle in there.items():
        if digest_of(bundle) != digest:
            raise Untrusted(f"the backup keeps another bundle under {digest}")
        read_manifest(bundle)
    absent = [digest for digest, is_used in digests if is_used and digest not in there]
    if absent:
        raise _damaged(source, f"the bundle {absent[0]} of a version in use is missing")


def _check_ledger(source: Path, home: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from bascule.monitoring.ledger import Outcomes, read_manifest

    for name in LEDGER_FOLDERS:
        if (home / name).exists() and not (home / name).is_dir():
            raise _damaged(source, f"{name} is no folder")
    try:
        for segment in read_manifest(home).segments:
            file = home / "ledger" / segment.file
            if segment.sha256 and not file.exists():
                continue  # other hosts share it
            if pq.read_metadata(file).num_rows != segment.rows:
                raise _damaged(source, f"ledger/{segment.file} has other rows than are named")
        for file in Outcomes(home).stored()[0]:
            pq.read_metadata(file)
    except pa.ArrowMemoryError:
        raise
    except (pa.ArrowException, OSError) as problem:
        raise _damaged(source, f"its ledger: {first_line(problem)}") from None


def _damaged(source: Path, what: str) -> BasculeError:
    return Untrusted(f"{source} cannot be restored: {what}", hint="use another copy of it")


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    manifest, parts = check(Path(question["source"]), Path(question["folder"]))
    return {
        "manifest": msgspec.to_builtins(msgspec.structs.replace(manifest, files={})),
        "parts": parts,
    }


if __name__ == "__main__":
    answer_parent(_answer)
