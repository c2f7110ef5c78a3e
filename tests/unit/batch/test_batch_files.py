"""Files as source and sink; what they share with all places is in `tests/conformance`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.dataset as ds
import pyarrow.json as pajson
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression
from tests.homes import runs_in
from tests.tiers import first_of

import bascule.batch
from bascule.batch import job_of, planned, run_job
from bascule.bundle import Bundle
from bascule.core import Conflict, Invalid, NotFound, Refused
from bascule.packing import pack

from .conftest import flights, read, with_values


def parquet(path: Path, table: pa.Table, group: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return parquet(tmp_path / "flights.parquet", flights(1000))


def test_every_row_has_an_id_that_a_rerun_gives_again(score, source, tmp_path):
    score(source, tmp_path / "scored", chunk_rows=300)
    ids = read(tmp_path / "scored").column("prediction_id").to_pylist()
    assert len(set(ids)) == 1000
    score(source, tmp_path / "scored", chunk_rows=300, mode="error", workers=1)
    assert read(tmp_path / "scored").column("prediction_id").to_pylist() == ids
    assert ids[301].endswith("#1")


def test_rows_of_others_are_not_mixed_with(score, source, tmp_path):
    parquet(tmp_path / "scored" / "theirs.parquet", flights(3))
    with pytest.raises(Conflict, match="no run of bascule"):
        score(source, tmp_path / "scored")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"columns": ["lower"]}, "answer 'lower'"), ({"columns": ["speed"]}, "answer 'speed'"),
        ({"keep": ["speed"]}, "no column 'speed'"), ({"where": "speed > 1"}, "speed"),
        ({"format": "xlsx"}, "xlsx"), ({"checks": ["speed"]}, "not known"),
        ({"on": "spark"}, "spark"), ({"mode": "upsert", "key": "id"}, "mode upsert"),
    ],
)  # fmt: skip
def test_an_option_that_does_not_fit_is_refused_and_nothing_is_written(
    score, source, tmp_path, options, said
):
    with pytest.raises(Invalid, match=said):
        score(source, tmp_path / "scored", **options)
    assert not list((tmp_path / "scored").rglob("*.*"))
    assert score(source, tmp_path / "scored").rows == 1000


def test_a_column_named_as_an_answer_must_be_left_out(score, tmp_path):
    table = flights(10).append_column("label", pa.array(["x"] * 10))
    source = parquet(tmp_path / "in.parquet", table)
    with pytest.raises(Invalid, match="'label'"):
        score(source, tmp_path / "scored")
    score(source, tmp_path / "scored", keep=["id"])


@pytest.mark.parametrize(("limit", "rows"), [(150, 150), (1000, 1000), (2000, 1000)])
def test_a_limit_takes_the_first_rows(score, source, tmp_path, limit, rows):
    made = score(source, tmp_path / "scored", limit=limit, chunk_rows=100)
    assert read(tmp_path / "scored").column("id").to_pylist() == list(range(rows))
    assert made.rows == rows


# -- poison --


def test_rows_that_cannot_be_scored_go_to_quarantine_with_the_reason(score, tmp_path):
    table = with_values(flights(1000), "airport", {7: "XXX", 512: "YYY"})
    table = with_values(table, "month", {99: None})
    made = score(parquet(tmp_path / "in.parquet", table), tmp_path / "s", chunk_rows=300)

    assert (made.rows, made.quarantined) == (997, 3)
    assert set(range(1000)) - set(read(tmp_path / "s").column("id").to_pylist()) == {7, 99, 512}
    folder = tmp_path / "s" / "_bascule" / made.manifest.run
    bad = pa.concat_tables(map(pq.read_table, sorted(folder.glob("quarantine-*")))).to_pylist()
    assert [(one["chunk"], one["row"]) for one in bad] == [(0, 7), (0, 99), (1, 212)]
    assert "'XXX'" in bad[0]["reason"]
    assert "'month' has 1 missing" in bad[1]["reason"]
    assert '"id":512' in bad[2]["content"]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each call of the model has had."""
    calls: list[int] = []
    predict = Bundle.predict

    def counting(self: Bundle, data: Any, **options: Any) -> Any:
        calls.append(len(data))
        return predict(self, data, **options)

    monkeypatch.setattr(Bundle, "predict", counting)
    return calls


