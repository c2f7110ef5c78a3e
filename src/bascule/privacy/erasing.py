"""Erases a person: looks everywhere, erases step by step, looks again, and signs what it has done.

    HOME/erasures/ID.state    what was found before, and which steps are done
    HOME/erasures/ID.json     the proof; once it is there, the erasure is done but for its own job

Every step may be repeated, so a process that goes on where another was killed repeats one. The
tombstone comes first: what arrives after it is erased as it comes. The input of the erasure's own
job is the last to lose the value.
"""

from __future__ import annotations

import fcntl
import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bascule.backups import rewrite
from bascule.catalogue import Catalogue, events
from bascule.core import VERSION, Conflict, sha256_file, sweep, synced
from bascule.jobs import Jobs
from bascule.monitoring.ledger import (
    ANY_MODEL,
    Digests,
    FieldKeys,
    Ledger,
    Subject,
    Tombstone,
    delete,
    host_of,
    offer_subject,
    put_tombstone,
    shared_of,
)
from bascule.privacy.catalogue_rows import CatalogueRows
from bascule.privacy.persons import Person
from bascule.privacy.proofs import ERASURES, write_proof
from bascule.privacy.searching import backups_in, holds, others_in, redact_rows
from bascule.privacy.sinks import note_erased, sinks_of
from bascule.privacy.tables import DATABASES, TABLES, erase_rows

if TYPE_CHECKING:
    import duckdb

_DAY_S = 86_400.0
_ALWAYS_ELSEWHERE = (
    "backups, snapshots and copies of the home outside of it",
    "tables that batch runs read: they belong to others",
)


class Place(msgspec.Struct, kw_only=True):
    """Somewhere that holds a person's data.

    Attributes:
        place: In words.
        rows: How many rows, answers or texts.
        outcomes: How many truths about them.
        files: By path below the home, or whole outside of it: SHA-256 before, and after; empty for
            a file that is gone.
    """

    place: str
    rows: int = 0
    outcomes: int = 0
    files: dict[str, tuple[str, str]] = {}


class State(msgspec.Struct, kw_only=True):
    """How far an erasure is; `erased` are digests of `ID#ROW` of the person's rows."""

    places: list[Place] | None = None
    erased: tuple[str, ...] = ()
    late_until: str = ""
    done: list[str] = []
    requested_at: str = ""


@dataclass(frozen=True, slots=True)
class Erasure:
    """What is to be erased, and where.

    Attributes:
        id: Of the erasure.
        home: The home.
        catalogue: Of the home.
        person: Whose data.
        model: Of which model in the ledger; `*` for all.
        by: Who has asked.
        late_days: How long rows that arrive late are erased as they come.
        objects: Where bundles are, for what must be erased elsewhere.
        tell: Gets the name of each step.
    """

    id: str
    home: Path
    catalogue: Catalogue
    person: Person
    model: str = ANY_MODEL
    by: str = ""
    late_days: float = 90.0
    objects: str = ""
    tell: Callable[[str], None] = field(default=lambda _: None)


def subject_of(home: Path, person: Person) -> Subject:
    """The digests of a person in a home."""
    token = FieldKeys(home).tokens([person.text], is_made=False)[0]
    return Digests(home).subject(person.field, person.text, token or "")


