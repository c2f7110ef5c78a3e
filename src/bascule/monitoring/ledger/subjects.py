"""Subjects: people whose rows are found, erased and kept out by keyed digests of a field's value.

A deletion and a tombstone name a person by these digests alone; the key is in the home. Numbers are
compared as texts: 42 and 42.0 are the subject `42`.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from bascule.core import Invalid, replacing, sync_folder, synced
from bascule.monitoring.ledger.hashing import hash_key, hashed
from bascule.monitoring.ledger.manifest import LEDGER, Subject
from bascule.monitoring.profiles import WindowProfile

if TYPE_CHECKING:
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


def columns_of(field: str) -> tuple[str, ...]:
    """The columns of `predictions` that may hold a field's value, as it is or encrypted."""
    own = tuple(f"{part}.{field}{kind}" for part in ("input", "output") for kind in _KINDS)
    return (field, *own) if field in _OF_REQUESTS else own


_KINDS = ("", ".encrypted")


def condition(
    subject: Subject, secret: str, columns: Mapping[str, str], value: str | None = None
) -> str:
    """The rows of a subject, as SQL; `false` where no column can hold it. Pure.

    Args:
        subject: The person.
        secret: See `Digests`.
        columns: Of `predictions`, with DuckDB's names of their types.
        value: What the digest is of, where it is known.
    """
    quoted = None if value is None else "'" + value.replace("'", "''") + "'"

    def is_one(text: str) -> str:
        if value is not None:
            return f"{text} = {quoted}"
        return f"sha256('{secret}' || {text}) = '{subject.digest}'"

    parts = []
    for name in columns_of(subject.field):
        kind = columns.get(name, "")
        if kind.endswith("]"):
            parts.append(f'len(list_filter("{name}"::VARCHAR[], x -> {is_one("x")})) > 0')
        elif kind:
            parts.append(is_one(_text_in_sql(f'"{name}"', kind)))
    for suffix, values in ((".hash", subject.hashes), (".token", (subject.token,))):
        listed = ", ".join(f"'{value}'" for value in values)
        names = [f"{part}.{subject.field}{suffix}" for part in ("input", "output")]
        parts += [f'"{name}" IN ({listed})' for name in names if name in columns]
    return " OR ".join(f"coalesce({part}, false)" for part in parts) or "false"


def _text_in_sql(name: str, kind: str) -> str:
    if kind not in ("DOUBLE", "FLOAT"):
        return f"{name}::VARCHAR"
    whole = f"{name} = floor({name}) AND abs({name}) < 1e15"
    return f"CASE WHEN {whole} THEN TRY_CAST({name} AS BIGINT)::VARCHAR ELSE {name}::VARCHAR END"


def rows_to_keep(
    answers: Answers, tombstones: Sequence[Tombstone], digests: Digests
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which rows are of none of the erased. Shape (rows,)."""
    kept = np.ones(len(answers.requests), bool)
    for tombstone in tombstones:
        digests.check(tombstone.subject)
        if tombstone.model not in (ANY_MODEL, answers.head.model):
            continue
        field, subject = tombstone.subject.field, tombstone.subject
        for name, values in answers.texts_of(field):
            erased = subject.hashes if name.endswith(".hash") else (subject.digest,)
            digest_of = str if name.endswith(".hash") else digests.of
            texts = [None if value is None else text_of(value) for value in values]
            ours = {text for text in set(texts) if text and digest_of(text) in erased}
            if ours:
                mask = np.array([text in ours for text in texts])
                kept &= ~mask.reshape(len(kept), -1).any(axis=1)
    return kept


def note_erased_rows(
    home: Path, answers: Answers, kept: np.ndarray[Any, np.dtype[np.bool_]],
    tombstones: Sequence[Tombstone], digests: Digests,
) -> None:  # fmt: skip
    """Have the tombstones know the rows that are not kept, whose outcomes may still come."""
    gone = np.flatnonzero(~kept)
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
    erased = {row for one in tombstones if one.model in (ANY_MODEL, model) for row in one.rows}
    if not erased:
        return []
    return [at for at, (name, row) in enumerate(ids) if digests.of(f"{name}#{row}") in erased]
