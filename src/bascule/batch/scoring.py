"""Scores Arrow record batches: answers as columns, and rows that cannot be scored apart from them.

Rows that do not fit the signature are found for whole columns. A batch in which the model's program
fails on some row all the same is halved until such rows are alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from bascule.batch.jobs import Job
from bascule.batch.ports import BROKEN
from bascule.bundle import Bundle, conform, flat
from bascule.bundle.extras import ExtraRequest, declared_extras, read_requests
from bascule.core import Columns, DType, Field, Invalid, ModelFailed

if TYPE_CHECKING:
    import pyarrow as pa

Rows = TypeVar("Rows", "pa.Table", "pa.RecordBatch")

ID, VERSION, TIME = "prediction_id", "model_version", "scored_at"
_BATCH_ROWS = 65_536
_COPIES = 6
"""How often a batch is in memory: as read, decoded, for the program, answered, joined, encoded."""


@dataclass(frozen=True, slots=True)
class Poison:
    """A row that cannot be scored: its place in the batch, and why."""

    row: int
    reason: str


class Scored(NamedTuple):
    """A batch that was scored.

    Attributes:
        rows: Of the sink.
        poison: The rows that cannot be scored.
        outputs: What the bundle answered, where it answered every row at once; else None.
    """

    rows: pa.RecordBatch
    poison: list[Poison]
    outputs: Columns | None = None


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
        parameters: Mapping[str, Any] | None = None,
        with_time: bool = False,
        ignore: Sequence[str] = (),
        names: Mapping[str, str] | None = None,
        prefix: str = "",
    ) -> None:
        """Check that the model can be asked with `schema`.

        Raises:
            Invalid: The model takes a column that is not there; or an option names none.
        """
        self.bundle = bundle
        self.version = version
        self._reads = _inputs(bundle, schema, ignore)
        self._source = schema
        self._parameters = _usual(columns) | {
            name: value for name, value in (parameters or {}).items() if value is not None
        }
        self._kept = _kept(schema, keep)
        self._extras = [ID, VERSION, *([TIME] if with_time else [])]
        self._at = datetime.now(UTC)
        requests = read_requests(bundle.extras, self._parameters, "batch")
        answers = self._answer_schema(requests)
        self._columns = _chosen(list(answers), columns)
        added = [*self._columns, *self._extras]
        strange = [name for name in names or {} if name not in added]
        if strange:
            raise Invalid(
                f"names: no answer {strange[0]!r} is written", hint=f"these are: {', '.join(added)}"
            )
        self._named = {one: (names or {}).get(one, f"{prefix}{one}") for one in added}
        self.schema = self._output_schema(schema, answers)

    @classmethod
    def of_job(cls, job: Job, bundle: Bundle, version: str, schema: pa.Schema) -> Scorer:
        """The scorer with the options of a job; raises `Invalid`."""
        return cls(
            bundle, version, schema, columns=job.columns, keep=job.keep,
            parameters={**job.parameters, "confidence": job.confidence},
            with_time=job.with_time, ignore=job.ignore, names=job.names, prefix=job.prefix,
        )  # fmt: skip

    def batch_rows(self, row_bytes: float, memory_mb: int, workers: int) -> int:
        """Rows of a batch, so that all batches of all workers stay within the memory."""
        width = row_bytes + 8 * len(self.schema)
        return max(1, min(_BATCH_ROWS, int(batch_bytes(memory_mb, workers) / width)))

    def score(
        self, batch: pa.RecordBatch, prefix: str, first_row: int,
        refuse: Callable[[int], None] = lambda _: None,
    ) -> Scored:  # fmt: skip
        """Answers of a batch, whose row 0 is row `first_row` of its chunk.

        `refuse` is called with how many rows cannot be scored, before their reasons are looked for,
        and may end the run.

        Raises:
            Invalid: An answer does not fit the schema of the sink.
        """
        import pyarrow as pa

        if tuple(batch.schema.names) == BROKEN:
            refuse(batch.num_rows)
            reasons = batch.column(1).to_pylist()
            empty = pa.RecordBatch.from_pylist([], self.schema)
            return Scored(empty, [Poison(row, reason) for row, reason in enumerate(reasons)])
        if batch.schema.equals(self._source):
            good, answers, bad = self._answered(self.inputs(batch), refuse)
        else:  # the source could not read a value: the reason is the same for all rows
            pairs = zip(batch.schema, self._source, strict=True)
            found, wanted = next(pair for pair in pairs if pair[0].type != pair[1].type)
            what = "bytes that are" if found.type == pa.binary() else "text that is"
            reason = f"column {found.name!r} holds {what} no {wanted.type}"
            refuse(batch.num_rows)
            good, answers, bad = [], [], [Poison(row, reason) for row in range(batch.num_rows)]
        rows = np.concatenate(good) if good else np.empty(0, np.int64)
        kept = batch if len(rows) == batch.num_rows else batch.take(pa.array(rows))
        arrays = [kept.column(name).cast(self.schema.field(name).type) for name in self._kept]
        flats = [flat(one, self.bundle.manifest) for one in answers]
        for name in self._columns:
            joined = [one[name] for one in flats]
            kind = self.schema.field(self._named[name]).type
            if not joined:  # no row of the batch was answered
                arrays.append(pa.array([], kind))
                continue
            values = joined[0] if len(joined) == 1 else np.concatenate(joined)
            arrays.append(pa.array(values, kind, from_pandas=True))
        arrays += self._added(rows + first_row, prefix)
        answered = pa.RecordBatch.from_arrays(arrays, schema=self.schema)
        return Scored(answered, bad, None if bad or len(answers) != 1 else answers[0])

    def inputs(self, rows: Rows) -> Rows:
        """The columns that the model reads, decimals as the doubles that it takes."""
        selected: Rows = rows.select(self._reads.names).cast(self._reads)
        return selected

    def refused(self, inputs: pa.RecordBatch) -> list[Poison]:
        """The rows that the model does not answer, given the columns that it reads."""
        return self._answered(inputs, lambda _: None)[2]

    def answers(self, rows: pa.Table) -> pa.Table:
        """Scored rows of a sample."""
        import pyarrow as pa

        batches = rows.combine_chunks().to_batches()
        return pa.Table.from_batches([self.score(one, "", 0).rows for one in batches], self.schema)

    def _answered(
        self, batch: pa.RecordBatch, refuse: Callable[[int], None]
    ) -> tuple[list[Any], list[Columns], list[Poison]]:
        """The places of the rows that were answered, their answers, and the other rows."""
        places = np.arange(batch.num_rows)
        if not batch.num_rows:
            return [], [], []
        try:
            return [places], [self._predicted(batch)], []
        except (Invalid, ModelFailed):
            bad = self._misfits(batch, refuse)
        rest = np.setdiff1d(places, [one.row for one in bad])
        good, answers, parts = [], [], [rest] if len(rest) else []
        while parts:
            part = parts.pop()
            try:
                answers.append(self._predicted(batch.take(part)))
                good.append(part)
            except (Invalid, ModelFailed) as problem:
                if len(part) > 1:
                    parts += [part[len(part) // 2 :], part[: len(part) // 2]]
                else:
                    bad.append(Poison(int(part[0]), reason_of(problem)))
                    refuse(len(bad))
        return good, answers, sorted(bad, key=lambda one: one.row)

    def _predicted(self, batch: pa.RecordBatch) -> Columns:
        return dict(self.bundle.predict(batch, parameters=self._parameters))

    def _misfits(self, batch: pa.RecordBatch, refuse: Callable[[int], None]) -> list[Poison]:
        """The rows that do not fit the signature; the reason is looked for once for each value."""
        from bascule.monitoring.drift import acceptable, read_current

        signature = self.bundle.signature
        try:
            inputs = read_current(batch, signature).inputs
        except Invalid:  # lists of another length, for one
            return []
        faults = [
            ~acceptable(inputs, replace(signature, inputs=(one,))) for one in signature.inputs
        ]
        refuse(int(np.any(faults, axis=0).sum()))
        bad: dict[int, str] = {}
        reasons: dict[str, str] = {}
        for field, fault in zip(signature.inputs, faults, strict=True):
            for row in np.flatnonzero(fault).tolist():
                value = f"{field.name} {inputs[field.name][row : row + 1].tolist()}"
                if row not in bad and value not in reasons:
                    try:
                        conform(batch.slice(row, 1), signature)
                    except Invalid as problem:
                        reasons[value] = reason_of(problem)
                if value in reasons:
                    bad.setdefault(row, reasons[value])
        return [Poison(row, reason) for row, reason in bad.items()]

    def _added(self, rows: Any, prefix: str) -> Iterator[pa.Array]:
        import pyarrow as pa
        import pyarrow.compute as pc

        yield pc.binary_join_element_wise(prefix, pa.array(rows).cast(pa.string()), "#")
        yield pa.repeat(pa.scalar(self.version), len(rows))
        if TIME in self._extras:
            yield pa.repeat(pa.scalar(self._at, pa.timestamp("us", "UTC")), len(rows))

    def _answer_schema(self, requests: Sequence[ExtraRequest]) -> dict[str, pa.DataType]:
        fields = list(self.bundle.signature.outputs)
        fields += [field for request in requests for field in request.extra.fields]
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

        added = list(self._named.values())
        taken = next((name for name in added if name in self._kept or added.count(name) > 1), None)
        if taken is not None:
            raise Invalid(
                f"the source has a column {taken!r}, which is also the name of an answer",
                hint="give the added columns a --prefix, or name those of the source with --keep",
                field=taken,
            )
        types = answers | {ID: pa.string(), VERSION: pa.string(), TIME: pa.timestamp("us", "UTC")}
        kept = [schema.field(name).remove_metadata() for name in self._kept]
        return pa.schema(kept + [pa.field(new, types[name]) for name, new in self._named.items()])


def batch_bytes(memory_mb: int, workers: int) -> int:
    """Of Arrow's columns in a batch: half of the memory is for reading ahead and for the sink."""
    return memory_mb * 1_000_000 // (2 * max(workers, 1) * _COPIES)


