"""`bascule performance`: exit codes, the ledger and tables, and what is printed."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from sklearn.linear_model import LogisticRegression

import bascule
from bascule.monitoring import Outcomes
from bascule.monitoring.ledger import SpoolWriter
from bascule.serving.calls import Answer, AnsweredBy, Call
from bascule.serving.telemetry import LedgerRecorder, MetricLabels


def rows(length=400, seed=0, wrong=0.1):
    random = np.random.default_rng(seed)
    X = {"a": random.normal(size=length), "b": random.normal(size=length)}
    return X, ((X["a"] > 0) ^ (random.random(length) < wrong)).astype(int)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    X, y = rows(3_000, seed=1)
    matrix = np.column_stack(list(X.values()))
    model = LogisticRegression().fit(matrix, y)
    made = bascule.pack(
        model, name="sign", train=(X, y), test=rows(2_000, seed=2),
        to=tmp_path_factory.mktemp("packed") / "sign.bundle", measure=False,
    )  # fmt: skip
    return made.path


def table(**options):
    X, y = rows(**options)
    return pa.table({**X, "y": y})


def test_no_alarm_is_exit_0_and_an_alarm_exit_1(run, packed, tmp_path):
    pa.csv.write_csv(table(), tmp_path / "good.csv")
    pa.parquet.write_table(table(wrong=0.3), tmp_path / "bad.parquet")
    code, out, _ = run("performance", packed, "--current=good.csv", "--truth-column=y")
    assert code == 0
    assert out.startswith("sign: no alarm; 400 predictions, 400 truths (100%), budget 4 false")
    code, out, _ = run("performance", packed, "--current=bad.parquet", "--truth-column=y")
    assert code == 1
    lines = out.split("\n\n")[1].splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].split()[:2] == ["metric", "rows"]
    assert "points worse than the" in out


def test_json_has_every_metric_of_every_window(run, packed, tmp_path):
    pa.parquet.write_table(table(wrong=0.3), tmp_path / "bad.parquet")
    code, out, _ = run(
        "performance", packed, "--current=bad.parquet", "--truth-column=y", "--metric=accuracy",
        "--metric=ece", "--json",
    )  # fmt: skip
    told = json.loads(out)
    assert (code, told["alarm"]) == (1, True)
    assert [one["metric"] for one in told["windows"][0]["metrics"]] == ["accuracy", "ece"]
    assert told["findings"][0]["is_alarm"]


def test_an_effect_that_is_allowed_is_no_alarm(run, packed, tmp_path):
    pa.parquet.write_table(table(wrong=0.3), tmp_path / "bad.parquet")
    options = ("--current=bad.parquet", "--truth-column=y", "--metric=accuracy")
    assert run("performance", packed, *options, "--effect=accuracy=0.1")[0] == 1
    assert run("performance", packed, *options, "--effect=accuracy=0.5")[0] == 0


def recorded(home, bundle, version, wrong=0.1):
    X, y = rows(300, wrong=wrong)
    recorder = LedgerRecorder(SpoolWriter(home))
    matrix = np.column_stack(list(X.values()))
    answer = dict(bundle.predict(matrix))
    label, by = MetricLabels(bundle.name, version), AnsweredBy(bundle.name, version, "onnx")
    for row in range(300):
        context = SimpleNamespace(
            prediction_id=f"{version}-{row}", caller="", protocol="oip", trace=(b"", b""),
            started_ns=0,
        )  # fmt: skip
        asked = {bundle.signature.inputs[0].name: matrix[row : row + 1]}
        said = {name: values[row : row + 1] for name, values in answer.items()}
        recorder.add(context, Call(asked, 1), Answer(said, by), label, 200, 1)
    recorder.close()
    ids = [f"{version}-{row}" for row in range(300)]
    Outcomes(home).add(bundle.name, pa.table({"id": ids, "truth": y}))


def test_the_ledger_is_read_for_all_versions_or_for_the_one_that_is_named(
    run, packed, tmp_path, monkeypatch
):
    bundle = bascule.load(packed)
    assert run("push", packed)[0] == 0
    recorded(tmp_path / "home", bundle, "1")
    recorded(tmp_path / "home", bundle, "7")
    code, out, _ = run("performance", "sign", "--by=all", "--slice=a")
    assert code == 0, out
    assert "300 predictions, 300 truths" in out
    assert "v1 a=<= -0.8" in out
    code, out, _ = run("performance", "sign/1", "--by=hour")
    assert code == 0, out
    report = bascule.performance("sign", by="all")
    assert [one.version for one in report.windows] == ["1"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--current=no.csv", "--truth-column=y"), "no.csv"),
        (("--current=good.csv",), "which of its columns holds the truth"),
        (("--truth-column=y",), "--truth-column names a column of a table"),
        (("--current=good.csv", "--truth-column=y", "--effect=accuracy"), "is not METRIC=NUMBER"),
        (("--current=good.csv", "--truth-column=y", "--effect=acc=1"), "no metric 'acc'"),
        (("--current=good.csv", "--truth-column=y", "--by=month"), "'month' is no window"),
        (("--since=soon",), "--since 'soon' is not a length of time"),
        ((), "the ledger has no answers of 'sign'"),
    ],
)
def test_a_mistake_is_named(run, packed, tmp_path, monkeypatch, arguments, problem):
    pa.csv.write_csv(table(), tmp_path / "good.csv")
    code, out, err = run("performance", packed, *arguments)
    assert code == (3 if "no.csv" in problem or "no answers" in problem else 2), out
    assert problem in " ".join(err.split())
    assert "Traceback" not in err