def test_bad_rows_are_found_by_column_and_not_by_asking_the_model(score, tmp_path, counted):
    bad = {row: f"X{row % 7}" for row in range(0, 10_000, 3)}
    table = with_values(flights(10_000), "airport", bad)
    table = with_values(table, "month", {1: None, 3: None, 4: None})
    source = parquet(tmp_path / "in.parquet", table, 10_000)
    made = score(source, tmp_path / "s", max_quarantined=1)
    assert (made.rows, made.quarantined) == (10_000 - len(bad) - 2, len(bad) + 2)
    assert counted == [10_000, made.rows]
    (path, *_) = (tmp_path / "s" / "_bascule" / made.manifest.run).glob("quarantine-*")
    reasons = {one["row"]: one["reason"] for one in pq.read_table(path).to_pylist()}
    assert "'X6'" in reasons[6]
    assert "'month' has 1 missing" in reasons[4]
    assert "'X3'" in reasons[3]  # of two faults the first, as before


def test_a_run_stops_at_the_row_too_many(score, tmp_path, counted):
    """And looks for no reasons: of a table of other airports each row would have one."""
    table = with_values(flights(10_000), "airport", {row: f"X{row}" for row in range(10_000)})
    with pytest.raises(Refused, match="of 10,000 rows cannot be scored"):
        score(parquet(tmp_path / "in.parquet", table, 10_000), tmp_path / "s")
    assert counted == [10_000]


