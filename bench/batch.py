"""Batch scoring of Parquet beside its ideal, in one process and one run.

The ideal is the CPU time of reading the columns alone, of the fastest program alone over arrays in
memory, and of writing alone, spread over the cores without loss. `python -m bench.batch --rows
1000000`; beside it pandas with scikit-learn in chunks.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

import bascule
from bascule.batch import job_of, run_job

COLUMNS = 30
CHUNK = 131_072
NAMES = [f"f{place}" for place in range(COLUMNS)]


@contextmanager
def measured(into: dict[str, float], name: str) -> Iterator[None]:
    """CPU seconds and seconds of the block."""
    cpu_s, began_s = time.process_time(), time.perf_counter()
    yield
    into[f"{name}_cpu_s"] = round(time.process_time() - cpu_s, 3)
    into[f"{name}_s"] = round(time.perf_counter() - began_s, 3)


def table(rows: int, path: Path) -> None:
    random = np.random.default_rng(0)
    schema = pa.schema([(name, pa.float64()) for name in NAMES])
    with pq.ParquetWriter(path, schema, compression="lz4", use_dictionary=False) as writer:
        for start in range(0, rows, 100_000):
            part = random.normal(size=(min(100_000, rows - start), COLUMNS))
            columns = [np.ascontiguousarray(part[:, place]) for place in range(COLUMNS)]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))


def model() -> tuple[Any, Any]:
    import pandas as pd
    from sklearn.ensemble import GradientBoostingClassifier

    random = np.random.default_rng(1)
    X = pd.DataFrame(random.normal(size=(5_000, COLUMNS)), columns=NAMES)
    y = (X.f0 + X.f1 * X.f2 > 0).astype(int)
    return GradientBoostingClassifier(n_estimators=100, random_state=0).fit(X, y), (X, y)


def ideal(bundle: bascule.Bundle, path: Path, scored: Path, made: dict[str, float]) -> None:
    """Reading, the program and writing, each alone."""
    with measured(made, "read"):
        for batch in ds.dataset(path).to_batches(batch_size=CHUNK, batch_readahead=2):
            batch.num_rows  # noqa: B018 - the columns are decoded
    batches = [one for one in ds.dataset(path).to_batches(batch_size=CHUNK) if one.num_rows]
    arrays = [{n: one.column(n).to_numpy() for n in NAMES} for one in batches]
    name = bundle.fastest_program(65_536)
    program = bundle.program(name)
    read = {one.name: one.dtype.numpy for one in program.inputs}
    arrays = [{n: a[n].astype(read[n], copy=False) for n in read} for a in arrays]
    program.run({n: a[:10] for n, a in arrays[0].items()})
    with measured(made, "program"):
        for columns in arrays:
            for start in range(0, len(columns[NAMES[0]]), 65_536):
                program.run({n: a[start : start + 65_536] for n, a in columns.items()})
    del arrays, batches
    answered = ds.dataset(scored).to_table()
    with measured(made, "write"):
        pq.write_table(answered, scored.parent / "again.parquet", compression="lz4",
                       use_dictionary=["prediction_id", "model_version"])  # fmt: skip


def pandas_chunks(fitted: Any, path: Path, folder: Path) -> None:
    for number, batch in enumerate(pq.ParquetFile(path).iter_batches(CHUNK)):
        frame = batch.to_pandas()
        frame[["p0", "p1"]] = fitted.predict_proba(frame)
        frame.to_parquet(folder / f"{number}.parquet")


def ours(bundle: bascule.Bundle, path: Path, folder: Path) -> None:
    job = job_of({"model": "gb", "from": str(path), "to": str(folder / "scored/")})
    run_job(job, bundle, folder / "home")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--peers", action="store_true", help="pandas and scikit-learn too")
    chosen = parser.parse_args(argv)
    made: dict[str, float] = {"rows": chosen.rows, "cores": os.cpu_count() or 1}
    folder = Path(tempfile.mkdtemp(prefix="bascule-bench-batch-"))
    try:
        path = folder / "in.parquet"
        table(chosen.rows, path)
        fitted, (X, y) = model()
        bundle = bascule.pack(fitted, name="gb", train=(X, y), to=folder / "gb.bundle")
        table(1_000, folder / "small.parquet")
        ours(bundle, folder / "small.parquet", folder / "first")  # imports, and machine code
        before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_000
        with measured(made, "ours"):
            ours(bundle, path, folder)
        made["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_000
        made["before_mb"] = before_mb
        ideal(bundle, path, folder / "scored", made)
        cpu_s = made["read_cpu_s"] + made["program_cpu_s"] + made["write_cpu_s"]
        made["ideal_s"] = round(cpu_s / made["cores"], 3)
        made["of_ideal"] = round(made["ideal_s"] / made["ours_s"], 3)
        made["cpu_of_ideal"] = round(cpu_s / made["ours_cpu_s"], 3)
        if chosen.peers:
            (folder / "peer").mkdir()
            with measured(made, "pandas"):
                pandas_chunks(fitted, path, folder / "peer")
            made["times_pandas"] = round(made["pandas_s"] / made["ours_s"], 2)
    finally:
        shutil.rmtree(folder)
    print(json.dumps(made, indent=2))


if __name__ == "__main__":
    main()
