"""What is told of training rows, which may be most of the memory that there is."""

from __future__ import annotations

import hashlib
import tracemalloc

import numpy as np

from bascule.bundle.statements import training
from bascule.core.fields import DType, Field, Signature
from bascule.packing.imported import Rows
from bascule.packing.lineage.provenance import data_digest, rows_json
from bascule.packing.statements.training import describe

MATRIX = Signature((Field("x", DType.FP64, (50,)),), (Field("y", DType.FP64),))


def test_training_rows_are_told_of_without_a_copy_of_them():
    values = np.random.default_rng(0).normal(size=(100_000, 50))
    rows = Rows({"x": values}, values[:, 0].copy())
    tracemalloc.start()
    try:
        rows_json(rows)
        describe(rows, MATRIX)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # What one of the fifty columns takes, a few times: sorted, and without what is missing.
    assert peak < 0.2 * values.nbytes


def test_the_digest_of_numbers_is_that_of_their_bytes_row_by_row_however_they_lie():
    values = np.arange(60_000.0).reshape(20_000, 3)
    head = f"x\0{values.dtype.str}\0{values.shape}\0{values.nbytes}\0".encode()
    expected = "sha256:" + hashlib.sha256(head + values.tobytes()).hexdigest()

    assert data_digest({"x": values}) == expected
    assert data_digest({"x": np.asfortranarray(values)}) == expected
    assert data_digest({"x": np.repeat(values, 2, axis=1)[:, ::2]}) == expected


def test_a_row_has_the_same_hash_among_few_and_among_many(monkeypatch):
    values = np.random.default_rng(1).normal(size=(100, 3))
    columns = {"x": values, "t": np.array(list("abcd") * 25, object)}
    whole = training.row_hashes(columns)
    monkeypatch.setattr(training, "_PIECE_ROWS", 7)

    assert (training.row_hashes(columns) == whole).all()
    assert len(set(whole.tolist())) == 100