class Erasing:
    """Carries out one erasure in this process."""

    def __init__(self, erasure: Erasure) -> None:
        self._erasure, self._home, self._person = erasure, erasure.home, erasure.person
        self._subject = subject_of(self._home, self._person)
        self._digests = Digests(self._home)
        self._folder = self._home / ERASURES
        self._erased: frozenset[str] = frozenset()

    @property
    def subject(self) -> str:
        """The digest of the person."""
        return self._subject.digest

    def to_json(self) -> list[dict[str, Any]]:
        """What `find` gives, as JSON."""
        found: list[dict[str, Any]] = msgspec.to_builtins(self.find())
        return found

    def find(self) -> list[Place]:
        """What is held about the person; nothing is changed."""
        return [place for place in self._found() if place.rows or place.outcomes]

    def run(self) -> dict[str, Any]:
        """Erase, or go on where another process has ended; gives the proof."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._erasure.catalogue.create()
        sweep(self._home)  # what killed processes have unpacked
        with self._alone():
            if not (self._folder / f"{self._erasure.id}.json").exists():
                self._carry_out()
            self._rows.erase(with_own=True)
        (self._folder / f"{self._erasure.id}.state").unlink(missing_ok=True)
        return proof_of(self._home, self._erasure.id)

    def _carry_out(self) -> None:
        state = self._state()
        if state.places is None:
            state.late_until, state.erased = self._bury()
            self._erased = frozenset(state.erased)
            state.places, state.requested_at = self.find(), datetime.now(UTC).isoformat()
            self._keep(state)
        self._erased = frozenset(state.erased)
        self._record("erasure_requested", {})
        steps: dict[str, Callable[[], None]] = {
            "ledger": self._erase_ledger, "sinks": self._erase_sinks,
            "files": self._erase_files, "catalogue": self._rows.erase,
            "backups": self._erase_backups,  # last: one that was altered ends the job
        }  # fmt: skip
        for name, step in steps.items():
            if name not in state.done:
                self._erasure.tell(name)
                step()
                state.done.append(name)
                self._keep(state)
        self._erasure.tell("proof")
        content = self._content(state)
        self._record(
            "erasure_completed",
            {"rows": sum(place["rows"] for place in content["places"]), "left": content["left"]},
        )
        write_proof(self._home, self._erasure.id, content)

    # -- what is found --

    def _found(self) -> Iterator[Place]:
        for model in self._models():
            yield self._in_ledger(model)
        for file in self._sink_files:
            rows = erase_rows(file, self._person, self._is_row, is_trial=True)
            files = self._before([file]) if rows else {}
            yield Place(place=f"batch {file.name}", rows=rows, files=files)
        for file in others_in(self._home, self._person):
            if file not in self._sink_files:
                rows = self._rows_of(file, is_trial=True)
                yield Place(
                    place=f"file {file.name}", rows=max(rows, 1), files=self._before([file])
                )
        for file in backups_in(self._home):
            yield Place(place=f"backup {file.name}", rows=1, files=self._before([file]))
        for table, rows in self._rows.find().items():
            yield Place(place=f"catalogue {table}", rows=rows)

    def _models(self) -> list[str]:
        if self._erasure.model != ANY_MODEL:
            return [self._erasure.model]
        return models_of(self._home)

    def _in_ledger(self, model: str) -> Place:
        def count(connection: duckdb.DuckDBPyConnection) -> Place:
            offer_subject(connection, self._home, self._subject, self._person.text)
            files = connection.sql("SELECT filename, count(*) FROM doomed GROUP BY 1").fetchall()
            truths = connection.sql(
                "SELECT count(*) FROM outcome_history SEMI JOIN doomed ON "
                "outcome_history.id = doomed.id AND outcome_history.row = doomed.row"
            ).fetchall()
            there = [Path(name) for name, _ in files if name]
            return Place(
                place=f"ledger {model}", rows=sum(rows for _, rows in files),
                outcomes=truths[0][0], files=self._before(there),
            )  # fmt: skip

        ledger = Ledger(self._home, is_private=True)
        return ledger.ask(count, model=model, what="subject", with_places=True)

    @cached_property
    def _rows(self) -> CatalogueRows:
        return CatalogueRows(
            self._erasure.catalogue, self._person,
            lambda name: self._digests.of(f"{name}#0") in self._erased, self._erasure.id,
            self._erasure.by,
        )  # fmt: skip

    @cached_property
    def _sinks(self) -> Any:
        return sinks_of(Jobs(self._erasure.catalogue).find(kind="batch"))

    @property
    def _sink_files(self) -> Sequence[Path]:
        files: Sequence[Path] = self._sinks.files
        return [file for file in files if file.exists()]

    def _is_row(self, row: Mapping[str, Any]) -> bool:
        name = str(row.get("prediction_id", ""))
        name = name if "#" in name else f"{name}#0"
        value = row.get(self._person.field)
        return self._person.is_value(self._person.field, value) or (
            bool(self._erased) and self._digests.of(name) in self._erased
        )

    # -- what is done --

    def _bury(self) -> tuple[str, tuple[str, ...]]:
        """Have what arrives late be erased as it comes, on every host; until when, and `erased`."""
        rows = [row for model in self._models() for row in self._ids(model)]
        tombstone = Tombstone(
            id=self._erasure.id, model=self._erasure.model, subject=self._subject,
            until_s=time.time() + self._erasure.late_days * _DAY_S, rows=tuple(rows),
        )  # fmt: skip
        if (store := shared_of(self._home)) is not None:
            store.bury(tombstone)
        put_tombstone(self._home, tombstone)
        return datetime.fromtimestamp(tombstone.until_s, UTC).isoformat(), tombstone.rows

    def _ids(self, model: str) -> list[str]:
        def ids(connection: duckdb.DuckDBPyConnection) -> list[str]:
            offer_subject(connection, self._home, self._subject, self._person.text)
            rows = connection.sql("SELECT DISTINCT id, row FROM doomed").fetchall()
            return [self._digests.of(f"{name}#{row}") for name, row in rows]

        return Ledger(self._home, is_private=True).ask(ids, model=model, what="subject")

    def _erase_ledger(self) -> None:
        for model in self._models():
            delete(self._home, model, "", subject=self._subject)

    def _erase_sinks(self) -> None:
        for file in self._sink_files:
            if erase_rows(file, self._person, self._is_row):
                note_erased(file, _row_count(file))
            elif file.suffix == ".parquet":
                note_erased(file, _row_count(file))  # killed between the two

    def _erase_files(self) -> None:
        for file in others_in(self._home, self._person):
            if file not in self._sink_files:
                self._rows_of(file)

    def _rows_of(self, file: Path, *, is_trial: bool = False) -> int:
        rows = 0
        if file.suffix in (*TABLES, *DATABASES):
            rows = erase_rows(file, self._person, self._is_row, is_trial=is_trial)
        if not rows or (file.suffix in (".csv", ".jsonl") and not is_trial):
            rows += redact_rows(file, self._person, is_trial=is_trial)
        return rows

    def _erase_backups(self) -> None:
        for file in backups_in(self._home):
            rewrite(file, partial(_erase_parts, self._person))

    # -- what is proved --

    def _content(self, state: State) -> dict[str, Any]:
        places = state.places or []
        for place in places:
            place.files = {
                name: (before, _digest(self._home / name))
                for name, (before, _) in place.files.items()
            }
        return {
            "erasure": self._erasure.id, "field": self._person.field,
            "subject": self._subject.digest, "key": self._subject.key,
            "model": self._erasure.model, "by": self._erasure.by, "host": socket.gethostname(),
            "release": VERSION, "requested_at": state.requested_at,
            "completed_at": datetime.now(UTC).isoformat(),
            "late_until": state.late_until, "searched": self._searched(),
            "places": msgspec.to_builtins(places), "left": self._left(),
            "elsewhere": self._elsewhere(),
        }  # fmt: skip

    def _searched(self) -> list[str]:
        how = "columns and members of the field, and every file of the home byte by byte"
        if not self._person.is_distinctive:
            how = "columns and members of the field; the value is too short to tell it in free text"
        return ["ledger", "outcomes", "profiles", "batch", "files", "backups", "catalogue", how]

    def _left(self) -> list[str]:
        """What still holds the value, and is not changed."""
        found = [
            f"{model}: {rows} rows are in the ledger again"
            for model in self._models()
            if (rows := self._in_ledger(model).rows)
        ]
        found += [
            f"{path.relative_to(self._home)}: {'a bundle: pack it again' if is_bundle else 'left'}"
            for path, is_bundle in holds(self._home, self._person)
        ]
        found += [f"{place}: a run is writing it; erase again" for place in self._sinks.busy]
        return found + [f"catalogue {name}: facts of versions" for name in self._rows.left()]

    def _elsewhere(self) -> list[str]:
        said = [*_ALWAYS_ELSEWHERE, *self._sinks.elsewhere]
        if (store := shared_of(self._home)) is not None:
            others = store.view().hosts.keys() - {host_of(self._home)}
            said += [f"the home of host {name}: files beside its ledger" for name in sorted(others)]
        if self._erasure.catalogue.is_shared:
            said.append("the catalogue's PostgreSQL: its write-ahead log, archives and replicas")
        if self._erasure.objects.startswith("s3://"):
            said.append(
                f"{self._erasure.objects}: earlier versions of objects, where it keeps them"
            )
        return said

    # -- bookkeeping --

    def _record(self, kind: str, more: Mapping[str, Any]) -> None:
        """An event in the history, once for each erasure."""
        body = {
            "field": self._person.field, "subject": self._subject.digest,
            "model": self._erasure.model, **more,
        }  # fmt: skip
        subject = events.Subject("erasure", self._erasure.id)
        record(self._erasure.catalogue, subject, kind, self._erasure.by, body)

    def _before(self, files: Sequence[Path]) -> dict[str, tuple[str, str]]:
        return {
            str(file.relative_to(self._home) if file.is_relative_to(self._home) else file): (
                _digest(file), ""
            )
            for file in files
        }  # fmt: skip

    def _state(self) -> State:
        file = self._folder / f"{self._erasure.id}.state"
        return msgspec.json.decode(file.read_bytes(), type=State) if file.exists() else State()

    def _keep(self, state: State) -> None:
        file = self._folder / f"{self._erasure.id}.state"
        with synced(draft := file.with_suffix(".new")) as opened:
            opened.write(msgspec.json.encode(state))
        draft.replace(file)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One erasure of a home at a time: two would write the same file again."""
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def record(
    catalogue: Catalogue, subject: events.Subject, kind: str, by: str, body: Mapping[str, Any]
) -> None:
    """Record an event in the history; one of this kind and subject that is there stays."""
    catalogue.create()
    with catalogue.write(alone=True) as connection:
        if not events.find(connection, subject=subject, kinds=[kind]):
            event = events.Event(subject, kind, datetime.now(UTC), by, "", body)
            events.append(connection, event)