def reason_of(problem: Exception) -> str:
    """Why a row was refused, without its place, which is 0 where it is alone."""
    return str(problem).replace(", the first in row 0,", "").replace(" in row 0", "")


def _inputs(bundle: Bundle, schema: pa.Schema, ignore: Sequence[str]) -> pa.Schema:
    """The columns that the model reads; where it knows no names, all but those to ignore."""
    import pyarrow as pa
    import pyarrow.types as kinds

    fields = map(schema.field, _read_names(bundle, schema, ignore))
    return pa.schema(
        [one.with_type(pa.float64()) if kinds.is_decimal(one.type) else one for one in fields]
    )


def _read_names(bundle: Bundle, schema: pa.Schema, ignore: Sequence[str]) -> list[str]:
    signature = bundle.signature
    strange = [name for name in ignore if name not in schema.names]
    names = [name for name in schema.names if name not in ignore]
    if strange:
        raise Invalid(f"--ignore: the source has no column {strange[0]!r}", field="ignore")
    wanted = list(signature.columns) or [one.name for one in signature.inputs]
    is_unnamed = signature.is_matrix and not signature.columns
    width = signature.inputs[0].shape[0] if is_unnamed else len(wanted)
    if is_unnamed and width not in (-1, len(names)):
        raise Invalid(
            f"the model takes {width} columns without names, and the source has {len(names)}: "
            f"{', '.join(names[:40])}",
            hint="leave out what is none of them: --ignore COLUMN,COLUMN",
        )
    if is_unnamed:
        wanted = names
    absent = [name for name in wanted if name not in names]
    if absent:
        raise Invalid(
            f"the source has no column {absent[0]!r}, which the model takes",
            hint=f"its columns are {', '.join(names[:20])}",
            field=absent[0],
        )
    for place, name in enumerate(wanted):
        field = signature.inputs[0 if signature.is_matrix else place]
        _check_type(field, schema.field(name))
    return wanted


