"""Scores Arrow record batches: answers as columns, and rows that cannot be scored apart from them.

A batch that the model refuses is halved until the rows at fault are alone, so that one bad row
costs about log2(rows) further calls and no Python object per row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from bascule.batch.jobs import Job
from bascule.bundle import Bundle, flat
from bascule.core import Columns, DType, Field, Invalid, ModelFailed

if TYPE_CHECKING:
    import pyarrow as pa

Rows = TypeVar("Rows", "pa.Table", "pa.RecordBatch")

ID, VERSION, TIME = "prediction_id", "model_version", "scored_at"
INTERVAL = "interval"
_DEFAULT_CONFIDENCE = 0.9
_BATCH_ROWS = 65_536
_COPIES = 6
"""How often a batch is in memory: as read, decoded, for the program, answered, joined, encoded."""


@dataclass(frozen=True, slots=True)
class Poison:
    """A row that cannot be scored: its place in the batch, and why."""

    row: int
    reason: str


class Scorer:
    """A bundle as a function of record batches."""

    def __init__(
        self,
        bundle: Bundle,
        version: str,
        schema: pa.Schema,
        *,
        columns: Sequence[str] = (),
        keep: Sequence[str] | None = None,
        confidence: float | None = None,
        with_time: bool = False,
    ) -> None:
        """Check that the model can be asked with `schema`.

        Raises:
            Invalid: The model takes a column that is not there; or an option names none.
        """
        self.bundle = bundle
        self.version = version
        self._reads = _inputs(bundle, schema)
        self._source = schema
        wants_sets = bool({INTERVAL, "lower", "upper", "prediction_set"} & set(columns))
        self._confidence = confidence or (_DEFAULT_CONFIDENCE if wants_sets else None)
        self._kept = _kept(schema, keep)
        self._extras = [ID, VERSION, *([TIME] if with_time else [])]
        self._at = datetime.now(UTC)
        answers = self._answer_schema()
        self._columns = _chosen(list(answers), columns)
        self.schema = self._output_schema(schema, answers)

    @classmethod
    def of_job(cls, job: Job, bundle: Bundle, version: str, schema: pa.Schema) -> Scorer:
        """The scorer with the options of a job; raises `Invalid`."""
        return cls(
            bundle, version, schema, columns=job.columns, keep=job.keep,
            confidence=job.confidence, with_time=job.with_time,
        )  # fmt: skip

    def batch_rows(self, schema: pa.Schema, memory_mb: int, workers: int) -> int:
        """Rows of a batch, so that all batches of all workers stay within the memory."""
        width = sum(_width(field) for field in schema) + 8 * len(self.schema)
        within = memory_mb * 1_000_000 // (2 * max(workers, 1) * _COPIES * max(width, 1))
        return max(256, min(_BATCH_ROWS, within))

    def score(
        self, batch: pa.RecordBatch, prefix: str, first_row: int
    ) -> tuple[pa.RecordBatch, list[Poison]]:
        """Answers of a batch, whose row 0 is row `first_row` of its chunk.

        Raises:
            Invalid: An answer does not fit the schema of the sink.
        """
        import pyarrow as pa

        if batch.schema.equals(self._source):
            good, answers, bad = self._answered(self.inputs(batch), 0)
        else:  # the source could not read a value: the reason is the same for all rows
            pairs = zip(batch.schema, self._source, strict=True)
            found, wanted = next(pair for pair in pairs if pair[0].type != pair[1].type)
            what = "bytes that are" if found.type == pa.binary() else "text that is"
            reason = f"column {found.name!r} holds {what} no {wanted.type}"
            good, answers, bad = [], [], [Poison(row, reason) for row in range(batch.num_rows)]
        rows = np.concatenate(good) if good else np.empty(0, np.int64)
        kept = batch if len(rows) == batch.num_rows else batch.take(pa.array(rows))
        arrays = [kept.column(name).cast(self.schema.field(name).type) for name in self._kept]
        for name in self._columns:
            joined = [one[name] for one in answers]
            kind = self.schema.field(name).type
            if not joined:  # no row of the batch was answered
                arrays.append(pa.array([], kind))
                continue
            values = joined[0] if len(joined) == 1 else np.concatenate(joined)
            arrays.append(pa.array(values, kind, from_pandas=True))
        arrays += self._added(rows + first_row, prefix)
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema), bad

    def inputs(self, rows: Rows) -> Rows:
        """The columns that the model reads, decimals as the doubles that it takes."""
        selected: Rows = rows.select(self._reads.names).cast(self._reads)
        return selected

    def refused(self, inputs: pa.RecordBatch) -> list[Poison]:
        """The rows that the model does not answer, given the columns that it reads."""
        return self._answered(inputs, 0)[2]

    def answers(self, rows: pa.Table) -> pa.Table:
        """Scored rows of a sample."""
        import pyarrow as pa

        batches = rows.combine_chunks().to_batches()
        return pa.Table.from_batches([self.score(one, "", 0)[0] for one in batches], self.schema)

    def _answered(
        self, batch: pa.RecordBatch, start: int
    ) -> tuple[list[Any], list[Columns], list[Poison]]:
        """The places of the rows that were answered, their answers, and the other rows."""
        if not batch.num_rows:
            return [], [], []
        try:
            answer = self.bundle.predict(batch, confidence=self._confidence)
        except (Invalid, ModelFailed) as problem:
            if batch.num_rows == 1:
                return [], [], [Poison(start, reason_of(problem))]
        else:
            places = np.arange(start, start + batch.num_rows)
            return [places], [flat(answer, self.bundle.manifest)], []
        half = batch.num_rows // 2
        first = self._answered(batch.slice(0, half), start)
        second = self._answered(batch.slice(half), start + half)
        return first[0] + second[0], first[1] + second[1], first[2] + second[2]

    def _added(self, rows: Any, prefix: str) -> Iterator[pa.Array]:
        import pyarrow as pa
        import pyarrow.compute as pc

        yield pc.binary_join_element_wise(prefix, pa.array(rows).cast(pa.string()), "#")
        yield pa.repeat(pa.scalar(self.version), len(rows))
        if TIME in self._extras:
            yield pa.repeat(pa.scalar(self._at, pa.timestamp("us", "UTC")), len(rows))

    def _answer_schema(self) -> dict[str, pa.DataType]:
        fields = list(self.bundle.signature.outputs)
        if self._confidence is not None:
            calibration = self.bundle.calibration
            if calibration is None:
                raise Invalid(
                    f"confidence: {self.bundle.name} has no calibration",
                    hint="pack the model with test=(X, y) or calibration=(X, y)",
                )
            fields += calibration.fields(fields)
        one_row = {
            field.name: np.zeros(
                (1, *(max(length, 1) for length in field.shape)), field.dtype.numpy
            )
            for field in fields
        }
        named = flat(one_row, self.bundle.manifest)
        return {name: _arrow_type(values.dtype) for name, values in named.items()}

    def _output_schema(self, schema: pa.Schema, answers: dict[str, pa.DataType]) -> pa.Schema:
        import pyarrow as pa

        added = [*self._columns, *self._extras]
        taken = next((name for name in added if name in self._kept), None)
        if taken is not None:
            raise Invalid(
                f"the source has a column {taken!r}, which is also the name of an answer",
                hint="name the columns of the source to write with --keep",
                field=taken,
            )
        types = answers | {ID: pa.string(), VERSION: pa.string(), TIME: pa.timestamp("us", "UTC")}
        kept = [schema.field(name).remove_metadata() for name in self._kept]
        return pa.schema(kept + [pa.field(name, types[name]) for name in added])


def reason_of(problem: Exception) -> str:
    """Why a row was refused, without its place, which is 0 where it is alone."""
    return str(problem).replace(", the first in row 0,", "").replace(" in row 0", "")


def _inputs(bundle: Bundle, schema: pa.Schema) -> pa.Schema:
    """The columns that the model reads, by name; all, where it knows no names."""
    import pyarrow as pa
    import pyarrow.types as kinds

    fields = map(schema.field, _read_names(bundle, schema))
    return pa.schema(
        [one.with_type(pa.float64()) if kinds.is_decimal(one.type) else one for one in fields]
    )


def _read_names(bundle: Bundle, schema: pa.Schema) -> list[str]:
    signature = bundle.signature
    if signature.is_matrix and not signature.columns:
        return list(schema.names)
    wanted = signature.columns or [one.name for one in signature.inputs]
    absent = [name for name in wanted if name not in schema.names]
    if absent:
        raise Invalid(
            f"the source has no column {absent[0]!r}, which the model takes",
            hint=f"its columns are {', '.join(schema.names[:20])}",
            field=absent[0],
        )
    for field in signature.inputs:
        if not signature.is_matrix:
            _check_type(field, schema.field(field.name))
    return list(wanted)


def _check_type(wanted: Field, found: pa.Field) -> None:
    import pyarrow.types as kinds

    decoded = found.type.value_type if kinds.is_dictionary(found.type) else found.type
    is_text = kinds.is_string(decoded) or kinds.is_large_string(decoded)
    is_number = kinds.is_boolean(decoded) or any(
        is_kind(decoded) for is_kind in (kinds.is_integer, kinds.is_floating, kinds.is_decimal)
    )
    fits = is_text if wanted.dtype is DType.BYTES else is_number
    if not fits and not kinds.is_null(decoded):
        expected = "text" if wanted.dtype is DType.BYTES else "numbers"
        raise Invalid(
            f"column {found.name!r} of the source is {found.type}, and the model takes {expected}",
            hint="convert the column in the source, or with --query",
            field=found.name,
        )


def _kept(schema: pa.Schema, keep: Sequence[str] | None) -> list[str]:
    absent = [name for name in keep or () if name not in schema.names]
    if absent:
        raise Invalid(
            f"--keep: the source has no column {absent[0]!r}",
            hint=f"its columns are {', '.join(schema.names[:20])}",
        )
    return list(schema.names if keep is None else keep)


def _chosen(answers: Sequence[str], columns: Sequence[str]) -> list[str]:
    """The answers that are meant: `prediction` is the first, `probabilities` one per class."""
    if not columns:
        return list(answers)
    chosen: list[str] = []
    for wanted in columns:
        meant = {INTERVAL: ("lower", "upper"), "prediction": (answers[0],)}.get(wanted, (wanted,))
        found = [name for name in answers if name in meant or name.startswith(f"{wanted}_")]
        if not found and wanted not in (ID, VERSION, TIME):
            raise Invalid(
                f"--columns: the model has no answer {wanted!r}",
                hint=f"its answers are {', '.join(answers)}",
            )
        chosen += found
    return list(dict.fromkeys(chosen))


def _arrow_type(dtype: Any) -> pa.DataType:
    import pyarrow as pa

    return pa.string() if dtype.kind == "O" else pa.from_numpy_dtype(dtype)


def _width(field: pa.Field) -> int:
    """About how many bytes a value takes; texts are guessed."""
    try:
        return int(field.type.bit_width // 8) or 1
    except ValueError:
        return 64