def proof_of(home: Path, erasure: str) -> dict[str, Any]:
    """The result of an erasure that is done; of one that was killed after its proof, too.

    Raises:
        Conflict: It has no proof: another one has erased the person before it began.
    """
    file = home / ERASURES / f"{erasure}.json"
    if not file.exists():
        raise Conflict("another erasure has erased this person", hint="bascule jobs list")
    return {"proof": str(file), "envelope": json.loads(file.read_bytes())}


def models_of(home: Path) -> list[str]:
    """The models of which a ledger has answers."""
    table = Ledger(home).query("SELECT DISTINCT model FROM predictions ORDER BY 1")
    return [str(model) for model in table["model"].to_pylist()]


def _digest(file: Path) -> str:
    return sha256_file(file) if file.is_file() else ""


def _row_count(file: Path) -> int:
    import pyarrow.dataset as ds

    form = {".jsonl": "json", ".arrow": "ipc", ".feather": "ipc"}.get(file.suffix)
    if file.suffix in DATABASES:
        return 0
    return int(ds.dataset(file, format=form or file.suffix[1:]).count_rows())


def _erase_parts(person: Person, parts: Path) -> None:
    """Erase a person from the unpacked parts of a backup."""
    home = parts / "home"
    if home.is_dir():
        has_key = (home / "private.key").exists()
        subject = subject_of(home, person)
        for model in models_of(home):
            delete(home, model, "", subject=subject)
        for name in ["ledger/lock"] + ([] if has_key else ["private.key"]):
            (home / name).unlink(missing_ok=True)
    for file in (parts / "catalogue").glob("*.jsonl"):
        redact_rows(file, person)
