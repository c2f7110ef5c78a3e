"""Batch scoring of Parquet beside its ideal, in one process and one run.

The ideal is the CPU time of reading the columns alone, of the fastest program alone over arrays in
memory, and of writing alone, spread over the cores without loss. `python -m bench.batch --rows
1000000`; `--peers` adds pandas with scikit-learn in chunks, MLflow's pyfunc and polars with a
function of Python; `--postgresql URL` a table of mixed types beside pandas; `--ray PYTHON` the same
job on a running Ray of this machine, in an environment that has Ray and Bascule.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
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


def mlflow_pyfunc(_fitted: Any, path: Path, folder: Path) -> None:
    import mlflow.pyfunc

    model = mlflow.pyfunc.load_model(str(folder.parent / "mlflow_model"))
    for number, batch in enumerate(pq.ParquetFile(path).iter_batches(CHUNK)):
        frame = batch.to_pandas()
        frame[["p0", "p1"]] = model.predict(frame)
        frame.to_parquet(folder / f"{number}.parquet")


def save_for_mlflow(fitted: Any, folder: Path) -> None:
    import mlflow.sklearn

    mlflow.sklearn.save_model(
        fitted, str(folder / "mlflow_model"), pyfunc_predict_fn="predict_proba",
        serialization_format="cloudpickle",
    )  # fmt: skip


def polars_udf(fitted: Any, path: Path, folder: Path) -> None:
    import polars as pl

    def score(rows: Any) -> Any:
        frame = rows.struct.unnest().to_pandas()
        return pl.Series(fitted.predict_proba(frame)[:, 1])

    answer = pl.struct(NAMES).map_batches(score, return_dtype=pl.Float64).alias("p1")
    pl.scan_parquet(path).with_columns(answer).sink_parquet(folder / "scored.parquet")


PEERS = {"pandas": pandas_chunks, "mlflow": mlflow_pyfunc, "polars": polars_udf}


def mixed(rows: int) -> Any:
    """A table with texts, whole numbers and doubles, some of them missing."""
    import pandas as pd

    random = np.random.default_rng(2)
    frame = pd.DataFrame(
        {
            "id": np.arange(rows), "carrier": random.choice(["AA", "BB", "CC", "DD"], rows),
            "airport": random.choice(["EWR", "JFK", "LGA"], rows),
            "month": random.integers(1, 13, rows), "distance": random.integers(50, 3_000, rows),
            "wind": random.normal(size=rows), "gust": random.normal(size=rows),
            "tail": np.char.add("N", random.integers(0, 5_000, rows).astype(str)),
        }
    )  # fmt: skip
    frame.loc[random.random(rows) < 0.1, "wind"] = np.nan
    return frame


def mixed_model(frame: Any) -> tuple[Any, Any, Any]:
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder

    late = (frame.wind.fillna(0) > 0) ^ (frame.carrier == "AA")
    encoder = make_column_transformer(
        (OrdinalEncoder(), ["carrier", "airport"]), remainder="passthrough"
    )
    inputs = frame[["carrier", "airport", "month", "distance", "wind", "gust"]]
    return make_pipeline(encoder, HistGradientBoostingClassifier()).fit(inputs, late), inputs, late


def postgresql(url: str, rows: int, folder: Path, made: dict[str, float]) -> None:
    """A table of the database into another one; CPU of this process, without the server's."""
    import pandas as pd
    import sqlalchemy as sa

    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    fitted, inputs, late = mixed_model(mixed(20_000))
    bundle = bascule.pack(fitted, name="late", train=(inputs, late), to=folder / "late.bundle")
    for table, count in (("small", 1_000), ("flights", rows)):
        mixed(count).to_sql(table, engine, index=False, if_exists="replace", chunksize=50_000)
    for table in ("small", "flights"):
        with measured(made, "postgresql"):
            job = {"model": "late", "from": f"{url}#{table}", "to": f"{url}#{table}_scored"}
            run_job(job_of(job | {"mode": "replace"}), bundle, folder / "home")
    with measured(made, "postgresql_pandas"):
        frame = pd.read_sql("SELECT * FROM flights", engine)
        frame[["p0", "p1"]] = fitted.predict_proba(frame[list(inputs.columns)])
        frame.to_sql("flights_pandas", engine, index=False, if_exists="replace")
    made["times_pandas_postgresql"] = round(made["postgresql_pandas_s"] / made["postgresql_s"], 2)
    made["cpu_times_pandas_postgresql"] = round(
        made["postgresql_pandas_cpu_s"] / made["postgresql_cpu_s"], 2
    )


