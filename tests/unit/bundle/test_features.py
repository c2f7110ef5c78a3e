"""Features that rows leave out are looked up: which, how old, and what becomes of the rest."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime

import numpy as np
import pytest
from tests.shelf_store import TTL_S, shelves

import bascule
from bascule.bundle.disk import write_statement
from bascule.bundle.features import AGE, FEATURES_KIND, FilledProgram, features_of, open_store
from bascule.bundle.features.filling import filled
from bascule.core import DType, Invalid, Unavailable, Untrusted

KNOWN = {
    "JFK": {"wind": (2.0, 60.0), "gust": (1.5, 30.0), "month": (7, 9e9), "carrier": ("AA", 10.0)},
    "EWR": {"wind": (3.0, 10.0), "gust": (0.5, 20.0), "month": (1, 5.0), "carrier": ("BB", 10.0)},
}
STORE = "shelf://here"


@pytest.fixture(autouse=True)
def shelf(monkeypatch):
    with shelves(monkeypatch, {name: dict(of) for name, of in KNOWN.items()}) as store:
        yield store


@pytest.fixture
def bundle(table_bundle, tmp_path):
    """A bundle of which all inputs but `airport` are features of it."""
    path = shutil.copytree(table_bundle, tmp_path / "late.bundle")
    said = features_of(f"{STORE}#all", bascule.load(path).signature)
    body = {"source": said.source, "keys": {"airport": "BYTES"}, "max_age_s": dict(said.max_age_s)}
    write_statement(path, FEATURES_KIND, body, at=datetime.now(UTC), by="test")
    return bascule.load(path)


@pytest.fixture
def program(bundle):
    features = features_of(f"{STORE}#all", bundle.signature)
    made = FilledProgram(bundle.program(), features, bundle.signature, STORE, 5.0)
    yield made
    made.close()


def airports(*names):
    return {"airport": np.array(names, object)}


def whole(rows):
    """The same rows with the features written out."""
    at = [{name: value for name, (value, _) in KNOWN[one].items()} for one in rows["airport"]]
    return rows | {name: [one[name] for one in at] for name in at[0]}


def test_an_answer_by_keys_is_the_answer_to_the_written_out_rows(bundle):
    rows = airports("JFK", "EWR", "JFK")
    answer = bundle.with_features(STORE).predict(rows)
    assert dict(answer).keys() == dict(bundle.predict(whole(rows))).keys()
    for name, values in bundle.predict(whole(rows)).items():
        np.testing.assert_array_equal(answer[name], values)


def test_a_value_that_is_sent_is_kept_and_a_missing_one_is_looked_up(program, shelf):
    call = airports("JFK", "EWR") | {"wind": np.array([9.0, np.nan])}
    program.complete([call])
    assert call["wind"].tolist() == [9.0, 3.0]
    assert call["carrier"].tolist() == ["AA", "BB"]
    assert call["month"].tolist() == [7.0, 1.0]


def test_rows_that_lack_nothing_are_not_looked_up(program, shelf):
    call = whole(airports("JFK"))
    call = {name: np.asarray(values, object if name in ("airport", "carrier") else float)
            for name, values in call.items()}  # fmt: skip
    program.run(call)
    assert shelf.asked == []
    assert np.isnan(call[AGE]).all()


def test_a_call_that_is_complete_is_not_looked_up_again(program, shelf):
    call = airports("JFK")
    program.complete([call])
    program.run(call)
    program.run(call)
    assert shelf.asked == [["JFK"]]


def test_equal_keys_of_all_calls_are_asked_once_and_a_thousand_at_a_time(program, shelf):
    many = [f"X{number}" for number in range(2_500)]
    calls = [airports("JFK", "JFK"), airports("JFK", *many)]
    program.complete(calls)
    assert [len(keys) for keys in shelf.asked] == [1000, 1000, 501]
    assert calls[0]["wind"].tolist() == [2.0, 2.0]
    assert np.isnan(calls[1]["wind"][1:]).all()


def test_the_age_is_that_of_the_oldest_feature_looked_up(program, shelf):
    sent = airports("JFK", "EWR") | {"month": np.array([1.0, np.nan])}
    program.complete([sent])
    assert sent[AGE] == pytest.approx([60.0, 20.0], abs=2.0)


def test_a_feature_older_than_its_time_to_live_is_missing(program, shelf):
    shelf.rows["JFK"]["wind"] = (2.0, TTL_S + 1)
    call = airports("JFK")
    program.complete([call])
    assert np.isnan(call["wind"][0])
    assert call["month"][0] == 7.0, "one without a time to live is never too old"


def test_a_feature_as_old_as_its_time_to_live_is_not_too_old():
    ages = np.array([TTL_S, np.nextafter(TTL_S, np.inf)])
    values, used = filled(np.full(2, np.nan), np.ones(2), ages, TTL_S)
    np.testing.assert_array_equal(values, [1.0, np.nan])
    np.testing.assert_array_equal(used, [TTL_S, np.nan])


def test_a_row_that_lacks_what_the_model_needs_is_refused_by_name(program, shelf):
    del shelf.rows["EWR"]["month"]
    with pytest.raises(Invalid, match=r"month is missing in row 1: the feature store has none"):
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


def test_a_store_that_fails_says_why_and_is_asked_again(program, shelf):
    shelf.failure = ConnectionError("refused by redis:6379")
    with pytest.raises(Unavailable, match="refused by redis:6379"):
        program.run(airports("JFK"))
    shelf.failure = None
    program.run(airports("JFK"))


def test_without_a_store_the_bundle_takes_its_features_from_callers(bundle):
    assert bundle.with_features("").signature == bundle.signature
    with pytest.raises(Invalid, match="missing"):
        bundle.predict(airports("JFK"))


def test_callers_may_leave_out_features_and_not_keys(bundle):
    inputs = {one.name: one for one in bundle.with_features(STORE).signature.inputs}
    assert {name for name, one in inputs.items() if one.optional} == set(KNOWN["JFK"])
    assert (inputs["month"].dtype, inputs["month"].nullable) == (DType.FP64, True)
    with pytest.raises(Invalid, match="'airport' is missing"):
        bundle.with_features(STORE).predict({"wind": [1.0]})


def test_a_store_without_a_feature_of_that_name_is_refused(regressor_bundle):
    with pytest.raises(Invalid, match="no feature that is named as an input"):
        features_of(f"{STORE}#all", bascule.load(regressor_bundle).signature)


@pytest.mark.parametrize("address", ["here", "#all", "shelf://here"])
def test_an_address_without_a_source_is_refused(bundle, address):
    with pytest.raises(Invalid, match="not STORE#SOURCE"):
        features_of(address, bundle.signature)


def test_an_unknown_kind_of_store_is_refused():
    with pytest.raises(Invalid, match="no feature store 'tecton'"):
        open_store("tecton://there")


def test_a_statement_of_another_form_is_not_trusted(bundle):
    write_statement(
        bundle.path, FEATURES_KIND, {"source": 1}, at=datetime.now(UTC), by="somebody"
    )  # fmt: skip
    with pytest.raises(Untrusted, match="statement on features"):
        bundle.with_features(STORE)
