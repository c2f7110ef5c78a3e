"""Erases a person: looks everywhere, erases step by step, looks again, and signs what it has done.

    HOME/erasures/ID.state    what was found before
    HOME/erasures/ID.json     the proof; once it is there, the erasure is done but for its own job

Every step may be repeated, so a process that goes on where another was killed repeats them. The
tombstone comes first: what arrives after it is erased as it comes. The input of the erasure's own
job is the last to lose the value.
"""

from __future__ import annotations

import fcntl
import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bascule.backups import rewrite
from bascule.catalogue import Catalogue, events
from bascule.core import VERSION, Conflict, replacing, sha256_file, sweep, synced
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
from bascule.places import place_beside
from bascule.privacy.catalogue_rows import CatalogueRows
from bascule.privacy.files import erase_in
from bascule.privacy.persons import Person
from bascule.privacy.proofs import ERASURES, content_of, write_proof
from bascule.privacy.searching import backups_in, holds, may_hold, others_in
from bascule.privacy.sinks import Sinks, note_erased, sinks_of

if TYPE_CHECKING:
    import duckdb

_DAY_S = 86_400.0
_MADE_FOR_A_WHILE = ("uploads", "cache")
"""Folders of the home whose files go whole, where the value cannot be taken out of them."""
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
        files: Their paths below the home, or whole outside of it.
    """

    place: str
    rows: int = 0
    outcomes: int = 0
    files: list[str] = []


class State(msgspec.Struct, kw_only=True):
    """What was found before anything was erased."""

    places: list[Place]
    tombstone: Tombstone
    requested_at: str


@dataclass(kw_only=True)
class Erasure:
    """One erasure of a person, carried out in this process.

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
    tell: Callable[[str], object] = field(default=lambda _: None)

    def __post_init__(self) -> None:
        self._subject = subject_of(self.home, self.person)
        self._digests = Digests(self.home)
        self._folder = self.home / ERASURES
        self._erased: frozenset[str] = frozenset()

    @property
    def subject(self) -> str:
        """The digest of the person."""
        return self._subject.digest

    def find(self) -> list[Place]:
        """What is held about the person; nothing is changed."""
        return self._in_ledgers() + self._in_others()

    def _in_ledgers(self) -> list[Place]:
        """What the ledger has; the digests of its rows are known from then on."""
        ledgers = [self._in_ledger(model) for model in self._models()]
        self._erased = frozenset(row for _, rows in ledgers for row in rows)
        return [place for place, _ in ledgers if place.rows]

    def _in_others(self) -> list[Place]:
        places = []
        for kind, file in self._files():
            rows = erase_in(file, self.person, self._is_row, is_trial=True)
            if rows or kind == "file":
                rows, files = max(rows, 1), self._names([file])
                places.append(Place(place=f"{kind} {file.name}", rows=rows, files=files))
        if names := self._deferred():
            places.append(Place(place="requests answered later", rows=len(names), files=names))
        for file in backups_in(self.home):
            files = self._names([file])
            places.append(Place(place=f"backup {file.name}", rows=1, files=files))
        for table, rows in self._rows(self.catalogue).find().items():
            places.append(Place(place=f"catalogue {table}", rows=rows))
        return places

    def run(self) -> dict[str, Any]:
        """Erase, or go on where another process has ended; gives the proof."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self.catalogue.create()
        sweep(self.home)  # what killed processes have unpacked
        with (self._folder / "lock").open("w") as lock:
            # One erasure of a home at a time: two would write the same file again.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (self._folder / f"{self.id}.json").exists():
                self._carry_out(self._state())
            result = proof_of(self.home, self.id)
            content = content_of(result["envelope"])
            rows = sum(place["rows"] for place in content["places"])
            digest = sha256_file(Path(result["proof"]))
            self._record(
                "erasure_completed", {"rows": rows, "left": content["left"], "proof": digest}
            )
            self._rows(self.catalogue).erase(with_own=True)
        (self._folder / f"{self.id}.state").unlink(missing_ok=True)
        return result

    def _carry_out(self, state: State) -> None:
        self._erased = frozenset(state.tombstone.rows)
        self._record("erasure_requested", {})
        self.tell("ledger")
        for model in self._models():
            delete(self.home, model, "", subject=self._subject)
        self.tell("files")
        for kind, file in self._files():
            rows = erase_in(file, self.person, self._is_row)
            if kind == "batch":
                if rows or file.suffix == ".parquet":  # it may have been killed between the two
                    note_erased(file)
            elif not rows and file.relative_to(self.home).parts[0] in _MADE_FOR_A_WHILE:
                file.unlink(missing_ok=True)
        self._deferred(erases=True)
        self.tell("catalogue")
        self._rows(self.catalogue).erase()
        self.tell("backups")  # last: one that was altered ends the job
        for file in backups_in(self.home):
            rewrite(file, self._erase_in_backup)
        self.tell("proof")
        write_proof(self.home, self.id, self._content(state))

    # -- where a person is --

    def _models(self) -> list[str]:
        return [self.model] if self.model != ANY_MODEL else models_of(self.home)

    def _in_ledger(self, model: str) -> tuple[Place, list[str]]:
        """The answers of a model to a person, and the digests of `ID#ROW` of each."""

        def look(connection: duckdb.DuckDBPyConnection) -> tuple[Place, list[str]]:
            offer_subject(connection, self.home, self._subject, self.person.text)
            rows = connection.sql("SELECT id, row, filename FROM doomed").fetchall()
            truths = connection.sql(
                "SELECT count(*) FROM outcome_history SEMI JOIN doomed ON "
                "outcome_history.id = doomed.id AND outcome_history.row = doomed.row"
            ).fetchall()
            files = self._names([Path(name) for name in {name for *_, name in rows if name}])
            place = Place(
                place=f"ledger {model}", rows=len(rows), outcomes=truths[0][0], files=files
            )
            return place, [self._digests.of(f"{name}#{row}") for name, row, _ in rows]

        ledger = Ledger(self.home, is_private=True)
        return ledger.ask(look, model=model, what="subject", with_places=True)

    def _files(self) -> Iterator[tuple[str, Path]]:
        """Files that may hold the person: `batch` and one of a run, or `file` and another."""
        written = {file for file in self._sinks.files if file.exists()}
        yield from (("batch", file) for file in sorted(written))
        others = others_in(self.home, self.person)
        yield from (("file", file) for file in others if file not in written)

    def _deferred(self, *, erases: bool = False) -> list[str]:
        """Requests that are answered later, with their answers, of which one may hold the value."""
        place = place_beside(self.objects, self.home, "deferred")
        stems = {name: name.partition(".")[0] for name, _ in place.files("")}
        held = {stems[name] for name in stems if may_hold(place.read(name) or b"", self.person)}
        names = [name for name in stems if stems[name] in held]
        if erases and names:
            place.remove(*names)
            # Answers that came meanwhile; one that comes from now on finds its request gone.
            late = [name for name, _ in place.files("") if name.partition(".")[0] in held]
            place.remove(*late)
        return names

    @cached_property
    def _sinks(self) -> Sinks:
        return sinks_of(Jobs(self.catalogue).find(kind="batch"))

    def _rows(self, catalogue: Catalogue) -> CatalogueRows:
        return CatalogueRows(
            catalogue, self.person, lambda name: self._is_erased(f"{name}#0"), self.id, self.by
        )

    def _is_erased(self, row: str) -> bool:
        return bool(self._erased) and self._digests.of(row) in self._erased

    def _is_row(self, row: Mapping[str, Any]) -> bool:
        name = str(row.get("prediction_id", ""))
        is_value = self.person.is_value(self.person.field, row.get(self.person.field))
        return is_value or self._is_erased(name if "#" in name else f"{name}#0")

    # -- what is done --

    def _state(self) -> State:
        """What was found; where nothing is noted, rows that arrive from now on are erased."""
        file = self._folder / f"{self.id}.state"
        if file.exists():
            return msgspec.json.decode(file.read_bytes(), type=State)
        places = self._in_ledgers()
        tombstone = Tombstone(
            id=self.id, model=self.model, subject=self._subject,
            until_s=time.time() + self.late_days * _DAY_S, rows=tuple(self._erased),
        )  # fmt: skip
        if (store := shared_of(self.home)) is not None:
            store.bury(tombstone)
        put_tombstone(self.home, tombstone)
        places += self._in_others()
        requested_at = datetime.now(UTC).isoformat()
        state = State(places=places, tombstone=tombstone, requested_at=requested_at)
        with replacing(file) as draft, synced(draft) as opened:
            opened.write(msgspec.json.encode(state))
        return state

    def _erase_in_backup(self, home: Path, catalogue: Catalogue) -> None:
        if home.is_dir():
            has_key = (home / "private.key").exists()
            subject = subject_of(home, self.person)
            for model in models_of(home):
                delete(home, model, "", subject=subject)
            for name in ["ledger/lock"] + ([] if has_key else ["private.key"]):
                (home / name).unlink(missing_ok=True)
        self._rows(catalogue).erase(with_own=True)

    # -- what is proved --

    def _content(self, state: State) -> dict[str, Any]:
        until = datetime.fromtimestamp(state.tombstone.until_s, UTC)
        return {
            "erasure": self.id, "field": self.person.field,
            "subject": self._subject.digest, "key": self._subject.key,
            "model": self.model, "by": self.by, "host": socket.gethostname(),
            "release": VERSION, "requested_at": state.requested_at,
            "completed_at": datetime.now(UTC).isoformat(),
            "late_until": until.isoformat(), "searches_texts": self.person.is_distinctive,
            "places": msgspec.to_builtins(state.places), "left": self._left(),
            "elsewhere": self._elsewhere(),
        }  # fmt: skip

    def _left(self) -> list[str]:
        """What still holds the value, and is not changed."""
        left = [
            f"{model}: {rows} rows are in the ledger again"
            for model in self._models()
            if (rows := self._in_ledger(model)[0].rows)
        ]
        left += [
            f"{path.relative_to(self.home)}: {'a bundle: pack it again' if is_bundle else 'left'}"
            for path, is_bundle in holds(self.home, self.person)
        ]
        left += [f"{place}: a run is writing it; erase again" for place in self._sinks.busy]
        names = self._rows(self.catalogue).left()
        return left + [f"catalogue {name}: facts of versions" for name in names]

    def _elsewhere(self) -> list[str]:
        places = [*_ALWAYS_ELSEWHERE, *self._sinks.elsewhere]
        if (store := shared_of(self.home)) is not None:
            others = store.view().hosts.keys() - {host_of(self.home)}
            places += [
                f"the home of host {name}: files beside its ledger" for name in sorted(others)
            ]
        if self.catalogue.is_shared:
            places.append("the catalogue's PostgreSQL: its write-ahead log, archives and replicas")
        if self.objects.startswith("s3://"):
            places.append(f"{self.objects}: earlier versions of objects, where it keeps them")
        return places

    def _record(self, kind: str, more: Mapping[str, Any]) -> None:
        """An event in the history, once for each erasure."""
        body = {"field": self.person.field, "subject": self.subject, "model": self.model, **more}
        record(self.catalogue, events.Subject("erasure", self.id), kind, self.by, body)

    def _names(self, files: Sequence[Path]) -> list[str]:
        return [
            str(file.relative_to(self.home) if file.is_relative_to(self.home) else file)
            for file in files
        ]


def subject_of(home: Path, person: Person) -> Subject:
    """The digests of a person in a home."""
    token = FieldKeys(home).tokens([person.text], is_made=False)[0]
    return Digests(home).subject(person.field, person.text, token or "")


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
