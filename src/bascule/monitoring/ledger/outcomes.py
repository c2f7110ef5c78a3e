"""Outcomes: the truth about predictions, by their ids, whenever it is known.

An import is one Parquet file in `outcomes/MODEL/`, which is never changed; small requests share a
file of lines (`outcome_spool`), which `fold` turns into Parquet when it is complete. Of several
truths about one row the one received last counts, within one import the one that stands last; the
others are its history.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet as pq

from bascule.core import Invalid, Unavailable, check_name, first_line, sync_folder, synced
from bascule.monitoring.ledger.outcome_lines import (
    MAX_ID,
    MAX_OUTCOMES,
    MAX_TRUTH,
    NUMBER,
    OutcomeInput,
    Refused,
    read_outcomes,
    split_id,
)
from bascule.monitoring.ledger.outcome_spool import (
    JUDGES,
    LINES,
    OUTCOMES,
    OutcomeSpool,
    blank_lines,
    key_of,
    latest_us,
    new_key,
    received_us,
    whole_lines,
)

_LINES = pa.schema(
    [
        ("id", pa.string()),
        ("row", pa.int32()),
        ("truth", pa.string()),
        ("truth_number", pa.float64()),
        ("time_us", pa.int64()),
        ("received_us", pa.int64()),
        ("position", pa.int64()),
        ("reviewer", pa.string()),
        ("probability", pa.float64()),
    ]
)
"""See `outcome_spool.Kept`."""
_PART_ROWS = 1 << 16
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
        ("reviewer", pa.string()),
        ("probability", pa.float64()),
    ]
)
"""`truth` is the value as a text, `truth_number` the same as a number where it is one; `time` is
when it became true, as the importer says; `position` is its place in the import. Files of earlier
releases lack the last two, which only reviews have."""
MERGED_SUFFIX = ".merged.parquet"
MERGED_FROM = b"bascule.merged"
"""In the metadata of a file that replaces others: their keys, as JSON."""


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
        max_refused: int | None = None,
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
            max_refused: How many lines may be refused; None for any number.

        Raises:
            Invalid: A column is not there, or is of a wrong type, or too many lines are refused;
                nothing was kept.
            Unavailable: The home cannot be written; nothing was kept.
        """
        check_name(model)
        names = (id_column, truth_column, time_column)
        check_columns(table, *names)
        received, refused = self._next_us(model), dict[int, str]()
        parts = _parts(model, received, table, names, refused, max_refused)
        try:
            first = next((part for part in parts if part.num_rows), None)
            if first is not None:
                target = self._home / OUTCOMES / model / f"{new_key(received)}.parquet"
                self.write(target, chain([first], parts))
        except pa.ArrowMemoryError:
            raise
        except pa.ArrowException as error:
            raise Invalid(f"the table holds what is no outcome: {first_line(error)}") from None
        return Imported(table.num_rows - len(refused), refused)

    def add_rows(
        self, model: str, rows: Sequence[tuple[object, object, object]], *, of_judge: bool = False
    ) -> tuple[int, list[Refused]]:
        """Keep outcomes of mixed types, each id, truth and time; see `outcome_lines`.

        With `of_judge`, they are the verdicts of the judge that `model` names. Returns how many
        were kept, and those that were refused.

        Raises:
            Unavailable: The home cannot be written; earlier parts of `MAX_OUTCOMES` are kept.
        """
        check_name(model)
        model = f"{JUDGES}{model}" if of_judge else model
        spool = OutcomeSpool(self._home)
        taken, refused = 0, list[Refused]()
        try:
            for start in range(0, len(rows), MAX_OUTCOMES):
                part = [OutcomeInput(*row) for row in rows[start : start + MAX_OUTCOMES]]
                lines, wrong = read_outcomes(part)
                spool.append(model, [lines])
                taken += len(lines)
                refused += [replace(one, index=start + one.index) for one in wrong]
        finally:
            spool.close()
        self.fold()
        return taken, refused

    def stored(self) -> tuple[list[Path], dict[Path, pa.Table]]:
        """All outcomes: the Parquet files, and by file the lines that are in none of them.

        Raises:
            FileNotFoundError: A file was folded meanwhile: ask again.
        """
        # Lines first: a fold makes the Parquet file before it removes the lines.
        spooled = sorted((self._home / OUTCOMES).glob(f"*/*{LINES}"))
        files = sorted((self._home / OUTCOMES).glob("*/[0-9]*.parquet"))
        merged = merged_of([*files, *spooled])
        folded = {(file.parent, key_of(file)) for file in files} | merged.keys()
        waiting = (file for file in spooled if (file.parent, key_of(file)) not in folded)
        files = [file for file in files if (file.parent, key_of(file)) not in merged]
        return files, {file: _table_of(file.parent.name, file.read_bytes()) for file in waiting}

    def remove(self, file: Path, rows: pa.Array) -> None:
        """Remove rows of a file of `stored`, by their numbers in order."""
        if file.suffix == LINES:
            blank_lines(file, rows.to_pylist())
        elif (draft := self.without(file, rows)) is None:
            file.unlink()
            sync_folder(file.parent)
        else:
            draft.rename(file)
            sync_folder(file.parent)

    def without(self, file: Path, rows: pa.Array) -> Path | None:
        """Write a Parquet file without these rows, under a new name in `cache/outcomes`.

        None where no row is left; but a merged file stays, so that those that it replaces do not
        count again.
        """
        table = pq.read_table(file)
        places = pa.array(range(len(table)), pa.int64())
        kept = table.filter(pc.invert(pc.is_in(places, rows)))
        if not kept.num_rows and not keys_merged(file):
            return None
        key, _, rest = file.name.partition(".")
        folder = self._home / "cache" / OUTCOMES / file.parent.name
        draft = folder / f"{new_key(int(key.partition('-')[0]))}.{rest}"
        self.write(draft, kept.to_batches(), table.schema.metadata)
        return draft

    def forget_merged(self, *, older_than_s: float = 0.0) -> None:
        """Remove the files whose rows are in a merged file of this age."""
        files = list((self._home / OUTCOMES).glob("*/[0-9]*"))
        merged = merged_of(files)
        for file in files:
            into = merged.get((file.parent, key_of(file)))
            with suppress(FileNotFoundError):
                if into is not None and time.time() - into.stat().st_mtime >= older_than_s:
                    file.unlink()

    def fold(self) -> int:
        """Turn complete files of lines into Parquet files; returns how many.

        Any process may do it at any time: two that fold the same file make the same file.
        """
        count = 0
        merged = merged_of(list((self._home / OUTCOMES).glob("*/[0-9]*")))
        for file in sorted((self._home / OUTCOMES).glob(f"*/*{LINES}")):
            with suppress(FileNotFoundError), file.open("rb") as opened:
                try:
                    fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue  # a process writes there
                key = file.parent, key_of(file)
                if key not in merged and not any(file.parent.glob(f"{key[1]}.*.parquet")):
                    self._fold(file, opened.read())
                file.unlink(missing_ok=True)
                count += 1
        return count

    def _fold(self, file: Path, data: bytes) -> None:
        table = _table_of(file.parent.name, data)
        if table.num_rows:
            name = f"{key_of(file)}.{table['received_at'][-1].value}.parquet"
            self.write(file.parent / name, table.to_batches())

    def _next_us(self, model: str) -> int:
        """Now, or just after the latest import: a clock may stand still, or be set back."""
        return max(time.time_ns() // 1000, latest_us(self._home / OUTCOMES / model) + 1)

    @staticmethod
    def write(
        file: Path,
        batches: Iterable[pa.RecordBatch],
        metadata: Mapping[bytes, bytes] | None = None,
    ) -> None:
        """Write a Parquet file of `SCHEMA`, whole and on the disk or not at all."""
        folder = file.parent
        draft = folder / f".{file.name}-{os.getpid()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            schema = SCHEMA.with_metadata(metadata)
            with (
                synced(draft) as opened,
                pq.ParquetWriter(opened, schema, compression="zstd") as writer,
            ):
                for batch in batches:
                    writer.write_batch(batch)
            draft.rename(file)
            sync_folder(folder)
        except OSError as error:
            raise Unavailable(f"{folder} cannot be written: {error}") from error
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)


