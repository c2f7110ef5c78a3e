"""Searches a home for the value of a person: every byte, and the decoded columns of Parquet files.

What the ledger and the catalogue hold is searched by SQL beside this; their files are searched here
once more at the end, when nothing may be left in them.
"""

from __future__ import annotations

import base64
import gzip
import json
import mmap
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bascule.core import replacing, sync_folder
from bascule.privacy.persons import ERASED, Person
from bascule.privacy.tables import DATABASES, TABLES

_HANDLED = ("ledger", "spool", "outcomes", "objects", "erasures", "cache/ledger", "cache/outcomes")
_CATALOGUE = "catalogue.db"
_ARCHIVES = (".tar", ".gz", ".tgz")
_PACKED = (".parquet", ".arrow", ".feather")
_READ_BYTES, _LONGEST_BYTES = 1 << 20, 8_192
_TEXTS = (".json", ".jsonl", ".md", ".html", ".txt", ".log", ".toml", ".csv", ".svg")


def files_of(home: Path) -> Iterator[Path]:
    """Regular files of a home; links are not followed."""
    for path in sorted(home.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path


def others_in(home: Path, person: Person) -> list[Path]:
    """Files beside the ledger, the catalogue and bundles that hold the value."""
    return [
        path
        for path in files_of(home)
        if not _is_below(path.relative_to(home), _HANDLED)
        and not path.name.startswith(_CATALOGUE)
        and not path.name.endswith(_ARCHIVES)
        and is_in_file(path, person)
    ]


def backups_in(home: Path) -> list[Path]:
    """The backups in a home, by their last member; not drafts that a killed process left."""
    return [
        path
        for path in files_of(home)
        if path.name.endswith(_ARCHIVES)
        and not any(part.endswith((".held", ".draft")) for part in path.parts)
        and _is_backup(path)
    ]


def holds(home: Path, person: Person) -> Iterator[tuple[Path, bool]]:
    """Files that still hold the value, and whether each is of a bundle.

    The catalogue is left out: the erasure's own job is in it until the end.
    """
    for path in files_of(home):
        place = path.relative_to(home)
        is_known = place.name.startswith(_CATALOGUE) or _is_below(place, ("erasures",))
        if not is_known and is_in_file(path, person, is_decoded=not _is_below(place, ("ledger",))):
            yield path, _is_below(place, ("objects",))


def is_in_file(path: Path, person: Person, *, is_decoded: bool = True) -> bool:
    """Whether a file holds the value, in its bytes or in the rows of a table.

    Args:
        path: The file.
        person: Whose value.
        is_decoded: Also decode the columns of tables.
    """
    if path.stat().st_size == 0:
        return False
    if person.is_distinctive:
        with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as data:
            if person.in_bytes.search(data):
                return True
        if path.suffix in (".gz", ".tgz") and _is_in_stream(path, person):
            return True
    if path.suffix in _PACKED and is_decoded:
        return any(person.without(value) != value for value in _values(path, person))
    if path.suffix in (*TABLES, *DATABASES) and is_decoded and not person.is_distinctive:
        from bascule.privacy.tables import erase_rows

        return bool(erase_rows(path, person, lambda row: any(
            person.is_value(name, value) for name, value in row.items()
        ), is_trial=True))  # fmt: skip
    return False


def _is_in_stream(path: Path, person: Person) -> bool:
    """Whether a compressed file holds the value, also across two reads."""
    kept = b""
    try:
        with gzip.open(path) as opened:
            while data := opened.read(_READ_BYTES):
                if person.in_bytes.search(kept + data):
                    return True
                kept = data[-_LONGEST_BYTES:]
    except (OSError, EOFError, zlib.error):
        return False  # none that is whole
    return False


def _values(path: Path, person: Person) -> Iterator[Any]:
    """Different texts of a file of columns, and values of the field."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    file = ds.dataset(path, format="parquet" if path.suffix == ".parquet" else "ipc")
    texts = [
        field.name
        for field in file.schema
        if pa.types.is_string(field.type)
        or pa.types.is_large_string(field.type)
        or field.name == person.field
    ]
    for batch in file.to_batches(columns=texts):
        for name in batch.schema.names:
            for value in batch.column(name).unique().to_pylist():
                yield {name: value}


def redact_rows(file: Path, person: Person, *, is_trial: bool = False) -> int:
    """Take the value out of a text; how many places had it.

    A file that is no text is removed where it was made for a while, and else left: the proof says
    so.

    Lines of a backup's table are JSON lists below the names of the columns; see `backups.rows`.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        text = None
    if text is None or file.suffix not in _TEXTS:
        if not is_trial and {"uploads", "cache"} & {*file.parts}:
            file.unlink()
        return 1
    if file.parent.name == "catalogue" and file.suffix == ".jsonl":
        written = "".join(_redacted_rows(file.stem, text, person))
    else:
        written = person.redacted(text)
    count = written.count(ERASED) - text.count(ERASED)
    if written != text and not is_trial:
        with replacing(file) as draft:
            draft.write_text(written, encoding="utf-8")
        sync_folder(file.parent)
    return max(count, int(written != text))


def _redacted_rows(table: str, text: str, person: Person) -> Iterator[str]:
    lines = text.splitlines()
    names = json.loads(lines[0]) if lines else []
    yield f"{lines[0]}\n" if lines else ""
    for line in lines[1:]:
        row = dict(zip(names, json.loads(line), strict=True))
        if table == "requests" and person.is_distinctive:
            body = base64.b64decode(row.get("body") or "")
            if person.in_bytes.search(body) or person.redacted(line) != line:
                continue
        changed = {name: _redacted_cell(value, person) for name, value in row.items()}
        if table == "jobs" and changed["result"] != row["result"]:
            changed["result"] = json.dumps({ERASED: True})
        yield json.dumps([*changed.values()]) + "\n"


def _redacted_cell(value: Any, person: Person) -> Any:
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            plain = json.loads(value)
        except ValueError:
            return person.redacted(value)
        changed = person.without(plain)
        return value if changed == plain else json.dumps(changed)
    return person.without(value)


def _is_backup(path: Path) -> bool:
    try:
        with tarfile.open(path) as archive:
            return "backup.json" in archive.getnames()
    except (tarfile.TarError, OSError, EOFError):
        return False


def _is_below(place: Path, folders: tuple[str, ...]) -> bool:
    return any(place.is_relative_to(folder) for folder in folders)
