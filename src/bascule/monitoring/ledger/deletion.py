"""Deletion by a condition: the right to be forgotten.

The scribe is the one writer of the ledger, so a deletion is a request that it carries out: it
takes in the spool, rewrites outcomes and segments without the rows, and commits the result with
them. Killed before the commit, the next scribe repeats it; after, the manifest says that it is
done. `forgetting` asks for deletions.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bascule.core import BasculeError, check_name
from bascule.monitoring.ledger.compaction import write_merged
from bascule.monitoring.ledger.manifest import (
    LEDGER,
    Deleted,
    Progress,
    Request,
    Segment,
    Subject,
    read_manifest,
)  # fmt: skip
from bascule.monitoring.ledger.outcome_spool import JUDGES, LINES
from bascule.monitoring.ledger.outcomes import Outcomes
from bascule.monitoring.ledger.query import Ledger
from bascule.monitoring.ledger.scribe import Scribe
from bascule.monitoring.ledger.shared import SharedStore
from bascule.monitoring.ledger.spool import writers
from bascule.monitoring.ledger.subjects import (
    Digests,
    condition,
    erased_outcomes,
    scrub_window,
    tombstones_of,
)  # fmt: skip

if TYPE_CHECKING:
    import duckdb

REQUESTS = "requests"
"""The folder below `ledger/` of deletions that are asked for, where hosts do not share it."""
_HANDED_OVER_S = 2.0
"""A worker appends its answers to the spool within a second."""


@dataclass(frozen=True, slots=True)
class Matching:
    """What a condition matches now.

    Attributes:
        rows: Of `predictions`.
        requests: How many ids these have.
        outcomes: Truths about these rows, those that were replaced included.
    """

    rows: int
    requests: int
    outcomes: int


def matching(ledger: Ledger, model: str, where: str) -> Matching:
    """Count what `delete` would delete.

    Raises:
        Invalid: The condition is not one expression, or names what is not there.
        NotFound: The model has no answers in the ledger.
    """
    check_name(model)

    def count(connection: duckdb.DuckDBPyConnection) -> Matching:
        _offer_doomed(connection, where)
        sql = "SELECT count(*), count(DISTINCT id) FROM doomed"
        rows, requests = connection.execute(sql).fetchall()[0]
        outcomes = connection.execute(f"SELECT count(*) FROM ({_DOOMED_OUTCOMES})").fetchall()
        return Matching(rows, requests, outcomes[0][0])

    return ledger.ask(count, model=model, what="condition", with_places=True)


def requested(home: Path) -> list[Request]:
    """The deletions that are asked for and not carried out, the oldest first."""
    done = read_manifest(home).deletions
    requests = [
        msgspec.json.decode(file.read_bytes(), type=Request)
        for file in (home / LEDGER / REQUESTS).glob("*.json")
    ]
    return sorted((r for r in requests if r.id not in done), key=lambda r: r.at_s)


class Deletions:
    """The chore of a scribe that carries out deletions in a home."""

    def __init__(self, store: SharedStore | None = None) -> None:
        """Read nothing yet; `store` is where hosts share their outcomes."""
        self._store = store
        self._looked_at: set[Path] = set()

    def work(self, scribe: Scribe, stopping: threading.Event) -> None:
        del stopping  # a request that is there is carried out
        self.erase_late(scribe.home)
        folder = scribe.home / LEDGER / REQUESTS
        if not folder.is_dir():
            return
        for request in requested(scribe.home):
            self.carry_out(scribe, request)
        for file in folder.glob("*.json"):
            if file.stem in scribe.manifest.deletions:
                file.unlink(missing_ok=True)

    def erase_late(self, home: Path) -> None:
        """Remove outcomes that came for rows which are erased already."""
        if not (tombstones := tombstones_of(home)):
            return
        digests, outcomes = Digests(home), Outcomes(home)
        files, spooled = outcomes.stored()
        tables = {file: pq.read_table(file, columns=["id", "row"]) for file in self._new(files)}
        late = dict[Path, pa.Array]()
        for file, table in (tables | spooled).items():
            ids = list(zip(table["id"].to_pylist(), table["row"].to_pylist(), strict=True))
            if places := erased_outcomes(tombstones, digests, file.parent.name, ids):
                late[file] = pa.array(places, pa.int64())
        _remove_outcomes(home, late, self._store)

    def _new(self, files: Sequence[Path]) -> list[Path]:
        """Those that were not looked at, and from now on are."""
        fresh = [file for file in files if file not in self._looked_at]
        self._looked_at.update(fresh)
        return fresh

    def carry_out(self, scribe: Scribe, request: Request) -> None:
        """Delete the rows that are in the home alone, and commit the result."""
        if any(writer.is_alive() for writer in writers(scribe.home)):
            threading.Event().wait(_HANDED_OVER_S)
        while scribe.turn(everything=True):
            pass
        Outcomes(scribe.home).fold()
        Outcomes(scribe.home).forget_merged()  # a copy would keep what is to be deleted
        segments = [s for s in scribe.manifest.segments if s.model == request.model]
        ledger = Ledger(scribe.home, alone=self._store is not None, is_private=True)
        removed, added, done = carry_out(
            ledger, request, segments, scribe.home / LEDGER, self._store
        )
        if request.subject is not None and not done.error:
            scrub = partial(scrub_window, subject=request.subject, digests=Digests(scribe.home))
            scribe.change_windows(request.model, scrub)
        scribe.replace(removed, added, deletions={request.id: done})
        for writer in writers(scribe.home):
            writer.blank(scribe.manifest.writers.get(writer.name, Progress()).files)


def carry_out(
    ledger: Ledger,
    request: Request,
    segments: list[Segment],
    folder: Path,
    store: SharedStore | None,
) -> tuple[list[Segment], list[Segment], Deleted]:
    """Remove outcomes, and write segments without the rows: which go, which come, the result.

    Args:
        ledger: Finds the rows.
        request: The deletion.
        segments: Those of the model in `folder`.
        folder: Others are left alone.
        store: Where hosts share outcomes.
    """
    now = datetime.now(UTC).isoformat()
    if not segments:
        return [], [], Deleted(at=now)
    try:
        doomed = _find(ledger, request, folder)
    except BasculeError as error:
        return [], [], Deleted(at=now, error=error.message)
    # Outcomes first: once the rows are gone, nothing says whose they are.
    _remove_outcomes(ledger.home, doomed.outcomes, store)
    removed = [segment for segment in segments if segment.file in doomed.rows]
    added = []
    for segment in removed:
        name = f"{Path(segment.file).name.partition('-')[0]}-kept-{secrets.token_hex(4)}.parquet"
        rest = write_merged(
            ledger.home, [folder / segment.file], segment.model, segment.version, segment.day, name,
            without=[doomed.rows[segment.file]], folder=folder,
        )  # fmt: skip
        added += [rest] if rest is not None else []
    rows = sum(len(doomed.rows[segment.file]) for segment in removed)
    outcomes = sum(map(len, doomed.outcomes.values()))
    return removed, added, Deleted(at=now, rows=rows, outcomes=outcomes)


def _remove_outcomes(
    home: Path, doomed: Mapping[Path, pa.Array], store: SharedStore | None
) -> None:
    outcomes = Outcomes(home)
    drafts: dict[Path, Path | None] = {}
    for file, rows in doomed.items():
        if store is None or file.suffix == LINES:
            outcomes.remove(file, rows)
        else:
            drafts[file] = outcomes.without(file, rows)
    if store is not None and drafts:
        store.replace_outcomes(drafts)


@dataclass(frozen=True, slots=True)
class _Doomed:
    """By file, the numbers of the rows to delete, in order."""

    rows: dict[str, pa.Array]
    outcomes: dict[Path, pa.Array]


def _find(ledger: Ledger, request: Request, folder: Path) -> _Doomed:
    def find(connection: duckdb.DuckDBPyConnection) -> _Doomed:
        if request.subject is None:
            _offer_doomed(connection, request.where, request.at_s)
        else:
            offer_subject(connection, ledger.home, request.subject)
        placed = connection.sql("SELECT filename, file_row_number n FROM doomed")
        rows = {
            str(Path(name).relative_to(folder)): places
            for name, places in _by_file(placed)
            if Path(name).is_relative_to(folder)
        }
        outcomes = dict(_by_file(connection.sql(_DOOMED_OUTCOMES)))
        return _Doomed(rows, {Path(name): places for name, places in outcomes.items()})

    return ledger.ask(find, model=request.model, what="condition", with_places=True)


_DOOMED_OUTCOMES = f"""SELECT filename, file_row_number n FROM outcome_history
SEMI JOIN doomed ON outcome_history.id = doomed.id AND outcome_history.row = doomed.row
AND (outcome_history.model IN (doomed.model, doomed.endpoint)
    OR starts_with(outcome_history.model, '{JUDGES}'))"""


def _offer_doomed(
    connection: duckdb.DuckDBPyConnection, where: str, until_s: float | None = None
) -> None:
    """Make the view of the rows that a condition matches, of requests that came until a time.

    DuckDB parses the condition as one expression, so it cannot end the statement or add to it.
    """
    import duckdb

    matched = connection.view("predictions").filter(duckdb.SQLExpression(where))
    if until_s is not None:
        matched = matched.filter(f"epoch_us(time) <= {int(until_s * 1e6)}")
    matched.create_view("doomed")


def offer_subject(
    connection: duckdb.DuckDBPyConnection, home: Path, subject: Subject, text: str | None = None
) -> None:
    """Make the table `doomed` of the rows of a person, which are few: one look at all rows.

    Args:
        connection: Of `Ledger.ask`.
        home: Whose key the digests are made with.
        subject: The person.
        text: The value, where it is known: to compare with it is faster.
    """
    where = condition(connection, "predictions", subject, Digests(home), text)
    connection.execute(f"CREATE TEMP TABLE doomed AS SELECT * FROM predictions WHERE {where}")


def _by_file(placed: duckdb.DuckDBPyRelation) -> Iterator[tuple[str, pa.Array]]:
    """Each file with the numbers of its rows; eight bytes a row in memory."""
    parts_of: dict[str, list[Any]] = {}
    for batch in placed.to_arrow_reader(100_000):
        names = batch.column("filename").dictionary_encode()
        numbers = batch.column("n").to_numpy()
        for index, name in enumerate(names.dictionary.to_pylist()):
            if name is not None:
                here = names.indices.to_numpy(zero_copy_only=False) == index
                parts_of.setdefault(name, []).append(numbers[here])
    for name, parts in parts_of.items():
        yield name, pa.array(np.sort(np.concatenate(parts)))
