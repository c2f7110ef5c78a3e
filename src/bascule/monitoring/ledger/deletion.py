"""Deletion by a condition: the right to be forgotten.

The scribe is the one writer of the ledger, so a deletion is a file in `ledger/requests/` that it
carries out: it takes in the spool, rewrites outcomes and segments without the rows, and commits
the result with them. Killed before the commit, the next scribe repeats it; after, the manifest
says that it is done. Without a scribe, `delete` is one for as long as it takes.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa

from bascule.catalogue import Catalogue, events
from bascule.core import BasculeError, Conflict, Invalid, TimedOut, check_name
from bascule.monitoring.ledger.compaction import write_merged
from bascule.monitoring.ledger.manifest import LEDGER, Deleted, Segment, read_manifest, sync_folder
from bascule.monitoring.ledger.outcomes import Outcomes
from bascule.monitoring.ledger.query import Ledger
from bascule.monitoring.ledger.scribe import Scribe
from bascule.monitoring.ledger.spool import writers

if TYPE_CHECKING:
    import duckdb

_REQUESTS = "requests"
_HANDED_OVER_S = 2.0
"""A worker appends its answers to the spool within a second."""
_LOOK_S = 0.1


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be deleted.

    Attributes:
        id: Of the request.
        model: The model whose answers are looked at; its fields are columns.
        where: The condition, one SQL expression.
        at_s: When it was asked for, by the clock of the epoch.
    """

    id: str
    model: str
    where: str
    at_s: float


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


def delete(home: Path, model: str, where: str, *, within_s: float = 600.0) -> Deleted:
    """Delete the rows of a model that were answered until now and meet a condition.

    Rows that a server holds in memory are waited for. Answers that follow are new.

    Args:
        home: The home.
        model: Whose answers.
        where: One SQL expression over the columns of `predictions`.
        within_s: How long the scribe of a server may take.

    Raises:
        Invalid: The scribe could not evaluate the condition; nothing is deleted.
        TimedOut: It has not answered; the deletion stays asked for.
    """
    asked = Request(id=secrets.token_hex(8), model=model, where=where, at_s=time.time())
    _put(home, asked)
    deadline_s = time.monotonic() + within_s
    never = threading.Event()
    while (done := read_manifest(home).deletions.get(asked.id)) is None:
        try:
            scribe = Scribe(home)
        except Conflict:  # a server's scribe does it
            if time.monotonic() > deadline_s:
                raise TimedOut(
                    f"the scribe has not carried out the deletion in {within_s:g} s",
                    hint="it stays asked for: look at the server's log, and at bascule ledger "
                    "status",
                ) from None
            time.sleep(_LOOK_S)
            continue
        try:
            Deletions().work(scribe, never)
        finally:
            scribe.close()
    if done.error:
        raise Invalid(done.error, hint="nothing is deleted")
    return done


def delete_and_record(
    catalogue: Catalogue, home: Path, model: str, where: str, *, by: str, reason: str = ""
) -> Deleted:
    """Delete as `delete` does, with an event before and after in the catalogue's history.

    The values of the condition are left out of the history: they may name the person that asked
    to be forgotten. Where the history cannot be written, nothing is deleted.
    """
    catalogue.create()
    body: dict[str, Any] = {"where": without_values(where)}

    def record(kind: str) -> None:
        with catalogue.write() as connection:
            subject = events.Subject("ledger", model)
            events.append(
                connection, events.Event(subject, kind, datetime.now(UTC), by, reason, body)
            )

    record("deletion_requested")
    done = delete(home, model, where)
    body |= {"rows": done.rows, "outcomes": done.outcomes}
    record("deletion_completed")
    return done


def without_values(where: str) -> str:
    """A condition with `?` in place of each text and number, and without comments."""
    import duckdb

    plain = str(duckdb.SQLExpression(where))
    tokens = duckdb.tokenize(plain)
    ends = [start for start, _ in tokens[1:]] + [len(plain.encode())]
    values = (duckdb.token_type.string_const, duckdb.token_type.numeric_const)
    parts = [
        b"? " if kind in values else plain.encode()[start:end]
        for (start, kind), end in zip(tokens, ends, strict=True)
    ]
    return b"".join(parts).decode(errors="replace").strip()


def requested(home: Path) -> list[Request]:
    """The deletions that are asked for and not carried out, the oldest first."""
    done = read_manifest(home).deletions
    found = [
        msgspec.json.decode(file.read_bytes(), type=Request)
        for file in (home / LEDGER / _REQUESTS).glob("*.json")
    ]
    return sorted((one for one in found if one.id not in done), key=lambda one: one.at_s)


