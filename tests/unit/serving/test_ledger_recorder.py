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
        self.dropped = 0

    def keep(self, request_id):
        self.ids.append(request_id)

    def append(self, data, requests):
        assert requests > 0
        self.data += data

    def drop(self, requests, why):
        self.dropped += requests

    def close(self):
        pass

    def rows(self):
        blocks = [block for block, _ in read_blocks(self.data)]
        return [row for _, _, table in tables_of(answers_of(blocks)) for row in table.to_pylist()]


def ask(recorder, number, rows=1, fields=None, by=BY):
    context = SimpleNamespace(
        prediction_id=str(number), caller="", protocol="oip", trace=(b"", b""), started_ns=0
    )
    columns = fields or {"x": np.full(rows, float(number))}
    recorder.add(context, Call(columns, rows), Answer({}, by), LABEL, 200, 1)


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
    recorder = LedgerRecorder(spool, private={private: "omit", "other.y": "omit"})
    ask(recorder, 1, fields={"x": np.array([1.0]), "y": np.array([2.0])})
    recorder.flush()
    (row,) = spool.rows()
    assert "input.x" not in row
    assert row["input.y"] == 2.0


def test_a_column_that_shows_what_is_private_of_another_is_left_out_too():
    spool = Spool()
    recorder = LedgerRecorder(spool, private={"credit.paid": "omit", "age": "omit"})
    sources = {"copy.fee": frozenset({"paid", "fee", "copy.fee"}), "amount": frozenset({"amount"})}
    by = AnsweredBy("credit", "1", "composition", sources=sources)
    columns = {name: np.array([1.0]) for name in ("amount", "copy.fee", "copy.rule", "age")}
    ask(recorder, 1, fields=columns, by=by)
    recorder.flush()
    (row,) = spool.rows()
    assert {name for name in row if name.startswith("input.")} == {
        "input.amount",
        "input.copy.rule",
    }


KEY = bytes(range(32))


def record(recorder, spool, fields):
    ask(recorder, 1, rows=len(next(iter(fields.values()))), fields=fields)
    recorder.flush()
    return spool.rows()


@pytest.mark.parametrize(
    "values", [np.array(["ada", "bob", "ada", None], object), np.array([1.5, 2, 1.5, np.nan])]
)
def test_a_hashed_field_has_equal_hashes_for_equal_values_and_not_the_value(values):
    spool = Spool()
    rows = record(LedgerRecorder(spool, private={"gb.x": "hash"}, key=KEY), spool, {"x": values})
    first, other, again, missing = (row["input.x.hash"] for row in rows)
    assert first == again != other
    assert missing is None
    assert all("input.x" not in row for row in rows)
    assert b"ada" not in spool.data


def test_a_hash_is_not_found_without_its_key():
    hashes = []
    for key in (KEY, KEY, KEY[::-1]):
        spool = Spool()
        recorder = LedgerRecorder(spool, private={"x": "hash"}, key=key)
        (row,) = record(recorder, spool, {"x": np.array(["ada"], object)})
        hashes.append(row["input.x.hash"])
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("options", [{}, {"key": KEY, "is_anonymous": True}])
def test_a_hashed_field_is_left_out_without_a_key_and_of_profiles(options):
    spool = Spool()
    recorder = LedgerRecorder(spool, private={"x": "hash"}, **options)
    ask(recorder, 1, fields={"x": np.array(["ada"], object), "y": np.array([2.0])})
    recorder.flush()
    (block,) = (block for block, _ in read_blocks(spool.data))
    (answers,) = answers_of([block])
    assert list(answers.inputs) == ["y"]


def test_no_profile_counts_hashes():
    spool = Spool()
    recorder = LedgerRecorder(spool, private={"x": "hash"}, key=KEY)
    record(recorder, spool, {"x": np.array(["ada"], object), "y": np.array([2.0])})
    (answers,) = answers_of([block for block, _ in read_blocks(spool.data)])
    assert list(answers.columns(np.arange(1))[0]) == ["y"]


