"""Tables that fit `table_bundle`, and a run of a job on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from tests.homes import jobs_in

from bascule.batch import Run, job_of, recorded_run, run_job
from bascule.bundle import Bundle, load


def flights(rows: int, *, start: int = 0) -> pa.Table:
    """Rows that the model answers, with an `id` that it does not read."""
    random = np.random.default_rng(start)
    return pa.table(
        {
            "id": np.arange(start, start + rows),
            "carrier": random.choice(["AA", "BB", "CC"], rows),
            "airport": random.choice(["EWR", "JFK"], rows),
            "month": random.integers(1, 13, rows),
            "wind": pa.array(random.normal(size=rows), from_pandas=True),
            "gust": random.normal(size=rows),
        }
    )


def with_values(table: pa.Table, column: str, values: dict[int, Any]) -> pa.Table:
    """The table with other values in some rows of a column."""
    changed = table.column(column).to_pylist()
    for row, value in values.items():
        changed[row] = value
    kind = table.schema.field(column).type
    return table.set_column(table.schema.get_field_index(column), column, pa.array(changed, kind))


@pytest.fixture(scope="session")
def bundle(table_bundle: Path) -> Bundle:
    return load(table_bundle)


@pytest.fixture
def score(bundle: Bundle, tmp_path: Path) -> Callable[..., Run]:
    """`score(source, sink, **options)`: a run of the job in this process."""

    def run(source: Any, sink: Any, **options: Any) -> Run:
        resumed = options.pop("expected_run", "")
        job = job_of({"model": "table", "from": str(source), "to": str(sink), **options})
        with recorded_run(jobs_in(tmp_path / "home"), job, by="ada") as live:
            return run_job(job, bundle, tmp_path / "home", expected_run=resumed, live=live)

    return run


def read(folder: Any) -> pa.Table:
    """All rows of a folder of Parquet, as a reader who knows nothing of runs sees them."""
    return ds.dataset(str(folder), format="parquet").to_table().sort_by("id")