def _check_type(wanted: Field, found: pa.Field) -> None:
    import pyarrow.types as kinds

    decoded = found.type.value_type if kinds.is_dictionary(found.type) else found.type
    is_text = kinds.is_string(decoded) or kinds.is_large_string(decoded)
    is_number = kinds.is_boolean(decoded) or any(
        is_kind(decoded) for is_kind in (kinds.is_integer, kinds.is_floating, kinds.is_decimal)
    )
    is_date = kinds.is_timestamp(decoded) or kinds.is_date(decoded)
    is_text = is_text or (is_date and wanted.dates is not None)
    fits = is_text if wanted.dtype is DType.BYTES else is_number
    if not fits and not kinds.is_null(decoded):
        expected = "text" if wanted.dtype is DType.BYTES else "numbers"
        expected = "dates, or their texts in ISO 8601" if wanted.dates is not None else expected
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
    groups = {name: names for extra in declared_extras() for name, names in extra.outputs.items()}
    for column in columns:
        names = (groups | {"prediction": (answers[0],)}).get(column, (column,))
        meant = [name for name in answers if name in names or name.startswith(f"{column}_")]
        if not meant and column not in (ID, VERSION, TIME):
            raise Invalid(
                f"--columns: the model has no answer {column!r}",
                hint=f"its answers are {', '.join(answers)}",
            )
        chosen += meant
    return list(dict.fromkeys(chosen))


def _usual(columns: Sequence[str]) -> dict[str, Any]:
    """The parameters of the extra outputs that are listed, where the job gives none."""
    return {
        extra.name: extra.parameters[0].usual
        for extra in declared_extras()
        for name, fields in extra.outputs.items()
        if not {name, *fields}.isdisjoint(columns)
    }


def _arrow_type(dtype: Any) -> pa.DataType:
    import pyarrow as pa

    return pa.string() if dtype.kind == "O" else pa.from_numpy_dtype(dtype)
