"""The rows of a pipeline: read, ordered by time, the newest held out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bascule.bundle.features import join
from bascule.core import Invalid, MissingExtra, masked

if TYPE_CHECKING:
    import pyarrow as pa

    from bascule.training.pipelines import Pipeline

LEAST_HELD_BACK = 1_000
"""Of fewer held-back rows, a model says little: all rows are used, and verdicts name the danger."""
_MARKS = ("true", "1", "holdback")


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a run.

    Attributes:
        train: The older ones, with the target.
        newest: Those that the model is judged by.
        digest: Of all of them, in their order: equal for equal rows in other files.
        seen: How many were read, with those that have no target yet.
        held_back: With a target, and no answer was acted on; None where no column tells.
        is_clean: Whether all the others were left out.
    """

    train: pa.Table
    newest: pa.Table
    digest: str
    seen: int
    held_back: int | None = None
    is_clean: bool = False

    def __len__(self) -> int:
        return len(self.train) + len(self.newest)


def read_newest(pipeline: Pipeline) -> Rows:
    """Read the rows of a pipeline. Rows without a target are left out: nothing is known of them.

    Raises:
        Invalid: A column is not there, or too few rows are.
        NotFound: There is no such place.
        Unavailable: It is away.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from bascule.batch import read_place

    table = read_place(pipeline.data, pipeline.query)
    for column in filter(None, (pipeline.target, pipeline.time, pipeline.holdback)):
        if column not in table.column_names:
            raise Invalid(
                f"{masked(pipeline.data)} has no column {column!r}",
                hint=f"it has {', '.join(table.column_names[:20])}",
            )
    if pipeline.features:
        joined = join(pipeline.features, as_pandas(table), pipeline.time)
        table = pa.Table.from_pandas(joined, preserve_index=False)
    seen = len(table)
    table = table.filter(pc.is_valid(table[pipeline.target]))
    held_back, is_clean = None, False
    if pipeline.holdback:
        texts = pc.utf8_lower(table[pipeline.holdback].cast(pa.string()))
        clean = table.filter(pc.is_in(texts, pa.array(_MARKS)))
        held_back, is_clean = len(clean), len(clean) >= LEAST_HELD_BACK
        table = (clean if is_clean else table).drop_columns(pipeline.holdback)
    if pipeline.time:
        # The number of the row keeps equal times in the order of the file.
        numbered = table.append_column("bascule_row", pa.array(range(len(table))))
        order = [(pipeline.time, "ascending"), ("bascule_row", "ascending")]
        table = table.take(pc.sort_indices(numbered, sort_keys=order))
    share = pipeline.held_out
    held_out = round(len(table) * share) if share < 1 else int(share)
    if not 0 < held_out < len(table):
        raise Invalid(
            f"{len(table)} rows with a target are too few to hold {share:g} out",
            hint="set held_out to a share under 1, or to fewer rows",
        )
    cut = len(table) - held_out
    digest = _digest(table)
    return Rows(table.slice(0, cut), table.slice(cut), digest, seen, held_back, is_clean)


def as_pandas(table: pa.Table) -> Any:
    """Raises `MissingExtra`."""
    try:
        return table.to_pandas()
    except ImportError:
        raise MissingExtra("pandas is missing", hint="pip install pandas") from None


def _digest(table: pa.Table) -> str:
    import pyarrow as pa

    digest = hashlib.sha256()

    class Hashed:
        closed = False

        def write(self, data: bytes) -> None:
            digest.update(data)

        def flush(self) -> None: ...
        def close(self) -> None: ...

    # One batch: how the files were cut is no part of the rows.
    with pa.ipc.new_stream(Hashed(), table.schema.remove_metadata()) as stream:
        stream.write_table(table.replace_schema_metadata().combine_chunks())
    return "sha256:" + digest.hexdigest()
