"""What a table meets after its first night: other files of text, fewer columns, broken lines."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from tests.pace import LOOP_US, loop_us
from tests.tiers import first_of

from bascule.batch import job_of, planned, run_job
from bascule.bundle import Bundle, load
from bascule.core import Invalid, Refused

from .conftest import flights, read, with_values

WIDE = 400


def wide(rows: int) -> pa.Table:
    table = flights(rows)
    for number in range(WIDE):
        table = table.append_column(f"c{number}", table.column("wind"))
    return table


def quarantined(folder: Path) -> list[dict[str, Any]]:
    files = sorted((folder / "_bascule").rglob("quarantine-*.parquet"))
    return pa.concat_tables(map(pq.read_table, files)).to_pylist()


def test_only_the_columns_that_a_job_needs_are_read(bundle, tmp_path):
    pq.write_table(wide(500), tmp_path / "in.parquet")
    fields = {"model": "table", "from": str(tmp_path / "in.parquet"), "to": str(tmp_path / "s/")}
    options = {"keep": ["id"], "where": "C7 < 100 OR c7 IS NULL", "warnings": ["missing(c9) <= 1"]}
    with planned(job_of(fields | options), bundle) as plan:
        assert plan.source.schema.names == [
            "id", "carrier", "airport", "month", "wind", "gust", "c7", "c9"
        ]  # fmt: skip
    with planned(job_of(fields), bundle) as plan:
        assert len(plan.source.schema) == WIDE + 6


@pytest.mark.parametrize(
    "kind", first_of(["parquet", "csv", "jsonl", "duckdb", "sqlite", "delta"], 3)
)
def test_a_projected_run_writes_the_rows_of_a_whole_one(score, tmp_path, kind):
    rows = flights(300).append_column("unread", pa.array(["x"] * 300))
    source = str(tmp_path / f"in.{kind}")
    if kind == "parquet":
        pq.write_table(rows, source)
    elif kind == "csv":
        pacsv.write_csv(rows, source)
    elif kind == "jsonl":
        Path(source).write_text("\n".join(map(json.dumps, rows.to_pylist())))
    elif kind == "delta":
        import deltalake

        deltalake.write_deltalake(source, rows)
        source = f"delta://{source}"
    else:
        import duckdb

        with duckdb.connect() as connection:
            if kind == "sqlite":
                import sqlite3

                with closing(sqlite3.connect(source)) as file:
                    rows.to_pandas().to_sql("t", file, index=False)
            else:
                connection.execute(f"ATTACH '{source}' AS d")
                connection.register("found", rows)
                connection.execute("CREATE TABLE d.t AS SELECT * FROM found")
        source = f"{kind}:///{source}#t"
    score(source, tmp_path / "all")
    score(source, tmp_path / "few", keep=["id"])
    few = read(tmp_path / "few").drop_columns(["prediction_id"])
    assert few.equals(read(tmp_path / "all").select(few.schema.names))


@pytest.mark.parametrize(
    "where",
    [
        "gust > (SELECT avg(gust) FROM rows_to_score)", "row_number() OVER () < 3", "random() < 1",
        "gust > 0 LIMIT 3", "gust > 0) OR (month > 3", "gust > 0 ORDER BY id", "gust = ?",
        "gust > 0; SELECT 1",
    ],
)  # fmt: skip
def test_a_condition_that_is_not_of_one_row_is_refused(score, tmp_path, where):
    """Of a file, each batch would answer it by its own rows."""
    pq.write_table(flights(10), tmp_path / "in.parquet")
    with pytest.raises(Invalid, match="--where"):
        score(tmp_path / "in.parquet", tmp_path / "s", where=where)


def test_planning_many_text_files_reads_their_first_lines_alone(bundle, tmp_path):
    for number in range(1_000):
        pacsv.write_csv(flights(1), tmp_path / f"f{number:04}.csv")
    job = job_of({"model": "table", "from": f"{tmp_path}/", "to": str(tmp_path / "s/")})
    began_s = time.process_time()
    with planned(job, bundle) as plan:
        assert len(plan.chunks) == 1
    # 1.4 s where each is opened by Arrow
    assert time.process_time() - began_s < 0.7 * max(1.0, loop_us() / LOOP_US)


def test_a_csv_of_another_country_is_read_with_its_options(score, tmp_path):
    lines = ["id;carrier;airport;month;wind;gust;ort", "001;AA;JFK;3;1,5;0,5;Köln"]
    lines += ["23456789012345678901234;BB;EWR;4;-;0,25;-"]
    (tmp_path / "in.csv").write_bytes("\n".join(lines).encode("cp1252"))
    options = {"delimiter": ";", "decimal_point": ",", "encoding": "cp1252", "nulls": ["-"]}
    score(tmp_path / "in.csv", tmp_path / "s", **options)
    found = read(tmp_path / "s").to_pydict()
    assert found["id"] == ["001", "23456789012345678901234"]
    assert found["wind"] == [1.5, None]
    assert found["ort"] == ["Köln", None]


@pytest.mark.parametrize(
    ("kind", "value"),
    [("text", "1"), ("int64", 1), ("double", 1.0), ("decimal(23, 2)", "1.00")],
)
def test_a_column_of_a_csv_has_the_type_that_the_job_names(score, tmp_path, kind, value):
    pacsv.write_csv(flights(2, start=1), tmp_path / "in.csv")
    score(tmp_path / "in.csv", tmp_path / "s", types={"id": kind})
    (first, _) = ds.dataset(tmp_path / "s").to_table().column("id").to_pylist()
    assert (str(first) if kind.startswith("decimal") else first) == value


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"types": {"id": "number"}}, "'number'"), ({"encoding": "runes"}, "'runes'"),
        ({"delimiter": ";;"}, "one character"),
    ],
)  # fmt: skip
def test_an_option_of_csv_that_does_not_exist_is_refused(score, tmp_path, options, said):
    pacsv.write_csv(flights(2), tmp_path / "in.csv")
    with pytest.raises(Invalid, match=said):
        score(tmp_path / "in.csv", tmp_path / "s", **options)


def test_lines_of_a_csv_that_are_no_rows_are_quarantined(score, tmp_path):
    text = Path(tmp_path / "in.csv")
    pacsv.write_csv(flights(200), text)
    lines = text.read_text().splitlines()
    lines[5:5], lines[90:90] = ["7,AA"], ["a,b,c,d,e,f,g,h"]
    text.write_text("\n".join(lines))
    made = score(text, tmp_path / "s", max_quarantined=0.05)
    assert (made.rows, made.quarantined) == (200, 2)
    found = quarantined(tmp_path / "s")
    assert [json.loads(one["content"])["bascule_line"] for one in found] == [
        "7,AA", "a,b,c,d,e,f,g,h"
    ]  # fmt: skip
    assert found[0]["reason"] == "the line has 2 values, and not 6"
    assert read(tmp_path / "s").column("id").to_pylist() == list(range(200))


def test_lines_of_json_that_are_no_rows_are_quarantined(score, tmp_path):
    rows = flights(200).to_pylist()
    lines = [*map(json.dumps, rows)]
    lines[100:100] = ['{"id": 1, "carrier"', json.dumps(rows[0] | {"gust": "strong"}), "[1]"]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    made = score(tmp_path / "in.jsonl", tmp_path / "s", max_quarantined=0.05)
    assert (made.rows, made.quarantined) == (200, 3)
    assert [one["reason"][:22] for one in quarantined(tmp_path / "s")] == [
        "the line is no row: JS"
    ] * 3
    assert read(tmp_path / "s").column("id").to_pylist() == list(range(200))


def test_too_many_broken_lines_end_the_run(score, tmp_path):
    pacsv.write_csv(flights(20), tmp_path / "in.csv")
    with (tmp_path / "in.csv").open("a") as file:
        file.write("1,2\n" * 10)
    with pytest.raises(Refused, match="cannot be scored"):
        score(tmp_path / "in.csv", tmp_path / "s")


def test_texts_of_several_lines_are_values(score, tmp_path):
    table = flights(50).append_column("note", pa.array(['two\nlines, "and" quotes'] * 50))
    pacsv.write_csv(table, tmp_path / "in.csv")
    assert score(tmp_path / "in.csv", tmp_path / "s").quarantined == 0
    assert read(tmp_path / "s").column("note").to_pylist() == ['two\nlines, "and" quotes'] * 50


def test_batches_are_cut_by_bytes_where_rows_become_wide(score, bundle, tmp_path, monkeypatch):
    """The first rows say nothing of the later ones."""
    texts = ["short"] * 1_000 + ["x" * 20_000] * 1_000
    rows = flights(2_000).append_column("note", pa.array(texts))
    pq.write_table(rows, tmp_path / "in.parquet")
    sizes: list[int] = []
    whole = type(bundle).predict

    def predict(self: Any, batch: Any, **options: Any) -> Any:
        sizes.append(batch.num_rows)
        return whole(self, batch, **options)

    monkeypatch.setattr(type(bundle), "predict", predict)
    score(tmp_path / "in.parquet", tmp_path / "s", memory_mb=50, workers=1)
    assert sum(sizes) == 2_000
    assert max(sizes) <= 1_000  # 20 MB of texts are over the 4 MB of a batch
    assert read(tmp_path / "s").column("note").to_pylist() == texts


def test_rows_of_small_files_are_scored_together(score, bundle, tmp_path, monkeypatch):
    """And each keeps its id and its place in the chunk."""
    table, sizes = flights(120), list[int]()
    table = with_values(table, "airport", {57: "XXX"})
    (tmp_path / "in").mkdir()
    for number in range(40):
        pq.write_table(table.slice(3 * number, 3), tmp_path / "in" / f"{number:02d}.parquet")
    predict = bundle.predict
    monkeypatch.setattr(
        bundle, "predict", lambda rows, **how: sizes.append(rows.num_rows) or predict(rows, **how)
    )
    assert score(tmp_path / "in", f"{tmp_path}/out/", max_quarantined=0.1).rows == 119
    assert sizes == [120, 119]  # with the row at fault, and without it
    found = read(tmp_path / "out")
    rows = [int(one.partition("#")[2]) for one in found.column("prediction_id").to_pylist()]
    assert rows == found.column("id").to_pylist() == [*range(57), *range(58, 120)]
    assert [one["row"] for one in quarantined(tmp_path / "out")] == [57]


def test_a_model_is_opened_once_and_by_the_thread_of_the_run(table_bundle, tmp_path, monkeypatch):
    """A process that holds a model ends with the thread that has started it."""
    opened, threads = Bundle._opened, list[threading.Thread]()

    def noted(self: Bundle, name: str) -> Any:
        threads.append(threading.current_thread())
        return opened(self, name)

    monkeypatch.setattr(Bundle, "_opened", noted)
    pq.write_table(flights(100), tmp_path / "in.parquet", row_group_size=10)
    job = job_of({"model": "table", "from": f"{tmp_path}/in.parquet", "to": f"{tmp_path}/out/",
                  "chunk_rows": 10, "workers": 4})  # fmt: skip
    run_job(job, load(table_bundle), tmp_path / "home")
    assert threads == [threading.current_thread()]


def test_threads_that_want_a_model_at_once_open_it_once(table_bundle, monkeypatch):
    bundle, opened, calls = load(table_bundle), Bundle._opened, list[str]()

    def slow(self: Bundle, name: str) -> Any:
        calls.append(name)
        time.sleep(0.1)  # so that the others come
        return opened(self, name)

    monkeypatch.setattr(Bundle, "_opened", slow)
    with ThreadPoolExecutor(4) as pool:
        programs = {id(one) for _, one in pool.map(bundle.open_for, [8] * 4)}
    assert (len(calls), len(programs)) == (1, 1)


def test_a_sample_of_wide_rows_has_fewer_of_them():
    from bascule.batch.sampling import Sample

    batch = pa.record_batch({"text": ["x" * 20_000] * 500})
    samples = []
    for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
        sample = Sample(None, batch.schema, most_bytes=2_000_000)
        for chunk in order:
            sample.add(chunk, 500, batch)
        samples.append([len(part[0]) for chunk in range(4) for part in sample.of_chunk(chunk)])
    assert samples[0] == samples[1]  # whatever chunk is scored first
    assert 50 < sum(samples[0]) <= 100


def test_a_profile_has_the_answers_of_the_run_and_asks_for_none_again(
    bundle, tmp_path, monkeypatch
):
    from bascule.batch import MonitoringRules, run_job

    pq.write_table(flights(500), tmp_path / "in.parquet")
    asked: list[int] = []
    whole = type(bundle).predict

    def predict(self: Any, batch: Any, **options: Any) -> Any:
        asked.append(batch.num_rows)
        return whole(self, batch, **options)

    monkeypatch.setattr(type(bundle), "predict", predict)
    place = {"from": str(tmp_path / "in.parquet"), "to": str(tmp_path / "s/")}
    run_job(
        job_of({"model": "table", **place}), bundle, tmp_path / "home",
        monitoring=MonitoringRules(is_recorded=True, version="1"),
    )  # fmt: skip
    assert sum(asked) == 500


def test_a_scored_table_is_scored_again_under_other_names(score, tmp_path):
    pq.write_table(flights(100), tmp_path / "in.parquet")
    score(tmp_path / "in.parquet", tmp_path / "once")
    with pytest.raises(Invalid, match="--prefix") as refused:
        score(tmp_path / "once", tmp_path / "twice")
    assert refused.value.hint.startswith("give the added columns a --prefix")
    score(tmp_path / "once", tmp_path / "twice", prefix="b_", names={"label": "late"})
    found = read(tmp_path / "twice")
    assert {"label", "late", "b_probabilities_True", "b_prediction_id"} <= {*found.column_names}
    assert found.column("late").equals(found.column("label"))
    with pytest.raises(Invalid, match="'speed'"):
        score(tmp_path / "once", tmp_path / "third", prefix="b_", names={"speed": "x"})


@pytest.mark.parametrize("sink", first_of(["delta", "sqlite", "duckdb"], 2))
def test_names_with_a_prefix_are_written_to_every_sink(score, tmp_path, sink):
    pq.write_table(flights(50), tmp_path / "in.parquet")
    place = f"delta://{tmp_path}/t" if sink == "delta" else f"{sink}:///{tmp_path}/t.db#t"
    for _ in range(2):
        score(tmp_path / "in.parquet", place, prefix="m_")
    score(place, tmp_path / "s")
    assert {"m_label", "m_prediction_id", "label"} <= {*read(tmp_path / "s").column_names}


@pytest.mark.parametrize(
    ("check", "is_met"),
    [
        ("quantile(month, 0.5) <= 12", True), ("quantile(gust, 0.99) <= 0", False),
        ("std(gust) <= 2", True), ("std(gust) >= 2", False),
        ("matches(carrier, '(AA|BB|CC)') >= 1", True), ("matches(carrier, '[A-B]{2}') >= 1", False),
        ("unseen(carrier) <= 0", True), ("unseen(airport) > 0", False),
        ("quantile(probabilities_True, 0.9) <= 1", True), ("std(probabilities_True) <= 0", False),
    ],
)  # fmt: skip
def test_checks_of_quantiles_deviation_patterns_and_unseen_values(score, tmp_path, check, is_met):
    pq.write_table(flights(300), tmp_path / "in.parquet")
    findings = score(tmp_path / "in.parquet", tmp_path / "s", warnings=[check]).findings
    assert bool(findings) != is_met


def test_a_value_that_training_did_not_have_is_unseen(score, tmp_path):
    rows = with_values(flights(100), "carrier", {5: "ZZ"})
    pq.write_table(rows, tmp_path / "in.parquet")
    made = score(tmp_path / "in.parquet", tmp_path / "s", warnings=["unseen(carrier) <= 0"])
    (said,) = made.findings
    assert "it is 0.01" in said
    with pytest.raises(Invalid, match="not known"):
        score(tmp_path / "in.parquet", tmp_path / "t", warnings=["unseen(gust) <= 0"])


def test_a_dry_run_has_a_line_for_each_column_of_many(bundle, tmp_path, capsys):
    from bascule.cli.batch import _print_preview

    _print_preview(wide(20))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= WIDE + 6 + 4
    assert all(len(line) <= 120 for line in lines)
    assert any("carrier" in line and "string" in line for line in lines)


def test_types_are_of_csv_alone(score, tmp_path):
    pq.write_table(flights(5), tmp_path / "in.parquet")
    with pytest.raises(Invalid, match="types"):
        score(tmp_path / "in.parquet", tmp_path / "s", types={"id": "text"})


@pytest.mark.parametrize("sink", ["duckdb", "delta"])
def test_decimals_are_features_and_keys(score, tmp_path, sink):
    from decimal import Decimal

    rows = flights(20)
    keys = pa.array([Decimal(10**20 + n) for n in range(20)], pa.decimal128(23, 0))
    gusts = rows.column("gust").cast(pa.decimal128(18, 6), safe=False)
    exact = rows.set_column(0, "id", keys).set_column(5, "gust", gusts)
    pq.write_table(exact, tmp_path / "in.parquet")
    pacsv.write_csv(exact, tmp_path / "in.csv")
    place = f"delta://{tmp_path}/t" if sink == "delta" else f"{sink}:///{tmp_path}/t.db#t"
    score(tmp_path / "in.parquet", place, mode="upsert", key="id")
    score(tmp_path / "in.parquet", place, mode="upsert", key="id", columns=["label"], keep=["id"])
    types = {"id": "decimal(23, 0)", "gust": "decimal(18, 6)"}
    score(tmp_path / "in.csv", tmp_path / "csv", types=types)
    score(place, tmp_path / "s", prefix="again_", **({} if sink == "delta" else {"key": "id"}))
    made = [read(tmp_path / name).sort_by("id") for name in ("s", "csv")]
    assert [[int(one) for one in table.column("id").to_pylist()] for table in made] == [
        [int(one.as_py()) for one in keys]
    ] * 2
    assert made[0].column("again_label").to_pylist() == made[1].column("label").to_pylist()
