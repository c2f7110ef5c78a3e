"""Scores the whole year as a table, as `bascule batch run` does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bascule.batch import job_of, run_job

if TYPE_CHECKING:
    import pandas as pd

    from bascule.bundle import Bundle

_CHUNK_ROWS = 50_000


@dataclass(frozen=True, slots=True)
class Scored:
    """A table that was scored twice.

    Attributes:
        rows: Of the table.
        written: Rows in the sink after both runs.
        seconds: Of the first run.
        is_once: Whether each row is in the sink once, and the second run changed no file.
    """

    rows: int
    written: int
    seconds: float
    is_once: bool


def score(table: pd.DataFrame, bundle: Bundle, model: str, home: Path, folder: Path) -> Scored:
    """Write the table, score it, and give the same job again."""
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    source, sink = folder / "flights.parquet", folder / "scored"
    table.to_parquet(source, index=False, row_group_size=_CHUNK_ROWS)
    job = job_of({"model": model, "from": str(source), "to": f"{sink}/", "chunk_rows": _CHUNK_ROWS})
    first = run_job(job, bundle, home)
    before = {file: file.stat().st_mtime_ns for file in sink.glob("*.parquet")}
    run_job(job, bundle, home)
    after = {file: file.stat().st_mtime_ns for file in sink.glob("*.parquet")}
    ids = ds.dataset(sink, format="parquet").to_table(columns=["prediction_id"])
    is_once = pc.count_distinct(ids["prediction_id"]).as_py() == len(table) == ids.num_rows
    return Scored(len(table), ids.num_rows, first.seconds, is_once and before == after)
