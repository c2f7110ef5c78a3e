"""Columns of every type pass through every sink, converted without loss or refused by name."""

from __future__ import annotations

import datetime
import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import deltalake
import duckdb
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.dataset as ds
import pyarrow.feather as feather
import pytest
from adbc_driver_postgresql import dbapi
from tests.tiers import first_of

from bascule.core import Invalid

from .conftest import flights

N = 4
IDS = [Decimal(f"1234567890123456789{n}.25") for n in range(N)]
WIDE = [2**53 + n for n in range(N)]
NS = [1_700_000_000_123_456_000 + 1_000 * n for n in range(N)]


def rows_with(values: pa.Array) -> pa.Table:
    return flights(N).append_column("account", values)


def read_files(path: Path, kind: str) -> pa.Table:
    return ds.dataset(str(path), format=kind).to_table()


SINKS = {
    "parquet": (lambda at: f"{at}/p/", lambda at: read_files(at / "p", "parquet")),
    "arrow": (lambda at: f"{at}/a.arrow", lambda at: feather.read_table(at / "a.arrow")),
    "csv": (
        lambda at: f"{at}/c.csv",
        lambda at: pacsv.read_csv(
            at / "c.csv",
            convert_options=pacsv.ConvertOptions(column_types={"account": pa.string()}),
        ),
    ),
    "jsonl": (lambda at: f"{at}/j.jsonl", lambda at: read_files(at / "j.jsonl", "json")),
    "delta": (
        lambda at: f"delta://{at}/lake",
        lambda at: deltalake.DeltaTable(str(at / "lake")).to_pyarrow_table(),
    ),
    "duckdb": (lambda at: f"duckdb:///{at}/d.db#scored", lambda at: duckdb_rows(at / "d.db")),
    "sqlite": (lambda at: f"sqlite:///{at}/s.db#scored", lambda at: sqlite_rows(at / "s.db")),
}  # fmt: skip


def duckdb_rows(path: Path) -> pa.Table:
    with closing(duckdb.connect(str(path))) as connection:
        return connection.sql("FROM scored").to_arrow_table()


def sqlite_rows(path: Path) -> pa.Table:
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT id, account FROM scored").fetchall()
    return pa.table({"id": [one for one, _ in found], "account": [one for _, one in found]})


def scored(score: Any, at: Path, name: str, values: pa.Array, **options: Any) -> list[Any]:
    """The values of a column after a run into a sink."""
    feather.write_feather(rows_with(values), str(at / "in.arrow"), compression="uncompressed")
    sink, read = SINKS[name]
    how = {"keep": ["id", "account"], "columns": ["prediction"]}
    score(at / "in.arrow", sink(at), **how | options)
    return read(at).sort_by("id").column("account").to_pylist()


@pytest.mark.parametrize("name", SINKS)
def test_decimals_and_wide_numbers_are_exact_in_every_sink(score, tmp_path, name):
    """As doubles, all of them are one account."""
    made = scored(score, tmp_path, name, pa.array(IDS, pa.decimal128(30, 2)))
    assert [Decimal(one) for one in made] == IDS
    again = tmp_path / "again"
    again.mkdir()
    assert [int(one) for one in scored(score, again, name, pa.array(WIDE))] == WIDE


@pytest.mark.parametrize(
    ("values", "expected"),
    first_of(
        [
            (pa.array(list("abab"), pa.large_string()), list("abab")),
            (pa.array(list("abab"), pa.string_view()), list("abab")),
            (pa.array(list("abab")).dictionary_encode(), list("abab")),
            (pa.array(range(N), pa.int8()), [*range(N)]),
            (pa.array(range(N), pa.uint16()), [*range(N)]),
            (pa.array(range(N), pa.uint64()), [*range(N)]),
            (pa.array([0.5, 1, 2, 4], pa.float16()), [0.5, 1, 2, 4]),
            (pa.array([Decimal("1.25")] * N, pa.decimal32(6, 2)), [Decimal("1.25")] * N),
            (pa.nulls(N), [None] * N),
            (pa.array([b"ab"] * N, pa.binary(2)), [b"ab"] * N),
            (pa.array([[1, 2]] * N, pa.list_(pa.uint8())), [[1, 2]] * N),
        ],
        3,
    ),
    ids=lambda one: str(one.type) if isinstance(one, pa.Array) else "",
)
def test_what_pandas_and_polars_make_of_columns_is_converted_for_delta(
    score, tmp_path, values, expected
):
    assert scored(score, tmp_path, "delta", values) == expected


