"""Subjects: people whose rows are found, erased and kept out by keyed digests of a field's value.

A deletion and a tombstone name a person by these digests alone; the key is in the home. Numbers are
compared as texts: 42 and 42.0 are the subject `42`.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from bascule.core import Invalid, replacing, sync_folder, synced
from bascule.monitoring.ledger.hashing import hash_key, hashed
from bascule.monitoring.ledger.manifest import LEDGER, Subject
from bascule.monitoring.ledger.outcome_spool import JUDGES
from bascule.stats import WindowProfile

if TYPE_CHECKING:
    import duckdb

    from bascule.monitoring.ledger.tables import Answers

TOMBSTONES = "tombstones"
ANY_MODEL = "*"
_OF_REQUESTS = ("id", "caller", "trace_id")
"""Columns of every model that may name a person."""


class Tombstone(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of an erased person that arrive late are erased as they come.

    Attributes:
        id: Of the erasure.
        model: Of whose rows; `*` for all models.
        subject: The person.
        until_s: When it ends, by the clock of the epoch.
        rows: Digests of `ID#ROW` of the erased rows, whose outcomes may still come.
    """

    id: str
    model: str
    subject: Subject
    until_s: float
    rows: tuple[str, ...] = ()


class Digests:
    """The digests of a home: SHA-256 of a secret, which its key gives, and a text."""

    def __init__(self, home: Path) -> None:
        """Read the key; raises `OSError`."""
        self._key = hash_key(home)
        self.secret = hmac.new(self._key, b"subjects", sha256).hexdigest()
        self.fingerprint = sha256(self.secret.encode()).hexdigest()[:16]

    def of(self, text: str) -> str:
        return sha256(f"{self.secret}{text}".encode()).hexdigest()

    def subject(self, field: str, text: str, token: str = "") -> Subject:
        """The person whose `field` is `text`."""
        values: list[object] = [text]
        with suppress(ValueError):
            values.append(float(text))
        hashes = tuple(str(value) for value in hashed(values, self._key))
        return Subject(
            field=field, digest=self.of(text), hashes=hashes, key=self.fingerprint, token=token
        )

    def check(self, subject: Subject) -> None:
        """Raise `Invalid` where the digests of a subject were made with another key."""
        if subject.key != self.fingerprint:
            raise Invalid(
                "the subject's digest was made with another key than that of this home",
                hint="hosts that share a ledger need the same private.key",
            )


def text_of(value: object) -> str:
    """A value as the text that digests are made of."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def condition(
    connection: duckdb.DuckDBPyConnection,
    view: str,
    subject: Subject,
    digests: Digests,
    value: str | None = None,
) -> str:
    """The rows of a subject, as SQL; `false` where no column can hold it.

    Args:
        connection: Has the view.
        view: Of rows, such as `predictions`.
        subject: The person; raises `Invalid` where it is of another key.
        digests: Of the home.
        value: What the digest is of, where it is known: to compare with it is faster.
    """
    digests.check(subject)
    quoted = None if value is None else "'" + value.replace("'", "''") + "'"

    def is_value(text: str) -> str:
        if value is not None:
            return f"{text} = {quoted}"
        return f"sha256('{digests.secret}' || {text}) = '{subject.digest}'"

    hashes, token = ", ".join(f"'{text}'" for text in subject.hashes), subject.token
    matches = {subject.field: is_value} if subject.field in _OF_REQUESTS else {}
    for name in (f"input.{subject.field}", f"output.{subject.field}"):
        # Encrypted values and tokens are as they were until they are sealed.
        matches |= {
            name: is_value,
            f"{name}.encrypted": is_value,
            f"{name}.hash": lambda text: f"{text} IN ({hashes})",
            f"{name}.token": lambda text: f"({text} = '{token}' OR {is_value(text)})",
        }
    parts = [
        _any_in_sql(f'"{name}"', kind, matches[name])
        for name, kind, *_ in connection.sql(f"DESCRIBE {view}").fetchall()
        if name in matches
    ]
    return " OR ".join(f"coalesce({part}, false)" for part in parts) or "false"


def _any_in_sql(name: str, kind: str, match: Callable[[str], str]) -> str:
    if kind.endswith("]"):
        return f"len(list_filter({name}::VARCHAR[], x -> {match('x')})) > 0"
    return match(_text_in_sql(name, kind))


def _text_in_sql(name: str, kind: str) -> str:
    if kind not in ("DOUBLE", "FLOAT"):
        return f"{name}::VARCHAR"
    whole = f"{name} = floor({name}) AND abs({name}) < 1e15"
    return f"CASE WHEN {whole} THEN TRY_CAST({name} AS BIGINT)::VARCHAR ELSE {name}::VARCHAR END"


def rows_to_keep(
    answers: Answers, tombstones: Sequence[Tombstone], digests: Digests
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which rows are of none of the erased. Shape (rows,)."""
    import duckdb

    is_others = np.ones(len(answers.requests), bool)
    with duckdb.connect() as connection:
        connection.register("answers", answers.table())
        for tombstone in tombstones:
            if tombstone.model in (ANY_MODEL, answers.head.model):
                where = condition(connection, "answers", tombstone.subject, digests)
                theirs = connection.sql(f"SELECT {where} hit FROM answers").to_arrow_table()
                is_others &= ~theirs["hit"].to_numpy()
    return is_others


