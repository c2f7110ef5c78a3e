"""Features that rows leave out are looked up: which, how old, and what becomes of the rest."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression
from tests.shelf_store import TTL_S, declare, shelves

import bascule
from bascule.bundle import conform
from bascule.bundle.disk import FEATURES, write_statement
from bascule.bundle.features import AGE, FilledProgram, declared, features_of, filling
from bascule.core import DType, Invalid, Signature, Unavailable, Untrusted
from bascule.packing.rebuilding import rebuild

KNOWN = {
    "JFK": {"wind": (2.0, 60.0), "gust": (1.5, 30.0), "month": (7, 9e9), "carrier": ("AA", 10.0)},
    "EWR": {"wind": (3.0, 10.0), "gust": (0.5, 20.0), "month": (1, 5.0), "carrier": ("BB", 10.0)},
}
STORE = "here"


@pytest.fixture(autouse=True)
def shelf(monkeypatch):
    with shelves(monkeypatch, {name: dict(of) for name, of in KNOWN.items()}) as store:
        yield store


@pytest.fixture
def bundle(table_bundle, tmp_path):
    """A bundle of which all inputs but `airport` are features of it."""
    path = shutil.copytree(table_bundle, tmp_path / "late.bundle")
    declare(path, features_of(f"{STORE}#all", bascule.load(path).signature))
    return bascule.load(path)


@pytest.fixture
def program(bundle):
    features = features_of(f"{STORE}#all", bundle.signature)
    made = FilledProgram(bundle.program(), features, bundle.signature, STORE, 5.0)
    yield made
    made.close()


def airports(*names):
    """Calls as a decoder makes them: what is left out is missing."""
    left_out = {name: np.full(len(names), np.nan) for name in ("wind", "gust", "month")}
    carrier = np.full(len(names), None, object)
    return {"airport": np.array(names, object), "carrier": carrier, **left_out}


def whole(rows):
    """The same rows with the features written out."""
    at = [{name: value for name, (value, _) in KNOWN[one].items()} for one in rows["airport"]]
    return rows | {name: [one[name] for one in at] for name in at[0]}


def test_an_answer_by_keys_is_the_answer_to_the_written_out_rows(program, bundle):
    rows = airports("JFK", "EWR", "JFK")
    answer = program.run(rows)
    for name, values in bundle.predict(whole(rows)).items():
        np.testing.assert_array_equal(answer[name], values)


def test_a_value_that_is_sent_is_kept_and_a_missing_one_is_looked_up(program, shelf):
    call = airports("JFK", "EWR") | {"wind": np.array([9.0, np.nan])}
    (call,) = program.complete([call])
    assert call["wind"].tolist() == [9.0, 3.0]
    assert call["carrier"].tolist() == ["AA", "BB"]
    assert call["month"].tolist() == [7.0, 1.0]


def test_rows_that_lack_nothing_are_not_looked_up(program, shelf):
    call = whole(airports("JFK"))
    call = {name: np.asarray(values, object if name in ("airport", "carrier") else float)
            for name, values in call.items()}  # fmt: skip
    (completed,) = program.complete([call])
    assert shelf.asked == []
    assert np.isnan(completed[AGE]).all()


def test_a_call_that_is_complete_is_not_looked_up_again(program, shelf):
    (call,) = program.complete([airports("JFK")])
    program.run(call)
    program.run(call)
    assert shelf.asked == [["JFK"]]


def test_the_columns_of_a_caller_stay_as_they_were_sent(program):
    call = airports("JFK")
    program.complete([call])
    program.run(call)
    assert AGE not in call
    assert np.isnan(call["wind"]).all()


def test_equal_keys_of_all_calls_are_asked_once_and_a_thousand_at_a_time(program, shelf):
    many = [f"X{number}" for number in range(2_500)]
    calls = program.complete([airports("JFK", "JFK"), airports("JFK", *many)])
    assert [len(keys) for keys in shelf.asked] == [998, 1000, 503]
    assert calls[0]["wind"].tolist() == [2.0, 2.0]
    assert np.isnan(calls[1]["wind"][1:]).all()


def test_the_age_is_that_of_the_oldest_feature_looked_up(program, shelf):
    sent = airports("JFK", "EWR") | {"month": np.array([1.0, np.nan])}
    (sent,) = program.complete([sent])
    assert sent[AGE] == pytest.approx([60.0, 20.0], abs=2.0)


def test_a_feature_older_than_its_time_to_live_is_missing(program, shelf):
    shelf.rows["JFK"]["wind"] = (2.0, TTL_S + 1)
    (call,) = program.complete([airports("JFK")])
    assert np.isnan(call["wind"][0])
    assert call["month"][0] == 7.0, "one without a time to live is never too old"


def test_a_feature_as_old_as_its_time_to_live_is_not_too_old(program, shelf, monkeypatch):
    monkeypatch.setattr(filling, "time", SimpleNamespace(time=lambda: 2e9))
    for age_s, expected in ((TTL_S, 2.0), (TTL_S + 0.5, np.nan)):
        times = {name: ([value], [2e9 - age_s]) for name, (value, _) in KNOWN["JFK"].items()}
        monkeypatch.setattr(shelf, "read", lambda *_, times=times: times)
        (call,) = program.complete([airports("JFK")])
        np.testing.assert_array_equal(call["wind"], expected)
        np.testing.assert_array_equal(call[AGE], age_s)  # month has no limit


def test_a_row_that_lacks_what_the_model_needs_is_refused_by_name(program, shelf):
    del shelf.rows["EWR"]["month"]
    with pytest.raises(Invalid, match="month is missing in row 1, and the model takes INT64"):
        program.run(airports("JFK", "EWR"))
    del shelf.rows["JFK"]["wind"]
    program.run(airports("JFK"))  # which may be missing, as it was in training


def test_a_value_of_the_store_that_the_model_does_not_take_is_refused(program, shelf):
    shelf.rows["JFK"]["month"] = (13, 1.0)
    with pytest.raises(Invalid, match="month"):
        program.run(airports("JFK"))


def test_a_store_that_is_late_is_not_asked_again_until_it_has_answered(bundle, shelf):
    features = features_of(f"{STORE}#all", bundle.signature)
    program = FilledProgram(bundle.program(), features, bundle.signature, STORE, 0.05)
    shelf.open.clear()
    with pytest.raises(Unavailable, match=r"no answer within 0\.05 s"):
        program.run(airports("JFK"))
    with pytest.raises(Unavailable, match="still owes an answer"):
        program.run(airports("EWR"))
    assert shelf.asked == [["JFK"]]
    shelf.open.set()
    program._late.result(5)
    program.run(airports("EWR"))


def test_without_a_thread_the_store_is_away_and_is_asked_again(program, monkeypatch):
    def no_thread(**_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(filling, "Thread", no_thread)
        with pytest.raises(Unavailable, match="can't start new thread"):
            program.run(airports("JFK"))
    program.run(airports("JFK"))


def test_a_store_that_fails_says_why_and_is_asked_again(program, shelf):
    shelf.failure = ConnectionError("refused by redis:6379")
    with pytest.raises(Unavailable, match="refused by redis:6379"):
        program.run(airports("JFK"))
    shelf.failure = None
    program.run(airports("JFK"))


def test_callers_may_leave_out_features_and_not_keys(program):
    inputs = {one.name: one for one in program.inputs}
    assert {name for name, one in inputs.items() if one.optional} == set(KNOWN["JFK"])
    assert (inputs["month"].dtype, inputs["month"].nullable) == (DType.FP64, True)
    signature = Signature(program.inputs, ())
    assert np.isnan(conform({"airport": ["JFK"], "month": [1]}, signature)["wind"]).all()
    with pytest.raises(Invalid, match="'airport' is missing"):
        conform({"wind": [1.0]}, signature)


def test_a_store_without_a_feature_of_that_name_is_refused(regressor_bundle):
    with pytest.raises(Invalid, match="no feature that is named as an input"):
        features_of(f"{STORE}#all", bascule.load(regressor_bundle).signature)


@pytest.mark.parametrize("address", ["here", "#all"])
def test_an_address_without_a_source_is_refused(bundle, address):
    with pytest.raises(Invalid, match="not STORE#SOURCE"):
        features_of(address, bundle.signature)


def test_an_input_with_the_name_of_the_age_is_refused(bundle):
    first, *others = bundle.signature.inputs
    inputs = (replace(first, name=AGE), *others)
    with pytest.raises(Invalid, match="feature_age_s"):
        features_of(f"{STORE}#all", replace(bundle.signature, inputs=inputs))


@pytest.mark.parametrize("sent", [7.5, 1e30])
def test_a_number_that_the_type_of_the_input_has_not_is_refused(program, sent):
    with pytest.raises(Invalid, match=r"month is .+ in row 0, and the model takes INT64"):
        program.run(airports("JFK") | {"month": np.array([sent])})


def test_a_program_opens_while_its_store_is_away(bundle, shelf, monkeypatch):
    def away(*_):
        raise ConnectionError("refused")

    features = features_of(f"{STORE}#all", bundle.signature)
    monkeypatch.setattr(shelf, "read", away)
    program = FilledProgram(bundle.program(), features, bundle.signature, STORE, 5.0)
    with pytest.raises(Unavailable, match="away: refused"):
        program.run(airports("JFK"))
    monkeypatch.undo()


def test_a_store_that_hangs_does_not_hold_up_the_end_of_the_process(bundle, shelf):
    features = features_of(f"{STORE}#all", bundle.signature)
    program = FilledProgram(bundle.program(), features, bundle.signature, STORE, 0.05)
    shelf.open.clear()
    with pytest.raises(Unavailable):
        program.run(airports("JFK"))
    waiting = [one for one in threading.enumerate() if one.name.startswith("bascule-features")]
    assert waiting
    assert all(one.daemon for one in waiting)


def test_what_is_looked_up_is_part_of_the_digest(bundle, table_bundle):
    """Whoever may push a copy of a bundle may add statements to all versions of its digest."""
    assert bundle.digest != bascule.load(table_bundle).digest
    before = declared(bundle.path, bundle.manifest)
    body = {"source": "mine", "keys": {"airport": "BYTES"}, "max_age_s": {"wind": 0.0}}
    write_statement(bundle.path, "features", body, by="somebody")
    assert declared(bundle.path, bascule.load(bundle.path).manifest) == before
    (bundle.path / FEATURES).write_text(json.dumps(body))
    with pytest.raises(Untrusted):
        declared(bundle.path, bundle.manifest)


def test_a_file_of_another_form_is_not_trusted(bundle):
    declare(bundle.path, {"source": 1})
    with pytest.raises(Untrusted, match="a list of features"):
        declared(bundle.path, bascule.load(bundle.path).manifest)


def test_a_bundle_with_features_is_rebuilt_with_the_same_digest(tmp_path):
    random = np.random.default_rng(0)
    X = pd.DataFrame({"airport_delay": random.normal(size=200), "wind": random.normal(size=200)})
    packed = bascule.pack(
        LinearRegression().fit(X, X.wind), name="late", train=X, to=tmp_path / "b",
        measure=False, features=f"{STORE}#all",
    )  # fmt: skip
    said = declared(packed.path, packed.manifest)
    assert (dict(said.keys), dict(said.max_age_s)) == ({"airport": DType.BYTES}, {"wind": TTL_S})
    assert rebuild(packed.path, train=X).rebuilt == packed.digest