def keys_merged(file: Path) -> list[str]:
    """The keys of all files that a file replaces. Raises `FileNotFoundError`."""
    found = (pq.read_schema(file).metadata or {}) if file.name.endswith(MERGED_SUFFIX) else {}
    return list(json.loads(found.get(MERGED_FROM, b"[]")))


def merged_of(files: Sequence[Path]) -> dict[tuple[Path, str], Path]:
    """By folder and key, the merged file in place of another of these files.

    A merged file is opened only where another may still be there that it replaces. It also replaces
    a merged file of fewer of the same files: of two leaders, the slower one has seen less.
    """
    found: dict[tuple[Path, str], Path] = {}
    opened: list[tuple[Path, set[str]]] = []
    places = [(file, file.parent, *received_us(file)) for file in files]
    for merged, folder, first, last in places:
        if merged.name.endswith(MERGED_SUFFIX) and any(
            at == folder and first <= began <= last and file is not merged
            for file, at, began, _ in places
        ):
            keys = keys_merged(merged)
            found |= dict.fromkeys(((merged.parent, key) for key in keys), merged)
            opened.append((merged, set(keys)))
    for one, keys_of_one in opened:
        for other, more_keys in opened:
            if one.parent == other.parent and keys_of_one < more_keys:
                found[one.parent, key_of(one)] = other
    return found


def _table_of(model: str, data: bytes) -> pa.Table:
    """The lines of a file as a table."""
    lines = whole_lines(data)
    if not lines.strip():
        return SCHEMA.empty_table()
    # One line may be a whole block of the parser.
    found = pa.json.read_json(
        pa.BufferReader(lines),
        read_options=pa.json.ReadOptions(block_size=len(lines)),
        parse_options=pa.json.ParseOptions(explicit_schema=_LINES),
    )
    received = found["received_us"]
    times = pc.coalesce(found["time_us"], received)
    columns = {
        "model": pa.repeat(pa.scalar(model), found.num_rows),
        "time": times.cast(SCHEMA.field("time").type),
        "received_at": received.cast(SCHEMA.field("received_at").type),
    }
    return pa.table(
        [columns[name] if name in columns else found[name] for name in SCHEMA.names], schema=SCHEMA
    )


