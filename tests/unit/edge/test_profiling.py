"""What a device profiles of its requests, and which rows it draws."""

from __future__ import annotations

import json
import random
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from bascule.bundle import load
from bascule.edge import Device, Offer
from bascule.edge.device import Opened
from bascule.edge.profiling import Traffic
from bascule.stats import WindowProfile

TYPES = {"O": "BYTES", "f": "FP64", "i": "INT64"}


@pytest.fixture(scope="module")
def planes(packed):
    """A model of a text and a number, which knows its baseline."""
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    encode = make_column_transformer((OneHotEncoder(), ["carrier"]), remainder="passthrough")
    rows = frame(300)
    model = make_pipeline(encode, LogisticRegression()).fit(rows, rows["hour"] > 12)
    return packed("late", model, rows, (rows[:100], rows["hour"][:100] > 12))


def frame(count):
    draw = np.random.default_rng(0)
    return pd.DataFrame(
        {"carrier": draw.choice(["AA", "UA"], count), "hour": draw.uniform(0, 24, count)}
    )


def device_of(path, home, **options):
    """A device that serves a bundle, as its agent opens it."""
    device, bundle = Device(home), load(path)
    device.is_agents = True
    opened = Opened(Offer("late/1", bundle.digest), path)
    opened.traffic = Traffic(bundle, options.get("sample_rows", 0), options.get("private", ()))
    device.serve(opened)
    return device


def ask(device, rows):
    inputs = [
        {
            "name": name, "datatype": TYPES[values.dtype.kind], "shape": [len(values)],
            "data": values.tolist(),
        }
        for name, values in rows.items()
    ]  # fmt: skip
    device.answer(json.dumps({"inputs": inputs}).encode())


def test_a_device_profiles_what_the_baseline_has_whatever_the_size_of_requests(planes, tmp_path):
    device, rows = device_of(planes, tmp_path), frame(300)
    for start in range(0, 300, 2):
        ask(device, rows[start : start + 2])
    taken = device.taken()
    window, baseline = WindowProfile.from_json(taken["profile"]), load(planes).baseline
    assert (window.rows, window.profiled_rows, taken["counts"]["requests"]) == (300, 300, 150)
    assert window.inputs.columns.keys() == baseline.inputs.columns.keys()
    assert window.outputs.columns.keys() == baseline.answers.columns.keys()
    carrier, hour = (window.inputs.columns[name] for name in ("carrier", "hour"))
    assert carrier.frequent.counts == dict(rows["carrier"].value_counts())
    assert hour.moments.least == rows["hour"].min()
    assert hour.quantiles.quantile(0.5) == pytest.approx(np.median(rows["hour"]), abs=0.2)
    assert sum(column.rows for column in window.outputs.columns.values()) == 900
    assert "sample" not in taken
    assert device.taken() == {"counts": {"requests": 0, "errors": 0}}


def test_of_a_large_request_a_uniform_part_is_profiled_and_all_rows_are_counted(planes, tmp_path):
    device, rows = device_of(planes, tmp_path), frame(3_000)
    ask(device, rows)
    window = WindowProfile.from_json(device.taken()["profile"])
    assert (window.rows, window.profiled_rows) == (3_000, 1_024)
    hours = window.inputs.columns["hour"]
    assert hours.rows == 1_024
    assert hours.moments.mean == pytest.approx(rows["hour"].mean(), abs=1.0)


def test_private_fields_leave_the_device_in_no_report(planes, tmp_path):
    device = device_of(planes, tmp_path, sample_rows=5, private=["carrier"])
    ask(device, frame(40))
    taken = device.taken()
    assert "carrier" not in WindowProfile.from_json(taken["profile"]).inputs.columns
    assert [sorted(inputs) for inputs, _ in taken["sample"]["rows"]] == [["hour"]] * 5
    assert '"AA"' not in json.dumps(taken["sample"], default=float)


def test_every_row_is_as_likely_to_be_drawn_wherever_it_came(planes, tmp_path, monkeypatch):
    """600 samples of 5 of 20 rows: each row 150 times, with a deviation of 11."""
    monkeypatch.setattr(random, "random", random.Random(0).random)
    device, rows = device_of(planes, tmp_path, sample_rows=5), frame(20)
    drawn, shares = Counter(), set()
    for _ in range(600):
        for start, end in ((0, 1), (1, 4), (4, 20)):
            ask(device, rows[start:end])
        sample = device.taken()["sample"]
        shares.add(sample["share"])
        drawn.update(inputs["hour"] for inputs, _ in sample["rows"])
    assert shares == {0.25}
    assert set(drawn) == set(rows["hour"])
    assert all(abs(count - 150) < 5 * 11 for count in drawn.values())


def test_a_sampled_row_has_the_answer_that_was_given(planes, tmp_path):
    device, rows = device_of(planes, tmp_path, sample_rows=100), frame(30)
    ask(device, rows)
    sample = device.taken()["sample"]
    assert sample["share"] == 1.0
    inputs = pd.DataFrame([inputs for inputs, _ in sample["rows"]])
    labels = [outputs["label"] for _, outputs in sample["rows"]]
    assert sorted(inputs["hour"]) == sorted(rows["hour"])
    assert labels == load(planes).predict(inputs)["label"].tolist()
