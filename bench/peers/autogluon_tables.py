"""AutoGluon, medium quality: `python autogluon_tables.py TRAIN TEST METRIC BUDGET_S`.

Prints the metric on the rows of TEST, the milliseconds of one row alone and of a row among all of
them, and the size on disk, as one line of JSON.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from autogluon.tabular import TabularPredictor

NAMES = {"rmse": "root_mean_squared_error"}
REPEATS = 20


def main(train: str, test: str, metric: str, budget_s: str) -> None:
    rows, truth = pd.read_parquet(train), pd.read_parquet(test)
    with tempfile.TemporaryDirectory() as folder:
        fitting = TabularPredictor("target", eval_metric=NAMES.get(metric, metric), path=folder)
        predictor = fitting.fit(rows, time_limit=float(budget_s), presets="medium_quality")
        value = abs(predictor.evaluate(truth)[NAMES.get(metric, metric)])
        predictor.persist()
        inputs = truth.drop(columns="target")
        answer = predictor.predict if predictor.problem_type == "regression" else (
            predictor.predict_proba
        )  # fmt: skip

        def ms(table: pd.DataFrame) -> float:
            times = []
            for _ in range(REPEATS):
                began_s = time.perf_counter()
                answer(table)
                times.append(time.perf_counter() - began_s)
            return statistics.median(times) * 1e3

        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        said = {
            "value": value, "one_ms": ms(inputs[:1]), "row_ms": ms(inputs) / len(inputs),
            "size_mb": size / 1e6, "models": len(predictor.model_names()),
        }  # fmt: skip
    print(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