@pytest.mark.parametrize("name", ["delta", "duckdb", "jsonl", "sqlite"])
def test_times_of_pandas_are_written_in_microseconds(score, tmp_path, name):
    made = scored(score, tmp_path, name, pa.array(NS, pa.timestamp("ns")))
    times = [datetime.datetime(2023, 11, 14, 22, 13, 20, 123456 + n) for n in range(N)]
    read = [datetime.datetime.fromisoformat(o) if isinstance(o, str) else o for o in made]
    assert read == times


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("delta", pa.array([datetime.time(1)] * N, pa.time64("us")), "'account' is time64"),
        ("delta", pa.array([1] * N, pa.duration("us")), "'account' is duration"),
        ("delta", pa.array(IDS, pa.decimal256(50, 2)), "'account' is decimal256"),
        ("delta", pa.array([2**63] * N, pa.uint64()), "'account' has a value"),
        ("delta", pa.array([1] * N, pa.timestamp("ns")), "'account' has a value"),
        ("duckdb", pa.array(IDS, pa.decimal256(50, 2)), "'account' is decimal256"),
        ("csv", pa.array([[1]] * N), "'account' is list"),
        ("sqlite", pa.array([[1]] * N), "'account' is list"),
    ],
)
def test_what_a_sink_cannot_hold_is_refused_with_the_column_and_the_way_out(
    score, tmp_path, name, values, said
):
    with pytest.raises(Invalid, match=said) as refused:
        scored(score, tmp_path, name, values)
    assert "--keep" in refused.value.hint


def test_a_delta_table_keeps_the_types_that_it_has(score, tmp_path):
    scored(score, tmp_path, "delta", pa.array([1, 2, 3, 4], pa.int64()))
    made = scored(score, tmp_path, "delta", pa.array([5, 6, 7, 8], pa.int32()), mode="append")
    assert sorted(made) == [1, 2, 3, 4, 5, 6, 7, 8]
    kind = deltalake.DeltaTable(str(tmp_path / "lake")).to_pyarrow_table().schema.field("account")
    assert kind.type == pa.int64()


def test_the_parts_of_a_csv_are_joined_as_they_were_written(score, tmp_path):
    """An empty text is no missing one, and a number keeps its digits."""
    table = rows_with(pa.array(["", None, "a,\nb", "007"]))
    feather.write_feather(table, str(tmp_path / "in.arrow"), compression="uncompressed")
    score(tmp_path / "in.arrow", tmp_path / "c.csv", keep=["account"], columns=["prediction"])
    lines = (tmp_path / "c.csv").read_text()
    assert '"007"' in lines
    assert '\n"",' in lines
    assert "\n,true" in lines or "\n,false" in lines


def test_digits_of_a_csv_are_kept_where_the_model_does_not_read_them(score, tmp_path):
    table = rows_with(pa.array([str(one) for one in IDS]))
    table = table.append_column("code", pa.array(["007", "7", "07", ""]))
    pacsv.write_csv(table, tmp_path / "in.csv", pacsv.WriteOptions(quoting_style="none"))
    score(tmp_path / "in.csv", f"{tmp_path}/p/")
    made = read_files(tmp_path / "p", "parquet").sort_by("id")
    assert made.column("account").to_pylist() == [str(one) for one in IDS]
    assert made.column("code").to_pylist()[:3] == ["007", "7", "07"]
    assert made.schema.field("id").type == pa.int64()
    assert made.schema.field("gust").type == pa.float64()