def note_erased_rows(
    home: Path, answers: Answers, is_others: np.ndarray[Any, np.dtype[np.bool_]],
    tombstones: Sequence[Tombstone], digests: Digests,
) -> None:  # fmt: skip
    """Have the tombstones know the rows that are not kept, whose outcomes may still come."""
    gone = np.flatnonzero(~is_others)
    ids, places = answers.ids.take(gone).to_pylist(), answers.places[gone].tolist()
    rows = tuple(digests.of(f"{name}#{row}") for name, row in zip(ids, places, strict=True))
    for tombstone in tombstones:
        if tombstone.model in (ANY_MODEL, answers.head.model):
            put_tombstone(home, msgspec.structs.replace(tombstone, rows=rows))


def scrub_window(window: WindowProfile, subject: Subject, digests: Digests) -> bool:
    """Take a subject's value out of a window; whether it was there.

    A column of numbers with this name goes whole: its quantiles are values of rows.
    """
    has_changed = False
    for profile in (window.inputs, window.outputs):
        for name, column in list(profile.columns.items()):
            counts = column.frequent.counts
            ours = [value for value in counts if digests.of(text_of(value)) == subject.digest]
            if column.kind == "number" and name == subject.field:
                del profile.columns[name]
                has_changed = True
            elif name == subject.field or column.kind == "text":
                for value in ours:
                    del counts[value]
                    column.frequent.error = max(column.frequent.error, 1)
                has_changed |= bool(ours)
    return has_changed


def put_tombstone(home: Path, tombstone: Tombstone) -> None:
    """Keep it, on the disk when this returns, with the rows that are kept under its id already."""
    folder = home / LEDGER / TOMBSTONES
    folder.mkdir(parents=True, exist_ok=True)
    known = folder / f"{tombstone.id}.json"
    if known.exists():
        rows = msgspec.json.decode(known.read_bytes(), type=Tombstone).rows
        rows = tuple(dict.fromkeys((*rows, *tombstone.rows)))
        tombstone = msgspec.structs.replace(tombstone, rows=rows)
    with replacing(known) as draft, synced(draft) as file:
        file.write(msgspec.json.encode(tombstone))
    sync_folder(folder)


def tombstones_of(home: Path) -> list[Tombstone]:
    """Those that are in force; the others are removed."""
    in_force = []
    for file in sorted((home / LEDGER / TOMBSTONES).glob("*.json")):
        tombstone = msgspec.json.decode(file.read_bytes(), type=Tombstone)
        if tombstone.until_s > time.time():
            in_force.append(tombstone)
        else:
            file.unlink(missing_ok=True)
    return in_force


def erased_outcomes(
    tombstones: Iterable[Tombstone], digests: Digests, model: str, ids: Sequence[tuple[str, int]]
) -> list[int]:
    """The places of outcomes, by their ids and rows, that are about erased rows."""
    of_all = model.startswith(JUDGES)
    erased = {row for t in tombstones if of_all or t.model in (ANY_MODEL, model) for row in t.rows}
    if not erased:
        return []
    return [at for at, (name, row) in enumerate(ids) if digests.of(f"{name}#{row}") in erased]
