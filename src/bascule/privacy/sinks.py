"""What batch runs have written: the files that are ours, and the places that must be erased there.

A file of a run is known by its name, as `batch.sinks.files` gives it. A chunk's record beside it
then says how many rows are left and how many were erased, so the run's manifest stays valid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bascule.core import masked, replacing, synced
from bascule.jobs import RUNNING, Job
from bascule.privacy.files import FORMATS, TABLES


@dataclass(frozen=True, slots=True)
class Sinks:
    """Where batch runs have written.

    Attributes:
        files: Of this machine, that runs have written.
        elsewhere: Places that are not files of this machine, in words.
        busy: Places that a run is writing now.
    """

    files: Sequence[Path]
    elsewhere: Sequence[str]
    busy: Sequence[str]


def sinks_of(jobs: Sequence[Job]) -> Sinks:
    """The sinks of batch jobs."""
    files, elsewhere, busy = dict[Path, None](), dict[str, None](), list[str]()
    for job in jobs:
        place = str(job.input.get("to", ""))
        kind, mark, rest = place.partition("://")
        if job.state == RUNNING:
            busy.append(masked(place))
        elif mark and kind == "sqlite":
            file = Path(job.folder, rest.partition("#")[0].removeprefix("/"))
            files |= dict.fromkeys([file] if file.is_file() else [])
        elif mark and kind != "file":
            what = "its table" if "#" in rest else "its objects and their earlier versions"
            elsewhere[f"{masked(place)}: {what}"] = None
        elif place:
            files |= dict.fromkeys(_written(Path(job.folder, rest if mark else place)))
    return Sinks([*files], [*elsewhere], busy)


def _written(place: Path) -> Iterator[Path]:
    """The files of runs at a place: one file, or those of a folder."""
    if place.is_file() and place.suffix in TABLES:
        yield place
    for folder in (place, place.with_name(f".{place.name}.parts")):
        for file in folder.rglob("*"):
            is_ours = file.name.startswith(("part-", "quarantine-", "rows-", "joined"))
            if is_ours and file.is_file() and file.suffix in FORMATS:
                yield file


def note_erased(file: Path) -> None:
    """Have the record of a chunk say how many rows its file has; again is the same as once."""
    import pyarrow.dataset as ds

    _, run, number = (*file.stem.split("-"), "", "")[:3]
    record = file.parent / "_bascule" / run / f"chunk-{number}.json"
    if run and record.is_file():
        rows = ds.dataset(file, format=FORMATS[file.suffix]).count_rows()
        known = msgspec.json.decode(record.read_bytes())
        known["erased"] = known.get("erased", 0) + known["rows"] - rows
        known["rows"] = rows
        with replacing(record) as draft, synced(draft) as opened:
            opened.write(msgspec.json.encode(known))
