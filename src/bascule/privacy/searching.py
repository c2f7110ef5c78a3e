"""Searches a home for the value of a person: every byte, and the decoded columns of tables.

What the ledger and the catalogue hold is searched by SQL beside this; their files are searched here
once more at the end, when nothing may be left in them.
"""

from __future__ import annotations

import gzip
import json
import mmap
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from bascule.privacy.files import COLUMNS, FORMATS, TABLES, erase_in
from bascule.privacy.persons import Person

_HANDLED = (
    "ledger", "spool", "outcomes", "objects", "erasures", "cache/ledger", "cache/outcomes",
    "deferred",
)  # fmt: skip
_CATALOGUE = "catalogue.db"
_ARCHIVES = (".tar", ".gz", ".tgz")
_READ_BYTES, _LONGEST_BYTES = 1 << 20, 8_192


def others_in(home: Path, person: Person) -> list[Path]:
    """Files beside the ledger, the catalogue and bundles that hold the value."""
    return [
        path
        for path in _files_of(home)
        if not _is_below(path.relative_to(home), _HANDLED)
        and not path.name.startswith(_CATALOGUE)
        and not path.name.endswith(_ARCHIVES)
        and _is_in_file(path, person)
    ]


def may_hold(body: bytes, person: Person) -> bool:
    """Whether a body holds the value; so may any of numbers in bytes, or compressed."""
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return True
    return not person.is_distinctive or person.is_in(body)


def backups_in(home: Path) -> list[Path]:
    """The backups in a home, by their last member; not drafts that a killed process left."""
    return [
        path
        for path in _files_of(home)
        if path.name.endswith(_ARCHIVES)
        and not any(part.endswith((".held", ".draft")) for part in path.parts)
        and _is_backup(path)
    ]


def holds(home: Path, person: Person) -> Iterator[tuple[Path, bool]]:
    """Files that still hold the value, and whether each is of a bundle.

    The catalogue is left out: the erasure's own job is in it until the end.
    """
    for path in _files_of(home):
        place = path.relative_to(home)
        is_known = place.name.startswith(_CATALOGUE) or _is_below(place, ("erasures",))
        if not is_known and _is_in_file(path, person, is_decoded=not _is_below(place, ("ledger",))):
            yield path, _is_below(place, ("objects",))


def _files_of(home: Path) -> Iterator[Path]:
    """Regular files of a home; links are not followed."""
    for path in sorted(home.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path


def _is_in_file(path: Path, person: Person, *, is_decoded: bool = True) -> bool:
    """Whether a file holds the value, in its bytes or, decoded, in the rows of a table."""
    if path.stat().st_size == 0:
        return False
    if person.is_distinctive:
        with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as data:
            if person.in_bytes.search(data):
                return True
        if path.suffix in (".gz", ".tgz"):
            return _is_in_stream(path, person)
    if not is_decoded or path.suffix not in TABLES:
        return False
    if path.suffix in COLUMNS:
        return _is_in_columns(path, person)
    return not person.is_distinctive and bool(
        erase_in(
            path,
            person,
            lambda row: person.is_value(person.field, row.get(person.field)),
            is_trial=True,
        )
    )


def _is_in_stream(path: Path, person: Person) -> bool:
    """Whether a compressed file holds the value, also across two reads."""
    tail = b""
    try:
        with gzip.open(path) as opened:
            while data := opened.read(_READ_BYTES):
                if person.in_bytes.search(tail + data):
                    return True
                tail = data[-_LONGEST_BYTES:]
    except (OSError, EOFError, zlib.error):
        return False  # none that is whole
    return False


def _is_in_columns(path: Path, person: Person) -> bool:
    """Whether a text of a file of columns, or a value of the field, is the person's."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    table = ds.dataset(path, format=FORMATS[path.suffix])
    names = [
        field.name
        for field in table.schema
        if field.type in (pa.string(), pa.large_string()) or field.name == person.field
    ]
    return any(
        person.without({name: value}) != {name: value}
        for batch in table.to_batches(columns=names)
        for name in names
        for value in batch.column(name).unique().to_pylist()
    )


def _is_backup(path: Path) -> bool:
    try:
        with tarfile.open(path) as archive:
            return "backup.json" in archive.getnames()
    except (tarfile.TarError, OSError, EOFError):
        return False


def _is_below(place: Path, folders: tuple[str, ...]) -> bool:
    return any(place.is_relative_to(folder) for folder in folders)
