"""`bascule drift`: exit codes, forms of tables, standard input, and what is printed."""

from __future__ import annotations

import io
import json
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from sklearn.linear_model import LinearRegression

import bascule


def rows(shift=0.0, length=400, seed=0):
    random = np.random.default_rng(seed)
    return {"a": random.normal(shift, 1, length), "b": random.normal(size=length)}


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    X = rows(length=3_000, seed=1)
    matrix = np.column_stack(list(X.values()))
    model = LinearRegression().fit(matrix, matrix @ [2.0, 1.0])
    made = bascule.pack(
        model, name="line", train=X, test=(rows(length=500, seed=2), np.zeros(500)),
        to=tmp_path_factory.mktemp("packed") / "line.bundle", measure=False,
    )  # fmt: skip
    return made.path


def test_no_alarm_is_exit_0_and_an_alarm_exit_1(run, packed, tmp_path):
    pa.csv.write_csv(pa.table(rows()), tmp_path / "same.csv")
    pa.parquet.write_table(pa.table(rows(1)), tmp_path / "moved.parquet")
    code, out, _ = run("drift", packed, "--current=same.csv")
    assert code == 0
    assert out.startswith("line: no alarm; 400 rows, 3 columns, budget 4 false alarms a year")
    code, out, _ = run("drift", packed, "--current=moved.parquet")
    assert code == 1
    table = out.split("\n\n")[1].splitlines()
    assert all(len(line) <= 80 for line in table)
    assert table[0].split() == ["column", "change", "p", "or", "e", "then", "now", "alarm"]
    assert "a: " in out
    assert "of the alarm]" in out


def test_json_has_every_test_of_every_column(run, packed, tmp_path):
    (tmp_path / "moved.jsonl").write_text(
        "".join(
            json.dumps(dict(zip("ab", row, strict=True))) + "\n"
            for row in zip(*rows(1).values(), strict=True)
        )
    )
    code, out, _ = run("drift", packed, "--current=moved.jsonl", "--json", "--budget=1")
    told = json.loads(out)
    assert (code, told["alarm"], told["budget"]) == (1, True, 1)
    first = told["windows"][0]["columns"][0]
    assert first["column"] == "a"
    assert {test["name"] for test in first["tests"]} == {"missing", "location", "range"}


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_standard_input_is_read_in_any_form(run, packed, monkeypatch, form):
    table, written = pa.table(rows(1)), io.BytesIO()
    if form == "csv":
        pa.csv.write_csv(table, written)
    elif form == "parquet":
        pa.parquet.write_table(table, written)
    else:
        written.write("".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode())
    written.seek(0)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=written))
    code, out, _ = run("drift", packed, "--current=-")
    assert (code, "400 rows" in out) == (1, True)


def test_days_are_windows(run, packed, tmp_path):
    days = [f"2026-05-{1 + place // 200:02d}" for place in range(400)]
    pa.csv.write_csv(pa.table({**rows(), "day": days}), tmp_path / "days.csv")
    code, out, _ = run("drift", packed, "--current=days.csv", "--time-column=day")
    assert (code, "in 2 windows" in out) == (0, True)


def test_an_effect_of_a_column_can_be_set(run, packed, tmp_path):
    pa.csv.write_csv(pa.table(rows(1)), tmp_path / "moved.csv")
    code, _, _ = run("drift", packed, "--current=moved.csv", "--no-score", "--effect=a=2")
    assert code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--current=absent.csv"], "absent.csv"),
        (["--current=rows.csv", "--budget=0"], "budget: 0 alarms a year is not > 0"),
        (["--current=rows.csv", "--effect=a"], "--effect 'a' is not COLUMN=NUMBER"),
        (["--current=rows.csv", "--effect=z=1"], "the baseline has no column 'z'"),
        (["--current=rows.csv", "--time-column=t"], "the table has no column 't'"),
        (["--current=other.csv"], "the table has no column 'a'"),
    ],
)
def test_bad_input_is_exit_2_or_3_with_one_sentence(run, packed, tmp_path, words, said):
    pa.csv.write_csv(pa.table(rows()), tmp_path / "rows.csv")
    pa.csv.write_csv(pa.table({"c": [1.0]}), tmp_path / "other.csv")
    code, out, messages = run("drift", packed, *words)
    assert code == (3 if "absent" in words[0] else 2)
    assert out == ""
    assert said in " ".join(messages.split())


def test_empty_standard_input_is_refused(run, packed, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"")))
    code, _, messages = run("drift", packed, "--current=-")
    assert (code, "standard input is empty" in messages) == (2, True)