@pytest.mark.parametrize(("most", "is_kept"), [(4_095, False), (4_096, True)])
def test_images_are_left_out_unless_asked_for(most, is_kept):
    spool = Spool()
    recorder = LedgerRecorder(spool, max_values_per_row=most)
    (row,) = record(recorder, spool, {"image": np.zeros((1, 64, 64)), "y": np.array([2.0])})
    assert ("input.image" in row) is is_kept
    assert row["input.y"] == 2.0


def test_images_are_left_out_by_default():
    spool = Spool()
    (row,) = record(LedgerRecorder(spool), spool, {"image": np.zeros((1, 1_025)), "y": np.ones(1)})
    assert "input.image" not in row


def test_texts_of_a_table_keep_their_shape():
    spool = Spool()
    recorder = LedgerRecorder(spool)
    ask(recorder, 1, fields={"t": np.array([["a", None]], object)})
    recorder.flush()
    assert spool.rows()[0]["input.t"] == ["a", None]


def test_a_field_whose_shape_varies_is_kept_request_by_request():
    spool = Spool()
    recorder = LedgerRecorder(spool)
    lengths = (2, 3, 1, 2)
    for length in lengths:
        ask(recorder, length, fields={"x": np.arange(float(length))[None]})
    recorder.flush()
    rows = spool.rows()
    assert sorted(row["input.x"] for row in rows) == sorted(
        [*map(float, range(n))] for n in lengths
    )
    assert all(len(row["input.x"]) == int(row["id"]) for row in rows)


def test_an_output_without_one_value_a_row_is_dropped_and_counted():
    spool = Spool()
    recorder = LedgerRecorder(spool)
    context = SimpleNamespace(
        prediction_id="a", caller="", protocol="oip", trace=(b"", b""), started_ns=0
    )
    answer = Answer({"mean": np.array([1.0])}, BY)
    recorder.add(context, Call({"x": np.zeros(3)}, 3), answer, LABEL, 200, 1)
    recorder.flush()
    assert (spool.rows(), spool.dropped) == ([], 1)


def test_many_choices_of_outputs_are_all_kept():
    spool = Spool()
    recorder = LedgerRecorder(spool)
    for number in range(200):
        context = SimpleNamespace(
            prediction_id=str(number), caller="", protocol="oip", trace=(b"", b""), started_ns=0
        )
        answer = Answer({f"output-{number}": np.array([1.0])}, BY)
        recorder.add(context, Call({"x": np.zeros(1)}, 1), answer, LABEL, 200, 1)
    recorder.flush()
    assert {row["id"] for row in spool.rows()} == {str(number) for number in range(200)}


def test_a_request_says_its_trace_and_its_caller():
    spool = Spool()
    recorder = LedgerRecorder(spool)
    parent = b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"
    for caller, trace in (("me", parent), ("you", b""), ("me", b"")):
        context = SimpleNamespace(
            prediction_id="a", caller=caller, protocol="oip", trace=(trace, b""), started_ns=0
        )
        recorder.add(context, Call({"x": np.zeros(1)}, 1), Answer({}, BY), LABEL, 200, 1)
    recorder.flush()
    assert [(row["caller"], row["trace_id"]) for row in spool.rows()] == [
        ("me", "a" * 32), ("you", ""), ("me", ""),
    ]  # fmt: skip


def test_what_is_written_is_what_was_kept_first_whatever_answered():
    """So that of a killed worker the ids that are missing are the last ones."""
    spool = Spool()
    recorder = LedgerRecorder(spool)
    for number in range(64):
        if number == 3:
            context = SimpleNamespace(
                prediction_id="3", caller="", protocol="oip", trace=(b"", b""), started_ns=0
            )
            recorder.add(context, None, None, LABEL, 503, 1)
        else:
            ask(recorder, number)
    assert {row["id"] for row in spool.rows()} == set(spool.ids)
    assert len(spool.ids) == 64


