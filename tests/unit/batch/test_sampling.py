from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from bascule.batch import sampling
from bascule.batch.sampling import Sample

SCHEMA = pa.schema([("n", pa.int64())])


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(sampling, "SAMPLE_ROWS", 100)


def filled(expected_rows: int | None, *, rows: int = 1_000, chunks: int = 3) -> Sample:
    sample = Sample(expected_rows, SCHEMA)
    for chunk in range(chunks):
        for start in range(0, rows, 70):
            values = np.arange(start, min(start + 70, rows))
            batch = pa.record_batch([pa.array(values)], schema=SCHEMA)
            sample.add(chunk, int(values[-1]) + 1, batch)
    return sample


def places_of(sample: Sample, chunk: int) -> list[int]:
    return sorted(np.concatenate([places for places, _, _ in sample.of_chunk(chunk)]).tolist())


@pytest.mark.parametrize("expected_rows", [3_000, None])
def test_each_chunk_is_sampled_evenly_whether_the_rows_are_known_or_not(expected_rows):
    sample = filled(expected_rows)
    table = sample.table()
    assert 50 <= table.num_rows <= 100
    steps = {tuple(np.unique(np.diff(places_of(sample, chunk)))) for chunk in range(3)}
    assert len(steps) == 1  # one step, the same in all chunks
    for places, rows, _ in (part for chunk in range(3) for part in sample.of_chunk(chunk)):
        assert places.tolist() == rows["n"].to_pylist()


def test_a_small_table_is_sampled_whole():
    assert filled(90, rows=30).table().num_rows == 90


def test_a_batch_that_is_read_again_counts_once():
    sample = filled(90, rows=30)
    sample.add(0, 30, pa.record_batch([pa.array(np.arange(30))], schema=SCHEMA))
    assert sample.table().num_rows == 90


def test_profiles_are_made_of_fewer_rows_than_checks(monkeypatch):
    monkeypatch.setattr(sampling, "PROFILED_ROWS", 10)
    for rows, expected in ((10, 10), (95, 10), (1_000, 10)):
        batch = pa.record_batch({"x": np.arange(rows)})
        sample = Sample(rows, batch.schema)
        sample.add(0, rows, batch)
        (part,) = sample.profiled(0)
        assert len(part[0]) == part[1].num_rows == expected
        assert sample.table().num_rows == min(rows, 100)