def test_numerics_of_postgresql_are_exact_where_the_model_does_not_read_them(
    score, postgresql_url, tmp_path
):
    """With their digits where the table declares them, and else as text."""
    with dbapi.connect(postgresql_url) as connection, connection.cursor() as cursor:
        cursor.adbc_ingest("flights", flights(N), mode="create")
        cursor.execute("ALTER TABLE flights ADD account numeric(22,2), ADD plain numeric")
        for row, account in enumerate(IDS):
            cursor.execute(
                f"UPDATE flights SET account = {account}, plain = {account} WHERE id = {row}"
            )
        cursor.execute("ALTER TABLE flights ALTER wind TYPE numeric, ALTER gust TYPE numeric(20,6)")
        connection.commit()
    source, keep = f"{postgresql_url}#flights", ["id", "account", "plain"]
    score(source, f"{tmp_path}/p/", keep=keep)
    made = read_files(tmp_path / "p", "parquet").sort_by("id")
    assert made.column("account").to_pylist() == IDS
    assert made.column("plain").to_pylist() == [str(one) for one in IDS]
    score(source, f"{postgresql_url}#scored", keep=["id", "account"])
    with dbapi.connect(postgresql_url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT account::text, pg_typeof(account)::text FROM scored ORDER BY id")
        assert cursor.fetchall() == [(str(one), "numeric") for one in IDS]


def test_decimals_of_duckdb_are_read_exactly(score, tmp_path):
    with closing(duckdb.connect(str(tmp_path / "f.db"))) as connection:
        connection.register("given", rows_with(pa.array(IDS, pa.decimal128(30, 2))))
        connection.execute("CREATE TABLE flights AS SELECT * FROM given").fetchall()
        connection.execute("ALTER TABLE flights ALTER gust TYPE DECIMAL(18,6)").fetchall()
    score(f"duckdb:///{tmp_path}/f.db#flights", f"{tmp_path}/p/", key="account")
    made = read_files(tmp_path / "p", "parquet").sort_by("id")
    assert made.column("account").to_pylist() == IDS
    assert made.schema.field("gust").type == pa.decimal128(18, 6)


EVERY_TYPE = {
    "binary": pa.array([b"a", b"\xff", None, b""]),
    "binary view": pa.array([b"a", b"\xff", None, b""], pa.binary_view()),
    "interval": pa.array([(1, 2, 3)] * N, pa.month_day_nano_interval()),
    "nanoseconds": pa.array([1_000] * N, pa.duration("ns")),
    "hundreds": pa.array([Decimal(100), None, Decimal(200), Decimal(300)], pa.decimal128(5, -2)),
    "run-end": pa.RunEndEncodedArray.from_arrays([2, N], [1, 2]),
    "union": pa.UnionArray.from_sparse(
        pa.array([0, 1, 0, 1], pa.int8()), [pa.array([1] * N), pa.array(["a"] * N)]
    ),
    "uuid": pa.ExtensionArray.from_storage(
        pa.uuid(), pa.array([b"0123456789abcdef"] * N, pa.binary(16))
    ),
    "map": pa.array([[("a", 1)]] * N, pa.map_(pa.string(), pa.int32())),
    "struct": pa.array([{"a": 1}] * N),
}


@pytest.mark.parametrize("name", SINKS)
@pytest.mark.parametrize("kind", EVERY_TYPE)
def test_a_column_is_written_or_refused_before_a_row_is_scored(
    score, tmp_path, monkeypatch, name, kind
):
    from bascule.batch.scoring import Scorer

    scored_batches: list[int] = []
    whole = Scorer.score

    def counted(self: Any, batch: Any, *rest: Any) -> Any:
        scored_batches.append(batch.num_rows)
        return whole(self, batch, *rest)

    monkeypatch.setattr(Scorer, "score", counted)
    feather.write_feather(
        rows_with(EVERY_TYPE[kind]), str(tmp_path / "in.arrow"), compression="uncompressed"
    )
    refusal = None
    try:
        score(tmp_path / "in.arrow", SINKS[name][0](tmp_path), keep=["id", "account"])
    except Invalid as refused:
        refusal = refused
    if refusal is not None:
        assert "'account'" in refusal.message
    assert bool(scored_batches) == (refusal is None)