class Deletions:
    """The chore of a scribe that carries out deletions."""

    def work(self, scribe: Scribe, stopping: threading.Event) -> None:
        folder = scribe.home / LEDGER / _REQUESTS
        if not folder.is_dir():
            return
        for one in requested(scribe.home):
            if any(writer.is_alive() for writer in writers(scribe.home)):
                stopping.wait(_HANDED_OVER_S)
            while scribe.turn(everything=True):
                pass
            self._carry_out(scribe, one)
        for file in folder.glob("*.json"):
            if file.stem in scribe.manifest.deletions:
                file.unlink(missing_ok=True)

    def _carry_out(self, scribe: Scribe, asked: Request) -> None:
        now = datetime.now(UTC).isoformat()
        segments = scribe.manifest.segments
        if not any(one.model == asked.model for one in segments):
            scribe.replace([], [], deletions={asked.id: Deleted(at=now)})
            return
        try:
            doomed = _find(scribe.home, asked)
        except BasculeError as error:
            scribe.replace([], [], deletions={asked.id: Deleted(at=now, error=error.message)})
            return
        # Outcomes first: once the rows are gone, nothing says whose they are.
        for file, places in doomed.outcomes.items():
            Outcomes(scribe.home).remove(file, places)
        added, rows = _rewritten(scribe, doomed.rows)
        outcomes = sum(map(len, doomed.outcomes.values()))
        removed = [one for one in segments if one.file in doomed.rows]
        done = Deleted(at=now, rows=rows, outcomes=outcomes)
        scribe.replace(removed, added, deletions={asked.id: done})


def _rewritten(scribe: Scribe, doomed: dict[str, pa.Array]) -> tuple[list[Segment], int]:
    """The segments in place of those with rows to delete, and how many rows these are."""
    added = []
    for number, one in enumerate(scribe.manifest.segments):
        if one.file in doomed:
            name = scribe.next_name(f"kept-{number}")
            made = write_merged(
                scribe.home, [scribe.home / LEDGER / one.file], one.model, one.version, one.day,
                name, without=[doomed[one.file]],
            )  # fmt: skip
            added += [made] if made is not None else []
    return added, sum(map(len, doomed.values()))


@dataclass(frozen=True, slots=True)
class _Doomed:
    """By file, the numbers of the rows to delete, in order."""

    rows: dict[str, pa.Array]
    outcomes: dict[Path, pa.Array]


def _find(home: Path, asked: Request) -> _Doomed:
    def find(connection: duckdb.DuckDBPyConnection) -> _Doomed:
        _offer_doomed(connection, asked.where)
        placed = connection.sql("SELECT filename, file_row_number n FROM doomed")
        rows = {
            str(Path(name).relative_to(home / LEDGER)): places
            for name, places in _by_file(placed)
        }  # fmt: skip
        outcomes = dict(_by_file(connection.sql(_DOOMED_OUTCOMES)))
        return _Doomed(rows, {Path(name): places for name, places in outcomes.items()})

    return Ledger(home).ask(find, model=asked.model, what="condition", with_places=True)


_DOOMED_OUTCOMES = """SELECT filename, file_row_number n FROM outcome_history
SEMI JOIN doomed ON outcome_history.id = doomed.id AND outcome_history.row = doomed.row
AND outcome_history.model IN (doomed.model, doomed.endpoint)"""


def _offer_doomed(connection: duckdb.DuckDBPyConnection, where: str) -> None:
    """Make the view of the rows that a condition matches.

    DuckDB parses the condition as one expression, so it cannot end the statement or add to it.
    """
    import duckdb

    matched = connection.view("predictions").filter(duckdb.SQLExpression(where))
    matched.create_view("doomed")


def _by_file(placed: duckdb.DuckDBPyRelation) -> Iterator[tuple[str, pa.Array]]:
    """Each file with the numbers of its rows; eight bytes a row in memory."""
    found: dict[str, list[Any]] = {}
    for batch in placed.to_arrow_reader(100_000):
        names = batch.column("filename").dictionary_encode()
        numbers = batch.column("n").to_numpy()
        for index, name in enumerate(names.dictionary.to_pylist()):
            if name is not None:
                here = names.indices.to_numpy(zero_copy_only=False) == index
                found.setdefault(name, []).append(numbers[here])
    for name, parts in found.items():
        yield name, pa.array(np.sort(np.concatenate(parts)))


def _put(home: Path, asked: Request) -> None:
    """Have the request be on the disk, whole or not at all."""
    folder = home / LEDGER / _REQUESTS
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"{asked.id}.new"
    with draft.open("wb") as file:
        file.write(msgspec.json.encode(asked))
        file.flush()
        os.fsync(file.fileno())
    draft.rename(folder / f"{asked.id}.json")
    sync_folder(folder)