ON_RAY = """
import json, sys, time
import ray
from pathlib import Path
from bascule.batch import job_of, run_job
from bascule.bundle import load

asked = json.loads(sys.argv[1])
bundle, made = load(asked["bundle"]), {}
ray.init("local", num_cpus=asked["cores"] + 1, include_dashboard=False, log_to_driver=False)
for round in range(asked["rounds"]):
    for on in ("local", "ray"):
        for table in ("small", "in") if round == 0 else ("in",):
            sink = f"{asked['folder']}/{on}-{table}-{round}"
            job = {"model": "gb", "from": f"{asked['folder']}/{table}.parquet", "to": f"{sink}/"}
            began_s = time.perf_counter()
            job = job_of(job | {"on": on, "workers": asked["cores"]})
            run_job(job, bundle, Path(f"{sink}-home"))
            if table == "in":
                made.setdefault(on, []).append(time.perf_counter() - began_s)
print(json.dumps(made))
"""


def ray(python: str, bundle: bascule.Bundle, folder: Path, made: dict[str, float]) -> None:
    """The job in three rounds with and without Ray, in turn; seconds with a cluster that runs."""
    asked = {
        "bundle": str(bundle.path), "folder": str(folder), "rounds": 3, "cores": made["cores"],
    }  # fmt: skip
    said = subprocess.run(
        [python, "-c", ON_RAY, json.dumps(asked)], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(Path(bascule.__file__).parents[1])},
    )  # fmt: skip
    seconds = json.loads(said.stdout.splitlines()[-1])
    for on, name in (("local", "ray_without"), ("ray", "ray")):
        made[f"{name}_s"] = round(statistics.median(seconds[on]), 3)
    shares = [here / there for here, there in zip(seconds["local"], seconds["ray"], strict=True)]
    made["of_rows_per_s_without_ray"] = round(statistics.median(shares), 3)
    made["of_rows_per_s_without_ray_least"] = round(min(shares), 3)


def ours(bundle: bascule.Bundle, path: Path, folder: Path) -> None:
    job = job_of({"model": "gb", "from": str(path), "to": str(folder / "scored/")})
    run_job(job, bundle, folder / "home")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--peers", action="store_true", help="pandas, MLflow and polars too")
    parser.add_argument("--postgresql", default="", help="URL of a database to fill with tables")
    parser.add_argument(
        "--ray", default="", help="a Python that has Ray and Bascule's requirements"
    )
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
            save_for_mlflow(fitted, folder)
        for name, peer in PEERS.items() if chosen.peers else ():
            (folder / name).mkdir()
            with measured(made, name):
                peer(fitted, path, folder / name)
            made[f"times_{name}"] = round(made[f"{name}_s"] / made["ours_s"], 2)
            made[f"cpu_times_{name}"] = round(made[f"{name}_cpu_s"] / made["ours_cpu_s"], 2)
        if chosen.postgresql:
            postgresql(chosen.postgresql, chosen.rows, folder, made)
        if chosen.ray:
            ray(chosen.ray, bundle, folder, made)
    finally:
        shutil.rmtree(folder)
    print(json.dumps(made, indent=2))


if __name__ == "__main__":
    main()