def test_the_rows_of_a_request_are_kept_or_left_out_together_with_their_id():
    """Two requests of two rows, of which the second fills the interval and is left out."""
    spool = Spool()
    recorder = LedgerRecorder(spool, max_rows_per_s=3, draw=iter([0.1, 0.9]).__next__)
    ask(recorder, 1, fields={"x": np.array([1.0, 1.5]), "t": np.array(["a", "b"], object)}, rows=2)
    ask(recorder, 2, fields={"x": np.array([2.0, 2.5]), "t": np.array(["c", "d"], object)}, rows=2)
    recorder.flush()
    found = [(row["id"], row["row"], row["input.x"], row["input.t"]) for row in spool.rows()]
    assert found == [("1", 0, 1.0, "a"), ("1", 1, 1.5, "b")]
    assert {row["kept_share"] for row in spool.rows()} == {0.5}


def test_rows_say_the_endpoint_and_the_arm_of_its_plan():
    spool = Spool()
    recorder = LedgerRecorder(spool)
    context = SimpleNamespace(
        prediction_id="1", caller="", protocol="oip", trace=(b"", b""), started_ns=0
    )
    call = Call({"x": np.ones(1)}, 1)
    arms = {name: MetricLabels("late", "4", "fast", name, 7) for name in ("current", "candidate")}
    for name, label in arms.items():
        by = AnsweredBy("late", "4", "onnx", endpoint="fast", arm=name)
        recorder.add(context, call, Answer({}, by), label, 200, 1)
    recorder.add(context, call, None, arms["candidate"], 500, 1)  # no answer names the arm
    recorder.add(context, call, Answer({}, BY), LABEL, 200, 1)
    recorder.flush()
    found = [
        (row["model"], row["version"], row["endpoint"], row["arm"], row["plan"], row["status"])
        for row in spool.rows()
    ]
    assert sorted(found) == [
        ("gb", "1", "gb", "", 0, 200),
        ("late", "4", "fast", "candidate", 7, 200),
        ("late", "4", "fast", "candidate", 7, 500),
        ("late", "4", "fast", "current", 7, 200),
    ]


def test_the_unit_of_a_key_is_kept_where_a_rollout_counts_keys():
    spool = Spool()
    recorder = LedgerRecorder(spool)
    for number, unit in enumerate([None, 4_711, -1, None]):
        context = SimpleNamespace(
            prediction_id=str(number), caller="me", protocol="oip", trace=(b"", b""), started_ns=0,
            unit=unit,
        )  # fmt: skip
        call = Call({"x": np.zeros(2)}, 2)
        recorder.add(context, call, Answer({}, BY), LABEL, 200, 1)
    recorder.flush()
    rows = [(row["id"], row["unit"], row["caller"]) for row in spool.rows()]
    units = [("0", None), ("1", 4_711), ("2", -1), ("3", None)]
    assert rows == [(name, unit, "me") for name, unit in units for _ in range(2)]


def test_what_was_looked_up_is_kept_and_not_what_was_sent():
    spool = Spool()
    recorder = LedgerRecorder(spool)
    for looked_up in ({"x": np.full(1, 2.0), "age": np.ones(1)}, None):
        context = SimpleNamespace(
            prediction_id="1", caller="", protocol="oip", trace=(b"", b""), started_ns=0
        )
        answer = looked_up and Answer({}, BY, None, looked_up)
        recorder.add(context, Call({"x": np.full(1, np.nan)}, 1), answer, LABEL, 200, 1)
    recorder.flush()
    answered, refused = spool.rows()
    assert (answered["input.x"], answered["input.age"]) == (2.0, 1.0)
    assert np.isnan(refused["input.x"])


def test_refused_requests_of_other_fields_are_kept_whichever_came_first():
    texts = {"request": np.array(["hi"], object)}
    about = texts | {"subject": np.array(["ada"], object)}
    for order in ((texts, about), (about, texts)):
        spool = Spool()
        recorder = LedgerRecorder(spool)
        for number, fields in enumerate(order):
            ask(recorder, number, fields=fields, by=None)
            recorder.flush()
        assert spool.dropped == 0
        assert [row.get("input.subject") for row in spool.rows()] == [
            "ada" if "subject" in fields else None for fields in order
        ]