def _parts(
    model: str, received_us: int, table: pa.Table, names: tuple[str, str, str | None],
    refused: dict[int, str], max_refused: int | None,
) -> Iterator[pa.RecordBatch]:  # fmt: skip
    """The good outcomes of a table as batches of `SCHEMA`; `refused` gets the other lines.

    Some rows at a time: a million ids take 300 MB as objects of Python.
    """
    moment, taken = _EPOCH + timedelta(microseconds=received_us), 0
    received_at = pa.scalar(moment, SCHEMA.field("received_at").type)
    for start in range(0, table.num_rows, _PART_ROWS):
        ids, truths, times = _columns(table.slice(start, _PART_ROWS), *names, moment)
        wrong = _refused(ids, truths, times)
        refused |= {start + line: why for line, why in wrong.items()}
        if max_refused is not None and len(refused) > max_refused:
            line, why = next(iter(refused.items()))
            raise Invalid(
                f"over {max_refused:,} lines are refused, the first is line {line:,}: {why}; "
                "nothing was kept",
                hint="check the columns and the values",
            )
        good = pa.array([line not in wrong for line in range(1, len(ids) + 1)], pa.bool_())
        ids, rows = _split(ids.filter(good).to_pylist())
        truths, count = truths.filter(good), len(ids)
        if pa.types.is_floating(truths.type):
            truths = pc.add(truths, 0)  # without the sign of zero
        yield pa.record_batch(
            [
                ids, rows, pa.repeat(model, count), truths.cast(pa.string()), numbers_of(truths),
                times.filter(good), pa.repeat(received_at, count),
                pa.array(range(taken, taken + count), pa.int64()),
                pa.nulls(count, pa.string()), pa.nulls(count, pa.float64()),
            ],
            schema=SCHEMA,
        )  # fmt: skip
        taken += count


def _columns(
    table: pa.Table, id_column: str, truth_column: str, time_column: str | None, now: datetime
) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Ids as texts, truths, and times in UTC."""
    truths = table[truth_column].combine_chunks()
    if pa.types.is_nested(truths.type):
        raise Invalid(f"the truths in {truth_column!r} are no numbers or texts")
    kind = SCHEMA.field("time").type
    if time_column is None:
        times = pa.repeat(pa.scalar(now, kind), len(truths))
    else:
        times = _as_times(table[time_column].combine_chunks(), time_column, kind)
    return table[id_column].combine_chunks().cast(pa.string()), truths, times


def check_columns(
    table: pa.Table, id_column: str, truth_column: str, time_column: str | None
) -> None:
    """Raise `Invalid` where one of them is not there, or twice."""
    for option, name in (("id", id_column), ("truth", truth_column), ("time", time_column)):
        count = 1 if name is None else table.column_names.count(name)
        if count != 1:
            known = ", ".join(column[:64] for column in table.column_names[:20])
            raise Invalid(
                f"there {f'are {count} columns' if count else 'is no column'} {name!r} for "
                f"--{option}-column",
                hint=f"there are {known}",
            )


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
    ids, truths = _without_empty(ids), _without_empty(truths)
    missing = {"no id": ids, "no truth": truths, "no time": times}
    found = {
        number + 1: what
        for what, values in reversed(missing.items())  # of several, the first one counts
        for number in pc.indices_nonzero(pc.is_null(values, nan_is_null=True)).to_pylist()
    }
    for what, values, most in (("id", ids, MAX_ID), ("truth", truths, MAX_TRUTH)):
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            is_long = pc.greater(pc.fill_null(pc.utf8_length(values), 0), most)
            for number in pc.indices_nonzero(is_long).to_pylist():
                found.setdefault(number + 1, f"{what}: over {most:,} characters, the limit")
    return dict(sorted(found.items()))


def _without_empty(values: pa.Array) -> pa.Array:
    """Texts with null for the empty one: what an empty cell of a CSV is."""
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        return values
    return pc.if_else(pc.equal(values, ""), pa.scalar(None, values.type), values)


def _split(ids: Sequence[str]) -> tuple[pa.Array, pa.Array]:
    """Ids of requests, and rows; see `split_id`."""
    names, rows = zip(*map(split_id, ids), strict=True) if ids else ((), ())
    return pa.array(names, pa.string()), pa.array(rows, pa.int32())


def numbers_of(truths: pa.Array) -> pa.Array:
    """The truths that are numbers, and texts that are; see `outcome_lines.number_of`."""
    if pa.types.is_string(truths.type) or pa.types.is_large_string(truths.type):
        is_number = pc.match_substring_regex(truths, NUMBER)
        truths = pc.if_else(is_number, truths, pa.scalar(None, truths.type))
    numbers = truths.cast(pa.float64())
    return pc.if_else(pc.is_inf(numbers), pa.scalar(None, pa.float64()), numbers)