@pytest.fixture(scope="session")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A model of a matrix of 30 columns without names."""
    rows = np.random.default_rng(0).normal(size=(400, 30))
    model = LogisticRegression().fit(rows, rows[:, 0] > 0)
    return pack(model, name="matrix", train=rows, to=tmp_path_factory.mktemp("matrix") / "m")


def test_a_table_that_is_no_matrix_of_the_model_is_refused_by_the_plan(matrix, tmp_path):
    rows = np.random.default_rng(1).normal(size=(50, 30))
    columns = {"id": np.arange(50), **{f"x{n}": rows[:, n] for n in range(30)}}
    source = parquet(tmp_path / "in.parquet", pa.table(columns))
    job = {"model": "m", "from": str(source), "to": str(tmp_path / "s") + "/"}
    with (
        pytest.raises(Invalid, match="30 columns without names, and the source has 31: id, x0"),
        planned(job_of(job), matrix),
    ):
        pass
    with (
        pytest.raises(Invalid, match="no column 'idd'"),
        planned(job_of({**job, "ignore": ["idd"]}), matrix),
    ):
        pass
    text = pa.table({**columns, "x7": ["a"] * 50})
    parquet(source, text)
    with (
        pytest.raises(Invalid, match="'x7' of the source is string"),
        planned(job_of({**job, "ignore": ["id"]}), matrix),
    ):
        pass
    parquet(source, pa.table(columns))
    made = run_job(job_of({**job, "ignore": ["id"]}), matrix, tmp_path / "home")
    assert made.rows == 50
    scored = read(tmp_path / "s")
    assert scored.column("label").to_pylist() == matrix.predict(rows)["label"].tolist()
    assert scored.column("id").to_pylist() == list(range(50))


@pytest.mark.parametrize(("bad", "fails"), [(10, False), (11, True)])
def test_a_job_fails_over_its_share_of_poison(score, tmp_path, bad, fails):
    table = with_values(flights(1000), "airport", dict.fromkeys(range(bad), "XXX"))
    source = parquet(tmp_path / "in.parquet", table)
    if not fails:
        assert score(source, tmp_path / "s").quarantined == 10
        return
    with pytest.raises(Refused, match="11 of 1,000 rows"):
        score(source, tmp_path / "s")
    (status,) = runs_in(tmp_path / "home").list()
    assert (status.state, "max_quarantined" in status.error) == ("failed", True)


def test_a_word_among_the_numbers_of_a_csv_is_one_bad_row(score, tmp_path):
    path = tmp_path / "in.csv"
    pacsv.write_csv(flights(400), path)
    lines = path.read_text().splitlines()
    for row in (3, 250):
        lines[row + 1] = lines[row + 1].rsplit(",", 1)[0] + ",calm"
    path.write_text("\n".join(lines))
    made = score(path, tmp_path / "s", where="carrier <> 'none'", warnings=["rows >= 399"])
    assert (made.rows, made.quarantined) == (398, 2)
    assert made.findings == ("rows >= 399 is not met: it is 398",)
    (bad,) = (tmp_path / "s" / "_bascule" / made.manifest.run).glob("quarantine-*")
    first, second = pq.read_table(bad).to_pylist()
    assert "'gust' holds text" in first["reason"]
    assert ('"id":3,' in first["content"], '"gust":"calm"' in second["content"]) == (True, True)


def test_only_the_rows_of_a_csv_whose_values_cannot_be_read_are_quarantined(score, tmp_path):
    """Types of columns that the model does not read are those of the first file."""
    (tmp_path / "in").mkdir()
    pacsv.write_csv(flights(100), tmp_path / "in" / "1.csv")
    pacsv.write_csv(flights(100, start=100), tmp_path / "in" / "2.csv")
    lines = (tmp_path / "in" / "2.csv").read_bytes().split(b"\n")
    lines[4] = lines[4].replace(b"103", b"old 103")
    lines[6] = lines[6].replace(b'"', b'"\xff', 1)
    lines[8] = b" , ".join(lines[8].rsplit(b",", 1))  # spaces around numbers are fine
    (tmp_path / "in" / "2.csv").write_bytes(b"\n".join(lines))
    made = score(tmp_path / "in", tmp_path / "s")

    assert {*range(200)} - {*read(tmp_path / "s").column("id").to_pylist()} == {103, 105}
    (bad,) = (tmp_path / "s" / "_bascule" / made.manifest.run).glob("quarantine-*")
    assert [(one["reason"], one["row"]) for one in pq.read_table(bad).to_pylist()] == [
        ("column 'id' holds text that is no int64", 100),
        ("column 'carrier' holds bytes that are no string", 101),
    ]


# -- odd tables --


@pytest.mark.parametrize("is_typed", [True, False])
def test_a_table_of_missing_values_alone_is_quarantined_whole(score, tmp_path, is_typed):
    columns = {
        one.name: pa.nulls(20, one.type if is_typed else pa.null()) for one in flights(1).schema
    }
    source = parquet(tmp_path / "in.parquet", pa.table(columns))
    with pytest.raises(Refused, match="20 of 20 rows cannot be scored"):
        score(source, tmp_path / "s")
    made = score(source, tmp_path / "other", max_quarantined=1.0)
    assert (made.rows, made.quarantined, read(tmp_path / "other").num_rows) == (0, 20, 0)


def test_a_column_of_another_kind_is_refused_before_it_is_read(score, tmp_path):
    table = flights(5).set_column(5, "gust", pa.array(["a"] * 5))
    with pytest.raises(
        Invalid, match="'gust' of the source is string, and the model takes numbers"
    ):
        score(parquet(tmp_path / "in.parquet", table), tmp_path / "s")


def test_a_file_whose_schema_lost_a_column_is_refused_by_its_name(score, tmp_path):
    parquet(tmp_path / "in" / "1.parquet", flights(5))
    parquet(tmp_path / "in" / "2.parquet", flights(5).drop_columns(["wind"]))
    with pytest.raises(Invalid, match=r"2\.parquet has no column 'wind'"):
        score(tmp_path / "in", tmp_path / "s")


def test_a_file_whose_column_has_another_type_is_refused_by_its_name(score, tmp_path):
    parquet(tmp_path / "in" / "1.parquet", flights(5))
    other = flights(5).set_column(5, "gust", pa.array(["a"] * 5))
    parquet(tmp_path / "in" / "2.parquet", other)
    with pytest.raises(Invalid, match=r"2\.parquet cannot be read"):
        score(tmp_path / "in", tmp_path / "s")


def test_files_that_change_during_a_run_end_it(score, source, tmp_path, monkeypatch):
    from bascule.batch.sources.files import FileSource

    read_file = FileSource._read_file

    def touched(self, *arguments):
        for batch in read_file(self, *arguments):
            os.utime(source, (1, 1))
            yield batch

    monkeypatch.setattr(FileSource, "_read_file", touched)
    with pytest.raises(Conflict, match="changed while it was read"):
        score(source, tmp_path / "s", retries=0)
    assert not list((tmp_path / "s").glob("part-*"))


def test_a_place_without_files_is_not_found(score, tmp_path):
    with pytest.raises(NotFound, match="no table files"):
        score(tmp_path / "*.parquet", tmp_path / "s")


@pytest.mark.parametrize("count", first_of([30, 10_000]))
def test_many_small_files_make_few_chunks(score, tmp_path, count):
    table = flights(count * 2)
    for number in range(count):
        parquet(tmp_path / "in" / f"{number:05d}.parquet", table.slice(number * 2, 2))
    made = score(tmp_path / "in", tmp_path / "s", chunk_rows=count)
    assert len(made.manifest.chunks) == 2
    assert read(tmp_path / "s").select(table.column_names).equals(table)


def test_folders_named_by_values_are_columns(score, tmp_path):
    for day in ("2026-01-01", "2026-01-02"):
        parquet(tmp_path / "in" / f"day={day}" / "f.parquet", flights(5))
    score(tmp_path / "in", tmp_path / "s")
    assert set(map(str, read(tmp_path / "s").column("day").to_pylist())) == {
        "2026-01-01", "2026-01-02",
    }  # fmt: skip


# -- formats --


def test_csv_is_read_in_the_types_of_the_model(score, tmp_path):
    pacsv.write_csv(with_values(flights(50), "wind", {3: None}), tmp_path / "in.csv")
    score(tmp_path / "in.csv", tmp_path / "scored.csv")
    scored = pacsv.read_csv(tmp_path / "scored.csv")
    assert scored.column("id").to_pylist() == list(range(50))
    assert scored.column("wind")[3].as_py() is None
    assert not list(tmp_path.glob(".scored.csv.parts/part-*"))


@pytest.mark.parametrize("format_", ["parquet", "csv", "jsonl", "arrow"])
@pytest.mark.parametrize("single", [True, False])
def test_every_format_holds_the_same_rows(score, source, tmp_path, format_, single):
    sink = tmp_path / (f"scored.{format_}" if single else "scored")
    score(source, sink, format=format_, chunk_rows=400)
    if format_ == "jsonl":
        paths = [sink] if single else sorted(sink.glob("part-*"))
        scored = pa.concat_tables(map(pajson.read_json, paths))
    else:
        kind = {"arrow": "ipc"}.get(format_, format_)
        scored = ds.dataset(str(sink), format=kind).to_table()
    assert sorted(scored.column("id").to_pylist()) == list(range(1000))
    assert "label" in scored.column_names


def test_one_file_is_refused_replaced_and_never_appended_to(score, source, tmp_path):
    sink = tmp_path / "scored.csv"
    score(source, sink)
    before = sink.read_bytes()
    assert score(source, sink).rows == 1000
    assert sink.read_bytes() == before
    with pytest.raises(Conflict, match="already has rows"):
        score(source, sink, limit=3)
    with pytest.raises(Invalid, match="mode append"):
        score(source, sink, limit=3, mode="append")
    score(source, sink, limit=3, mode="replace")
    assert pacsv.read_csv(sink).num_rows == 3


def test_one_file_that_was_joined_and_not_marked_as_done_is_joined_again(
    score, source, tmp_path, monkeypatch
):
    from bascule.batch.sinks.files import FileSink

    sink, put = tmp_path / "scored.csv", FileSink._put

    def killed(self, name, content):
        if name == "done.json":
            raise KeyboardInterrupt
        put(self, name, content)

    with monkeypatch.context() as patched:
        patched.setattr(FileSink, "_put", killed)
        with pytest.raises(KeyboardInterrupt):
            score(source, sink)
    assert score(source, sink).rows == 1000
    assert pacsv.read_csv(sink).num_rows == 1000


def test_json_lines_and_arrow_are_sources_too(score, source, tmp_path):
    score(source, tmp_path / "a.jsonl", columns=["label"])
    score(source, tmp_path / "b.arrow", columns=["label"])
    for name in ("a.jsonl", "b.arrow"):
        keep = ["id"]
        assert score(tmp_path / name, tmp_path / f"again-{name}/", keep=keep).rows == 1000


# -- checks --


@pytest.mark.parametrize(
    "met",
    [
        "rows >= 1000", "unique(id) >= 1", "missing(wind) <= 0", "max(month) <= 12",
        "other(airport, 'EWR', 'JFK') <= 0", "max(probabilities_True) <= 1", "distinct(label) == 2",
    ],
)  # fmt: skip
def test_a_check_that_is_met_says_nothing(score, source, tmp_path, met):
    assert score(source, tmp_path / "s", checks=[met]).findings == ()


def test_a_check_of_the_source_stops_the_run_before_a_row_is_written(score, source, tmp_path):
    with pytest.raises(Refused, match=r"rows >= 1001 is not met: it is 1000"):
        score(source, tmp_path / "s", checks=["rows >= 1001", "max(month) <= 12"])
    assert not (tmp_path / "s").exists()


def test_a_warning_is_a_sentence_and_the_run_goes_on(score, source, tmp_path):
    made = score(source, tmp_path / "s", warnings=["max(month) <= 11"])
    assert made.findings == ("max(month) <= 11 is not met: it is 12",)
    assert read(tmp_path / "s").num_rows == 1000


def test_a_check_of_answers_leaves_the_run_unfinished(score, source, tmp_path):
    with pytest.raises(Refused, match="not finished"):
        score(source, tmp_path / "s", checks=["max(probabilities_True) <= 0.1"])
    with pytest.raises(Conflict, match="not finished"):
        score(source, tmp_path / "s", mode="append", limit=3)


@pytest.mark.parametrize("killed_at", first_of([1, None, 3], 2))
def test_a_refusal_is_the_same_when_the_same_command_is_given_again(
    score, source, tmp_path, monkeypatch, killed_at
):
    """Also where earlier processes have scored some of the rows, or all of them."""
    from bascule.batch.sinks.files import FileSink

    publish, parts = FileSink.publish, []

    def killed(self, draft, name):
        publish(self, draft, name)
        parts.extend([name] if "part-" in name else [])
        if len(parts) == killed_at:
            raise KeyboardInterrupt

    job = {"checks": ["mean(probabilities_True) <= 0.1"], "chunk_rows": 300, "workers": 1}
    with monkeypatch.context() as patched:
        patched.setattr(FileSink, "publish", killed)
        with pytest.raises((Refused, KeyboardInterrupt)):
            score(source, tmp_path / "s", **job)
    said = set()
    for _ in range(3):
        with pytest.raises(Refused, match="is not met") as refused:
            score(source, tmp_path / "s", **job)
        said.add(str(refused.value))
    (one,) = said
    with pytest.raises(Refused, match=r"is not met") as whole:
        score(source, tmp_path / "whole", **job)
    assert str(whole.value) == one
    assert score(source, tmp_path / "s", **job | {"checks": ["scored >= 1000"]}).rows == 1000
    with pytest.raises(Refused, match="is not met"):
        score(source, tmp_path / "s", **job)


def test_rows_that_are_refused_for_their_quarantine_are_refused_again(score, tmp_path):
    """Some of each chunk: a chunk that is written beside may be done before another is refused."""
    bad = with_values(flights(400), "airport", dict.fromkeys(range(0, 400, 20), "XXX"))
    source = parquet(tmp_path / "in.parquet", bad)
    for _ in range(3):
        with pytest.raises(Refused, match="5 of 400 rows"):
            score(source, tmp_path / "s", chunk_rows=100, workers=1)
        assert list((tmp_path / "s").glob("part-*")) == []
    assert score(source, tmp_path / "s", chunk_rows=100, max_quarantined=0.1).rows == 380


def test_a_check_of_answers_that_are_none_is_not_met(score, tmp_path):
    source = parquet(tmp_path / "in.parquet", flights(0))
    with pytest.raises(Refused, match="it is unknown"):
        score(source, tmp_path / "s", checks=["max(probabilities_True) <= 0.9"])


# -- files of others --


def test_replace_removes_files_of_runs_and_refuses_those_of_no_run(score, source, tmp_path):
    score(source, tmp_path / "s", limit=5)
    score(source, tmp_path / "s", mode="replace", format="csv")
    assert [one.suffix for one in (tmp_path / "s").glob("*.*")] == [".csv"]
    theirs = parquet(tmp_path / "s" / "theirs.parquet", flights(3))
    with pytest.raises(Conflict, match="of no run of bascule"):
        score(source, tmp_path / "s", mode="replace")
    assert theirs.exists()
    theirs.unlink()
    score(source, tmp_path / "s", mode="replace")
    assert read(tmp_path / "s").num_rows == 1000


def test_a_run_that_is_refused_replaces_nothing(score, source, tmp_path):
    score(source, tmp_path / "s", limit=5)
    job = {"mode": "replace", "chunk_rows": 300}
    with pytest.raises(Refused):
        score(source, tmp_path / "s", checks=["max(probabilities_True) <= 0.1"], **job)
    assert read(tmp_path / "s").num_rows == 5
    assert score(source, tmp_path / "s", **job).rows == 1000
    assert read(tmp_path / "s").column("id").to_pylist() == list(range(1000))


@pytest.mark.parametrize("mode", ["error", "append", "replace"])
@pytest.mark.parametrize("sink", ["in/", "link/", "in/1.parquet"])
def test_a_run_does_not_write_among_its_own_source(score, tmp_path, mode, sink):
    source = parquet(tmp_path / "in" / "1.parquet", flights(10))
    (tmp_path / "link").symlink_to(tmp_path / "in")
    with pytest.raises(Invalid, match=r"files of the source|mode append"):
        score(tmp_path / "in", f"{tmp_path}/{sink}", mode=mode)
    assert pq.read_table(source).equals(flights(10))


def test_rows_of_a_finished_run_that_were_removed_are_written_again(score, source, tmp_path):
    score(source, tmp_path / "s", chunk_rows=300)
    sorted((tmp_path / "s").glob("part-*"))[1].unlink()
    score(source, tmp_path / "s", chunk_rows=300)
    assert read(tmp_path / "s").column("id").to_pylist() == list(range(1000))
    score(source, tmp_path / "s.csv")
    (tmp_path / "s.csv").unlink()
    score(source, tmp_path / "s.csv")
    assert pacsv.read_csv(tmp_path / "s.csv").num_rows == 1000


def test_bascule_batch_run_takes_the_folder_of_a_bundle(
    table_bundle, source, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    made = bascule.batch.run(table_bundle, source, "scored/", keep=["id"])
    assert (made.rows, made.manifest.sink) == (1000, "scored/")
    assert [run.run for run in runs_in(tmp_path / ".bascule").list()] == [made.manifest.run]


def test_a_batch_of_which_no_row_is_answered_is_quarantined_where_answers_are_texts(
    score, tmp_path
):
    (tmp_path / "rows.csv").write_text("carrier,airport,month,wind,gust\nAA,EWR,may,1,1\n")
    made = score(tmp_path / "rows.csv", tmp_path / "out/", max_quarantined=1.0)
    assert (made.rows, made.quarantined) == (0, 1)
