"""Parquet of a few bytes whose values take gigabytes is refused before it is read."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bascule.batch import table_files
from bascule.batch.table_files import check_growth
from bascule.core import TooLarge

ROWS = 5_000
OFFSETS = pa.array(np.arange(ROWS + 1, dtype=np.int32))
TEXTS = pa.array(["x" * 1_000] * ROWS)
FORMS = {
    "texts": (TEXTS, {}),
    "bytes": (TEXTS.cast(pa.binary()), {}),
    "bytes of a fixed length": (TEXTS.cast(pa.binary()).cast(pa.binary(1_000)), {}),
    "lists": (pa.ListArray.from_arrays(OFFSETS, TEXTS), {}),
    "records": (pa.StructArray.from_arrays([TEXTS], ["inner"]), {}),
    "maps": (pa.MapArray.from_arrays(OFFSETS, pa.array(["k"] * ROWS), TEXTS), {}),
    "prefixes that are left out": (
        TEXTS, {"use_dictionary": False, "column_encoding": {"values": "DELTA_BYTE_ARRAY"}},
    ),
    "lists of run lengths": (
        pa.ListArray.from_arrays(pa.array([0, 1_000_000]), pa.array(np.zeros(1_000_000))), {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_values_that_grow_are_refused(tmp_path, monkeypatch, form):
    monkeypatch.setattr(table_files, "_FREE_TABLE_BYTES", 1 << 20)
    values, options = FORMS[form]
    pq.write_table(pa.table({"values": values}), file := tmp_path / "late.parquet", **options)
    with pytest.raises(TooLarge, match=r"late\.parquet holds at least .* over 64 times its size"):
        check_growth(file)


@pytest.mark.parametrize("options", [{}, {"use_dictionary": False}])
def test_values_as_large_as_their_file_are_let_through(tmp_path, monkeypatch, options):
    monkeypatch.setattr(table_files, "_FREE_TABLE_BYTES", 0)
    texts = [f"{number:x}" * 3 for number in range(ROWS)]
    table = pa.table({"id": texts, "none": pa.nulls(ROWS, pa.string()), "amount": range(ROWS)})
    pq.write_table(table, file := tmp_path / "late.parquet", **options)
    check_growth(file)
