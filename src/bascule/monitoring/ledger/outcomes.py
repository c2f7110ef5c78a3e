"""Outcomes: the truth about predictions, by their ids, whenever it is known.

Each import is one Parquet file in `outcomes/MODEL/`, which is never changed. Of several truths
about one row the one received last counts, within one import the one that stands last; the others
are its history.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bascule.core import Invalid, Unavailable, check_name
from bascule.monitoring.ledger.manifest import sync_folder

OUTCOMES = "outcomes"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("row", pa.int32()),
        ("model", pa.string()),
        ("truth", pa.string()),
        ("truth_number", pa.float64()),
        ("time", pa.timestamp("us", "UTC")),
        ("received_at", pa.timestamp("us", "UTC")),
        ("position", pa.int64()),
    ]
)
"""`truth` is the value as a text, `truth_number` the same as a number where it is one; `time` is
when it became true, as the importer says; `position` is its place in the import."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of an import.

    Attributes:
        taken: How many truths were kept.
        refused: By the number of the line, from 1: what is wrong with it.
    """

    taken: int
    refused: dict[int, str]


class Outcomes:
    """The outcomes in the home at `home`."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def add(
        self,
        model: str,
        table: pa.Table,
        *,
        id_column: str = "id",
        truth_column: str = "truth",
        time_column: str | None = None,
    ) -> Imported:
        """Keep the truths of a table; they are on the disk when this returns.

        An id is that of a request of one row, or `ID#ROW`. A line without id or truth is refused
        and the others are kept; the same import again changes nothing that counts.

        Args:
            model: The model that was asked.
            table: One line a truth.
            id_column: The column of the prediction ids.
            truth_column: That of the truths: numbers, texts or booleans.
            time_column: That of the time when each became true; now, where there is none.

        Raises:
            Invalid: A column is not there, or is of a wrong type; nothing was kept.
            Unavailable: The home cannot be written; nothing was kept.
        """
        check_name(model)
        received_at = self._next_time(model)
        ids, truths, times = _columns(table, id_column, truth_column, time_column, received_at)
        refused = _refused(ids, truths, times)
        good = pa.array([n not in refused for n in range(1, len(ids) + 1)])
        names, rows = _split(ids.filter(good).to_pylist())
        truths = truths.filter(good)
        made = pa.table(
            [
                names, rows, pa.repeat(model, len(names)), truths.cast(pa.string()),
                _numbers(truths), times.filter(good),
                pa.repeat(pa.scalar(received_at, SCHEMA.field("received_at").type), len(names)),
                pa.array(range(len(names)), pa.int64()),
            ],
            schema=SCHEMA,
        )  # fmt: skip
        if made.num_rows:
            self._write(model, made)
        return Imported(made.num_rows, refused)

    def files(self) -> list[Path]:
        """Of all models."""
        return sorted((self._home / OUTCOMES).glob("*/*.parquet"))

    def _next_time(self, model: str) -> datetime:
        """Now, or just after the latest import: a clock may stand still, or be set back."""
        files = (self._home / OUTCOMES / model).glob("[0-9]*.parquet")
        latest_us = max((int(file.name.partition("-")[0]) for file in files), default=0)
        return _EPOCH + timedelta(microseconds=max(time.time_ns() // 1000, latest_us + 1))

    def _write(self, model: str, table: pa.Table) -> None:
        folder = self._home / OUTCOMES / model
        received_us = table["received_at"][0].value
        name = f"{received_us}-{secrets.token_hex(4)}.parquet"
        draft = folder / f".{name}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _replace(folder / name, table)
            sync_folder(folder)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise Unavailable(f"{folder} cannot be written: {error}") from error


def rewrite(file: Path, *, without: pa.Array) -> None:
    """Replace an import by itself without the rows of these numbers; remove it with the last."""
    table = pq.read_table(file)
    places = pa.array(range(len(table)), pa.int64())
    kept = table.filter(pc.invert(pc.is_in(places, without)))
    if kept.num_rows:
        _replace(file, kept)
    else:
        file.unlink()
    sync_folder(file.parent)


def _replace(file: Path, table: pa.Table) -> None:
    draft = file.with_name(f".{file.name}")
    with draft.open("wb") as opened:
        pq.write_table(table, opened, compression="zstd")
        opened.flush()
        os.fsync(opened.fileno())
    draft.rename(file)


def _columns(
    table: pa.Table, id_column: str, truth_column: str, time_column: str | None, now: datetime
) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Ids as texts, truths, and times in UTC."""
    for option, name in (("id", id_column), ("truth", truth_column), ("time", time_column)):
        if name is not None and name not in table.column_names:
            known = ", ".join(table.column_names[:20])
            raise Invalid(
                f"there is no column {name!r} for --{option}-column", hint=f"there are {known}"
            )
    truths = table[truth_column].combine_chunks()
    if pa.types.is_nested(truths.type):
        raise Invalid(f"the truths in {truth_column!r} are no numbers or texts")
    kind = SCHEMA.field("time").type
    if time_column is None:
        times = pa.repeat(pa.scalar(now, kind), len(truths))
    else:
        times = _as_times(table[time_column].combine_chunks(), time_column, kind)
    return table[id_column].combine_chunks().cast(pa.string()), truths, times


def _as_times(values: pa.Array, name: str, kind: pa.DataType) -> pa.Array:
    """Times in UTC; those without a zone are meant in UTC."""
    try:
        if not pa.types.is_timestamp(values.type):
            values = values.cast(pa.timestamp("us"))
        if values.type.tz is None:
            values = pc.assume_timezone(values, "UTC")
        return values.cast(kind)
    except pa.ArrowInvalid as error:
        raise Invalid(
            f"column {name!r} does not hold times: {error}", hint="write 2026-11-26T12:00:00Z"
        ) from None


def _refused(ids: pa.Array, truths: pa.Array, times: pa.Array) -> dict[int, str]:
    ids = pc.if_else(pc.equal(ids, ""), pa.scalar(None, pa.string()), ids)  # as CSV has it
    missing = {"no id": ids, "no truth": truths, "no time": times}
    found = {
        number + 1: what
        for what, values in reversed(missing.items())  # of several, the first one counts
        for number in pc.indices_nonzero(pc.is_null(values, nan_is_null=True)).to_pylist()
    }
    return dict(sorted(found.items()))


def _split(ids: Sequence[str]) -> tuple[pa.Array, pa.Array]:
    """Ids of requests and rows: `ID#3` is row 3 of `ID`, and an id without it is row 0."""
    names, rows = [], []
    for one in ids:
        name, mark, row = one.rpartition("#")
        is_row = bool(mark) and row.isascii() and row.isdecimal() and len(row) < 10
        names.append(name if is_row else one)
        rows.append(int(row) if is_row else 0)
    return pa.array(names, pa.string()), pa.array(rows, pa.int32())


def _numbers(truths: pa.Array) -> pa.Array:
    """The truths that are numbers; a text is one only where all of them are."""
    if pa.types.is_string(truths.type) or pa.types.is_large_string(truths.type):
        try:
            return truths.cast(pa.float64())
        except pa.ArrowInvalid:
            return pa.nulls(len(truths), pa.float64())
    return truths.cast(pa.float64())
