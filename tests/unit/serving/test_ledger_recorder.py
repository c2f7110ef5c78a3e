"""The recorder of the ledger: what it keeps is a uniform sample, and it says of what share."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from bascule.monitoring.ledger import read_blocks
from bascule.monitoring.ledger.tables import answers_of, tables_of
from bascule.serving.calls import Answer, AnsweredBy, Call
from bascule.serving.telemetry import LedgerRecorder, MetricLabels

LABEL = MetricLabels("gb", "1")
BY = AnsweredBy("gb", "1", "onnx")


class Spool:
    def __init__(self):
        self.ids = []
        self.data = b""

    def keep(self, request_id):
        self.ids.append(request_id)

    def append(self, data, requests):
        assert requests > 0
        self.data += data

    def close(self):
        pass

    def rows(self):
        blocks = [block for block, _ in read_blocks(self.data)]
        return [row for _, _, table in tables_of(answers_of(blocks)) for row in table.to_pylist()]


def ask(recorder, number, rows=1, fields=None):
    context = SimpleNamespace(
        prediction_id=str(number), caller="", protocol="oip", trace=(b"", b""), started_ns=0
    )
    columns = fields or {"x": np.full(rows, float(number))}
    recorder.add(context, Call(columns, rows), Answer({}, BY), LABEL, 200, 1)


def test_below_the_rate_everything_is_kept():
    spool = Spool()
    recorder = LedgerRecorder(spool, max_rows_per_s=100)
    for number in range(100):
        ask(recorder, number)
    recorder.flush()
    assert [row["id"] for row in spool.rows()] == [str(number) for number in range(100)]
    assert {row["kept_share"] for row in spool.rows()} == {1.0}


def test_above_the_rate_a_bounded_uniform_sample_is_kept_and_says_its_share():
    kept, asked, rounds = np.zeros(10), 2_000, 60
    for seed in range(rounds):
        spool = Spool()
        recorder = LedgerRecorder(spool, max_rows_per_s=100, draw=Random(seed).random)
        for number in range(asked):
            ask(recorder, number)
        recorder.flush()
        rows = spool.rows()
        (share,) = {row["kept_share"] for row in rows}
        assert len(rows) <= 100
        assert len(rows) == pytest.approx(share * asked, abs=5 * (share * asked) ** 0.5)
        kept += np.histogram([int(row["id"]) for row in rows], 10, (0, asked))[0]
    # Early and late requests of an interval alike, though the share fell while it went on.
    assert stats.chisquare(kept).pvalue > 1e-3


def test_the_next_interval_finds_its_share_again_when_fewer_ask():
    spool = Spool()
    recorder = LedgerRecorder(spool, max_rows_per_s=100, draw=Random(1).random)
    for number in range(1_000):
        ask(recorder, number)
    for _ in range(8):
        recorder.tick()
    spool.data = b""
    ask(recorder, 1)
    recorder.flush()
    assert [row["kept_share"] for row in spool.rows()] == [1.0]


def test_of_a_large_request_some_rows_are_kept_and_say_which():
    spool = Spool()
    recorder = LedgerRecorder(spool, max_rows_per_s=10_000)
    ask(recorder, 1, rows=3_000, fields={"x": np.arange(3_000.0)})
    rows = spool.rows()
    assert len(rows) == 1_024
    assert all(row["input.x"] == row["row"] for row in rows)
    assert rows[0]["kept_share"] == pytest.approx(1_024 / 3_000)


@pytest.mark.parametrize("private", ["x", "gb.x"])
def test_private_fields_are_left_out(private):
    spool = Spool()
    recorder = LedgerRecorder(spool, private=(private, "other.y"))
    ask(recorder, 1, fields={"x": np.array([1.0]), "y": np.array([2.0])})
    recorder.flush()
    (row,) = spool.rows()
    assert "input.x" not in row
    assert row["input.y"] == 2.0


def test_images_are_left_out():
    spool = Spool()
    recorder = LedgerRecorder(spool)
    ask(recorder, 1, fields={"image": np.zeros((1, 64, 64)), "y": np.array([2.0])})
    recorder.flush()
    (row,) = spool.rows()
    assert "input.image" not in row
    assert row["input.y"] == 2.0


def test_texts_of_a_table_keep_their_shape():
    spool = Spool()
    recorder = LedgerRecorder(spool)
    ask(recorder, 1, fields={"t": np.array([["a", None]], object)})
    recorder.flush()
    assert spool.rows()[0]["input.t"] == ["a", None]
