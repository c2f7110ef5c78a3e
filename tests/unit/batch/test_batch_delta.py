from __future__ import annotations

from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bascule.batch.delta import storage_options
from bascule.batch.sinks.delta import DeltaSink
from bascule.core import Invalid, NotFound

from .conftest import flights


@pytest.fixture
def source(tmp_path: Path) -> Path:
    pq.write_table(flights(100), tmp_path / "flights.parquet", row_group_size=30)
    return tmp_path / "flights.parquet"


def rows_at(url: Any) -> pa.Table:
    options = storage_options(str(url))
    return deltalake.DeltaTable(str(url), storage_options=options).to_pyarrow_table().sort_by("id")


def ids_at(url: Any) -> list[int]:
    return rows_at(url).column("id").to_pylist()


def test_a_run_is_one_commit_that_carries_its_transaction(score, source, tmp_path):
    made = score(source, f"delta://{tmp_path}/lake", chunk_rows=30)
    table = deltalake.DeltaTable(str(tmp_path / "lake"))
    assert len(made.manifest.chunks) > 2
    assert table.version() == 1
    assert deltalake.DeltaTable(str(tmp_path / "lake"), version=0).file_uris() == []
    assert table.transaction_version(f"bascule-{made.manifest.run}") == 1


def test_a_commit_whose_answer_was_lost_is_not_made_again(score, source, tmp_path, monkeypatch):
    put = DeltaSink._put

    def killed(self: Any, name: str, content: bytes) -> None:
        if name == "done.json":
            raise KeyboardInterrupt
        put(self, name, content)

    with monkeypatch.context() as patched:
        patched.setattr(DeltaSink, "_put", killed)
        with pytest.raises(KeyboardInterrupt):
            score(source, f"delta://{tmp_path}/lake")
    assert ids_at(tmp_path / "lake") == list(range(100))
    assert score(source, f"delta://{tmp_path}/lake").rows == 100
    assert ids_at(tmp_path / "lake") == list(range(100))


@pytest.mark.slow
def test_partitions_of_a_table_are_kept(score, source, tmp_path):
    score(source, f"delta://{tmp_path}/first")
    first = rows_at(tmp_path / "first")
    deltalake.write_deltalake(str(tmp_path / "lake"), first, partition_by=["airport"])
    score(source, f"delta://{tmp_path}/lake", mode="append")
    table = deltalake.DeltaTable(str(tmp_path / "lake"))
    assert table.metadata().partition_columns == ["airport"]
    assert table.to_pyarrow_table().num_rows == 200
    made = score(f"delta://{tmp_path}/lake", tmp_path / "out.csv", keep=["id", "airport"])
    assert made.rows == 200


def test_deleted_rows_of_a_table_are_not_scored(score, tmp_path):
    lake = str(tmp_path / "lake")
    deltalake.write_deltalake(lake, flights(100))
    deltalake.DeltaTable(lake).delete("id < 40")
    score(f"delta://{lake}", f"delta://{tmp_path}/scored")
    assert ids_at(tmp_path / "scored") == list(range(40, 100))


@pytest.mark.parametrize("end", ["source", "sink"])
def test_a_folder_that_is_a_delta_table_is_not_taken_for_files(score, source, tmp_path, end):
    lake = str(tmp_path / "lake")
    deltalake.write_deltalake(lake, flights(10))
    places = (lake, tmp_path / "s/") if end == "source" else (source, f"{lake}/")
    with pytest.raises(Invalid, match="is a Delta table") as refused:
        score(*places)
    assert f"delta://{lake}" in refused.value.hint


@pytest.mark.slow
def test_a_column_that_was_added_later_is_missing_in_older_rows(score, tmp_path):
    lake = str(tmp_path / "lake")
    deltalake.write_deltalake(lake, flights(10).drop_columns(["wind"]))
    deltalake.write_deltalake(lake, flights(10, start=10), mode="append", schema_mode="merge")
    score(f"delta://{lake}", f"delta://{tmp_path}/scored")
    winds = rows_at(tmp_path / "scored").column("wind").to_pylist()
    assert winds[:10] == [None] * 10
    assert None not in winds[10:]


def test_a_table_that_is_written_to_during_a_run_is_read_as_it_was(score, tmp_path, monkeypatch):
    from bascule.batch.scoring import Scorer

    lake, score_batch = str(tmp_path / "lake"), Scorer.score
    deltalake.write_deltalake(lake, flights(100))

    def changing(self: Scorer, *arguments: Any) -> Any:
        deltalake.write_deltalake(lake, flights(5), mode="overwrite")
        return score_batch(self, *arguments)

    monkeypatch.setattr(Scorer, "score", changing)
    score(f"delta://{lake}", f"delta://{tmp_path}/scored")
    assert ids_at(tmp_path / "scored") == list(range(100))


@pytest.mark.slow
def test_a_table_that_lacks_a_column_is_refused_before_a_row_is_written(score, source, tmp_path):
    deltalake.write_deltalake(str(tmp_path / "lake"), pa.table({"id": [1]}))
    with pytest.raises(Invalid, match="no column 'carrier'"):
        score(source, f"delta://{tmp_path}/lake", mode="append")
    assert not (tmp_path / "lake" / "_bascule").exists()


@pytest.mark.parametrize("url", ["delta://", "delta:///", "delta+s3://"])
def test_a_url_that_names_no_folder_is_refused(score, source, url):
    with pytest.raises(Invalid, match="names no folder"):
        score(source, url)


@pytest.mark.slow
def test_a_table_in_a_bucket_is_scored_into_another(score, s3_url, source):
    lake = s3_url.replace("s3://", "delta+s3://")
    score(source, f"{lake}/first")
    made = score(f"{lake}/first", f"{lake}/second", keep=["id"])
    assert made.rows == 100
    assert ids_at(f"{s3_url}/second") == list(range(100))
    with pytest.raises(NotFound, match="no Delta table"):
        score(f"{lake}/nowhere", f"{lake}/third")
