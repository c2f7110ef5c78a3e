"""`bascule automl`: from a table to an endpoint, or exit code 1 where nothing is within limits."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import bascule


@pytest.fixture
def rows(run, tmp_path):
    draws = np.random.default_rng(0)
    distance, wind = draws.normal(size=(2, 900))
    carrier = draws.choice(["AA", "UA", None], 900)
    late = np.where(distance + wind * (carrier == "AA") > 0.3, "yes", "no")
    wind[::9] = np.nan
    columns = {"distance": distance, "wind": wind, "carrier": carrier.tolist(), "late": late}
    pq.write_table(pa.table({**columns, "day": np.arange(900) // 3}), tmp_path / "rows.parquet")


@pytest.mark.slow
@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("engine", ["flaml", "optuna"])
def test_a_table_becomes_an_endpoint_that_answers_with_the_labels_of_the_table(run, engine):
    code, out, messages = run(
        "automl", "rows.parquet", "--target", "late", "--metric", "roc_auc", "--budget", "60s",
        "--engine", engine,
        "--limit", "latency_p50 <= 50 ms", "--limit", "size <= 20 MB", "--limit", "roc_auc >= 0.6",
        "--time", "day", "--deploy", "delays", "--chart", "front.svg",
    )  # fmt: skip
    assert code == 0, messages
    assert "the newest by day" in messages
    assert "gates have passed" in out
    assert "deployed late/1 to delays" in out
    bundle = bascule.load("late/1")
    assert set(bundle.predict({"distance": [3.0, -3.0], "wind": [None, 0.0],
                               "carrier": ["AA", None]})["label"]) == {"yes", "no"}  # fmt: skip
    _, shown, _ = run("show", "late/1")
    assert "passed: latency_p50 <= 50 ms" in shown


@pytest.mark.slow
@pytest.mark.usefixtures("rows")
def test_limits_that_no_candidate_meets_end_with_exit_code_1_and_no_version(run):
    code, out, _ = run(
        "automl", "rows.parquet", "--target", "distance", "--budget", "10s",
        "--limit", "size <= 0.0001 MB", "--deploy", "far", "--json",
    )  # fmt: skip
    result = json.loads(out)
    assert code == 1
    assert (result["version"], result["deployed"]) == ("", "")
    assert result["metric"] == "rmse"
    assert all(own["problem"] for own in result["candidates"])
