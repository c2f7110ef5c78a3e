"""Compositions: what they answer, what is refused when they are packed, and what a bundle keeps."""

from __future__ import annotations

import copy
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.compose import make_column_transformer
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from tests.tiers import examples

import bascule
from bascule.bundle import disk, load
from bascule.core import Invalid, NotFound, TimedOut, Untrusted
from bascule.packing import PythonModel

COUNTRIES = ["DE", "FR", "IT"]
CHAIN = {
    "parts": {
        "risk": {"model": "risk"},
        "loss": {"model": "loss"},
        "price": {
            "model": "price",
            "inputs": {"p_bad": "risk.probabilities['bad']", "loss": "loss.prediction / 2"},
        },
        "other_risk": {"model": "other"},
        "both": {"ensemble": ["risk", "other_risk"], "weights": [3, 1]},
        "votes": {"ensemble": ["risk", "other_risk"], "how": "vote"},
        "dear": {"model": "loss"},
        "price_it": {"model": "price", "inputs": {"p_bad": "0.5", "loss": "amount"}},
        "by_country": {
            "router": [
                {"when": "country == 'IT' and both.label == 'ok'", "part": "price_it"},
                {"when": "missing(age)", "part": "dear"},
                {"part": "price_it"},
            ]
        },
        "decision": {
            "rules": [
                {
                    "when": "both.probabilities['bad'] > 0.6 or not votes.label != 'bad'",
                    "then": {"decision": "refuse", "fee": 0},
                },
                {
                    "when": "age < 30 and country in ['DE', 'FR']",
                    "then": {"decision": "ask", "fee": {"value": "price.prediction"}},
                },
                {"then": {"decision": "accept", "fee": {"value": "-by_country.prediction"}}},
            ],
            "examples": [
                {"given": {"both.probabilities['bad']": 0.7}, "then": {"decision": "refuse"}},
                {
                    "given": {"age": 20, "country": "DE", "votes.label": "ok"},
                    "then": {"decision": "ask"},
                },
            ],
        },
    },
    "outputs": {
        "decision": "decision.decision",
        "fee": "decision.fee",
        "p": "both.probabilities",
        "way": "by_country.part",
    },
}


@pytest.fixture(scope="module")
def table():
    random = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "amount": random.gamma(2, 50, 300),
            "age": random.integers(18, 80, 300).astype(float),
            "country": random.choice(COUNTRIES, 300),
        }
    )
    rows.loc[::17, "age"] = np.nan
    return rows


@pytest.fixture(scope="module")
def folder(table, tmp_path_factory):
    """Bundles: risk and other (classifiers), loss, and price, which reads two numbers."""
    folder = tmp_path_factory.mktemp("parts")
    labels = np.where(table.amount + 10 * (table.country == "IT") > 110, "bad", "ok")
    for name, strength in (("risk", 1.0), ("other", 0.001)):
        model = make_pipeline(prepared(), LogisticRegression(C=strength)).fit(table, labels)
        pack(model, name, table, folder)
    pack(
        make_pipeline(prepared(), LinearRegression()).fit(table, table.amount * 0.1),
        "loss",
        table,
        folder,
    )
    rows = pd.DataFrame({"p_bad": np.linspace(0, 1, 300), "loss": np.geomspace(1, 99, 300)})
    trees = GradientBoostingRegressor(n_estimators=5).fit(rows, rows.p_bad * rows.loss)
    pack(trees, "price", rows, folder)
    return folder


def prepared():
    return make_column_transformer(
        (SimpleImputer(), ["amount", "age"]), (OneHotEncoder(handle_unknown="ignore"), ["country"])
    )


def pack(model, name, rows, folder, **more):
    options = {"explain": False, "outliers": False, "measure": False, "to": folder / name}
    return bascule.pack(model, name=name, train=rows, **(options | more))


@pytest.fixture(scope="module")
def composed(folder):
    """`composed(document)`: packed, with models from the folder."""

    def make(said, name="credit", **more):
        from bascule.packing import Composition

        model = Composition(said, lambda reference: load(folder / reference))
        return pack(model, name, None, folder, overwrite=True, **more)

    return make


@pytest.fixture(scope="module")
def chain(composed):
    return composed(CHAIN, "chain")


def changed(**parts):
    said = copy.deepcopy(CHAIN)
    for name, part in parts.items():
        said["parts"][name] = said["parts"].get(name, {}) | part
    return said


def by_hand(folder, row):
    """What the parts of `CHAIN` give for a row, each asked by itself."""
    asked = {name: load(folder / name) for name in ("risk", "other", "loss", "price")}
    rows = {
        name: np.array([value], float if name != "country" else object)
        for name, value in row.items()
    }
    risk, other = asked["risk"].predict(rows), asked["other"].predict(rows)
    loss = asked["loss"].predict(rows)["prediction"]
    bad = asked["risk"].classes.index("bad")
    first = {"p_bad": risk["probabilities"][:, bad], "loss": loss / 2}
    price = asked["price"].predict(first)["prediction"][0]
    shares = (3 * risk["probabilities"] + other["probabilities"])[0] / 4
    label = asked["risk"].classes[int(np.argmax(shares))]
    votes = [answer["label"][0] for answer in (risk, other)]
    vote = votes[0] if votes[0] == votes[1] else "bad"  # the first of equals
    by_country, way = loss[0], "dear"
    if (row["country"] == "IT" and label == "ok") or not np.isnan(row["age"]):
        rows = {"p_bad": np.array([0.5]), "loss": np.array([row["amount"]])}
        by_country, way = asked["price"].predict(rows)["prediction"][0], "price_it"
    if shares[bad] > 0.6 or vote == "bad":
        decision, fee = "refuse", 0.0
    elif row["age"] < 30 and row["country"] in ("DE", "FR"):
        decision, fee = "ask", price
    else:
        decision, fee = "accept", -by_country
    return {"decision": decision, "fee": fee, "p": shares, "way": way}


row_of_table = st.fixed_dictionaries(
    {
        "amount": st.floats(0, 1000),
        "age": st.floats(0, 100) | st.just(float("nan")),
        "country": st.sampled_from([*COUNTRIES, "XX", None]),
    }
)


@settings(max_examples=examples(40), deadline=None)
@given(rows=st.lists(row_of_table, min_size=1, max_size=6))
def test_a_composition_answers_as_its_parts_asked_by_hand(chain, folder, rows):
    table = pd.DataFrame(rows).astype({"country": object})
    answered = chain.predict({name: table[name].to_numpy() for name in table})
    for place, row in enumerate(rows):
        for name, value in by_hand(folder, row).items():
            assert np.array_equal(answered[name][place], value), (name, row)


def test_no_rows_are_refused_as_by_any_model(chain, table):
    with pytest.raises(Invalid, match="no rows"):
        chain.predict(table.head(0))


def test_its_signature_is_what_its_parts_read_of_the_request(chain, folder):
    assert chain.signature.inputs == load(folder / "risk").signature.inputs
    assert [field.name for field in chain.signature.outputs] == ["decision", "fee", "p", "way"]


def test_it_answers_without_the_bundles_that_it_was_packed_from(chain, folder, table, tmp_path):
    shutil.copytree(chain.path, tmp_path / "alone")
    expected = chain.predict(table)
    alone = load(tmp_path / "alone").predict(table)
    assert all((alone[name] == expected[name]).all() for name in ("decision", "way"))
    assert not [file for file in chain.manifest.files if file.startswith("parts/risk/data/")]


def test_the_order_of_its_tables_does_not_change_its_digest_and_another_part_does(
    composed, chain, folder, table, tmp_path
):
    again = json.loads(json.dumps(CHAIN))
    assert composed(again, "chain", to=tmp_path / "again").digest == chain.digest
    labels = np.where(table.amount > 90, "bad", "ok")
    newer = make_pipeline(prepared(), LogisticRegression()).fit(table, labels)
    pack(newer, "newer", table, folder)
    assert (
        composed(changed(risk={"model": "newer"}), "chain", to=tmp_path / "newer").digest
        != chain.digest
    )


def test_one_that_ends_in_a_classifier_is_judged_by_the_rows_that_are_held_out(composed, table):
    labels = np.where(table.amount > 110, "bad", "ok")
    ensemble = {key: CHAIN["parts"][key] for key in ("risk", "other_risk", "both")}
    made = composed({"parts": ensemble}, "both", test=(table, labels))
    assert made.task == "classification"
    assert made.classes == ("bad", "ok")
    report = bascule.check(made, ["accuracy >= 0.5", "parity <= 1e-9"])
    assert report.passed


def test_a_part_that_is_served_as_its_original_keeps_a_process_of_its_own(
    composed, folder, tmp_path
):
    (tmp_path / "double.py").write_text(
        "class Model:\n    def predict(self, columns):\n"
        "        if (columns['x'] < 0).any():\n            raise ValueError('negative')\n"
        "        return {'y': columns['x'] * 2}\n"
    )
    code = PythonModel(entry="double:Model", code=tmp_path / "double.py")
    pack(code, "double", pd.DataFrame({"x": [1.0, 2.0]}), folder)
    parts = {
        "first": {"model": "double"},
        "second": {"model": "double", "inputs": {"x": "first.y"}},
    }
    made = composed({"parts": parts}, "twice")
    program = made.program()
    try:
        assert program.may_block
        assert program.run({"x": np.array([1.5])})["y"] == [6.0]
        with pytest.raises(bascule.BasculeError, match=r"^part first: .*failed") as failed:
            program.run({"x": np.array([-1.0])})
        assert failed.value.facts["part"] == "first"
        counts = program.new_part_counts()
        assert counts["first"].failures == 1
        assert counts["second"].runs == 1
        assert program.new_part_counts()["first"].runs == 0
        program.interrupt()
        program.bound_runs(0.0)
        with pytest.raises(TimedOut, match="part"):
            program.run({"x": np.array([1.5])})
    finally:
        program.close()


def test_what_a_part_hands_on_is_checked_as_a_request_is(composed):
    parts = {
        "price": {"model": "price"},
        "next": {"model": "price", "inputs": {"loss": "price.prediction / (loss - 7)"}},
    }
    made = composed({"parts": parts}, "infinite")
    with pytest.raises(Invalid, match=r"^part next: .*loss"):
        made.predict({"p_bad": [0.5], "loss": [7.0]})


def test_a_composition_may_be_a_part(composed, chain, table):
    parts = {
        "inner": {"model": "chain"},
        "last": {
            "rules": [
                {"when": "inner.decision == 'refuse'", "then": {"go": False}},
                {"then": {"go": True}},
            ]
        },
    }
    made = composed({"parts": parts}, "outer")
    expected = chain.predict(table)["decision"] != "refuse"
    assert (made.predict(table)["go"] == expected).all()


def test_the_program_tells_the_ledger_what_each_part_answered(chain, folder):
    program = chain.program()
    calls = [
        {
            "amount": np.array([amount]),
            "age": np.array([np.nan]),
            "country": np.array(["DE"], object),
        }
        for amount in (5.0, 500.0)
    ]
    completed = program.complete(calls)
    for call, added in zip(calls, completed, strict=True):
        expected = program.run(call)
        assert all(
            np.array_equal(value, expected[name]) for name, value in program.run(added).items()
        )
        assert added["risk.digest"][0] == load(folder / "risk").digest[:19]
        assert added["risk.ms"][0] > 0
        assert added["both.label"][0] in ("bad", "ok")
        assert added["decision.rule"].shape == (1,)
    assert program.new_part_counts()["risk"].rows == 4


REFUSED = [
    (changed(price={"inputs": {"p_bad": "decision.fee"}}), "no part 'decision' above"),
    (changed(both={"ensemble": ["risk", "both"]}), r"parts\.both\.ensemble: .* 'both' above"),
    (changed(both={"ensemble": ["risk", "none"]}), r"parts\.both\.ensemble: .* no part 'none'"),
    (changed(price={"inputs": {"p_bad": "risk.nothing"}}), "has no output 'nothing'"),
    (changed(price={"inputs": {"p_bad": "risk.label"}}), r"price\.inputs\.p_bad: takes FP64"),
    (changed(price={"inputs": {"p_bad": "risk.probabilities"}}), "of shape"),
    (changed(price={"inputs": {"p_bad": "risk.probabilities['good']"}}), "no value 'good'"),
    (changed(price={"inputs": {"nothing": "amount"}}), "has no input"),
    (changed(price={"inputs": {"p_bad": "income"}}), "no part and no model's input is 'income'"),
    (changed(late={"model": "price", "inputs": {"p_bad": "dear.prediction"}}), "only the rows"),
    (changed(both={"ensemble": ["risk", "loss"]}), "different things|no output"),
    (changed(votes={"ensemble": ["loss", "price"]}), "has no output 'label'"),
    (changed(both={"weights": [1]}), "one of 0 or more for each"),
    (changed(both={"weights": [1, float("nan")]}), "weights"),
    (changed(both={"ensemble": ["risk"]}), "length >= 2"),
    ({"parts": [1]}, "a part has one of"),
    ({"parts": {"risk": 1}}, "a part has one of"),
    ({"parts": {"p": {"model": "price", "inputs": {"p_bad": "1", "loss": "1"}}}}, "no part reads"),
    (changed(price={"inputs": {"p_bad": "9" * 400}}), "64 bits"),
    (changed(by_country={"router": [{"part": "risk"}]}), "only the rows|other outputs|answers"),
    (changed(price={"model": ""}), "has one of model"),
    (changed(risk={"weights": [1]}), "unknown field `weights`"),
    (changed(risk={"digest": "sha256:0"}), "found when it is packed"),
    (changed(risk={"colour": "red"}), r"parts\.risk.*colour|colour.*parts\.risk"),
    ({"parts": {"Risk": {"model": "risk"}}}, "matching regex"),
    ({"parts": {}}, "1 to 16"),
    ({"parts": {"risk": {"model": "risk"}}, "inputs": {"x": "FP65"}}, "Invalid enum value 'FP65'"),
    ({"parts": {"risk": {"model": "risk"}}, "inputs": {"x": "FP64"}}, "inputs.x: nothing reads"),
    ({"parts": {"risk": {"model": "risk"}}, "outputs": {"one": "1"}}, "constant"),
    (changed(price={"inputs": {"p_bad": "amount + 'x'"}}), "text"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "words"), REFUSED, ids=range(len(REFUSED)))
def test_what_does_not_fit_together_is_refused_with_its_place(composed, said, words):
    with pytest.raises(Invalid, match=words):
        composed(said, "refused")


def rules(rows, **more):
    return changed(decision={"rules": rows, "examples": []} | more)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            changed(decision={"examples": [{"given": {"votes.label": "ok"}, "then": {"fee": 7}}]}),
            r"examples\[1\]: row 3 of the table gives fee = nan",
        ),
        (
            changed(decision={"examples": [{"given": {"amount": 20}, "then": {"fee": 7}}]}),
            "do not read 'amount'",
        ),
        (
            changed(decision={"examples": [{"given": {"age": "x"}, "then": {"fee": 7}}]}),
            "'x' is no value of age",
        ),
        (
            changed(decision={"examples": [{"given": {"age + 1": 20}, "then": {}}]}),
            "not something that an expression may say",
        ),
        (
            rules([{"then": {"a": 100_001}}], examples=[{"given": {}, "then": {"a": 100_000}}]),
            "gives a = 100001",
        ),
        (rules([{"then": {"a": 10**400}}]), "64 bits"),
        (rules([{"then": {"a": float("nan")}}]), "parts.decision: NaN or an infinite number"),
        (
            rules([{"then": {"a": 1}}], examples=[{"given": {"age": float("nan")}, "then": {}}]),
            "parts.decision: NaN or an infinite number",
        ),
        (rules([{"when": "age > 1", "then": {"a": 1}}]), "the last row, and no other"),
        (rules([{"then": {"a": 1}}, {"then": {"a": 1}}]), "the last row, and no other"),
        (rules([{"when": "age > 1", "then": {"a": 1}}, {"then": {"b": 1}}]), "same outputs"),
        (rules([{"when": "age > 1", "then": {"a": 1}}, {"then": {"a": "x"}}]), "INT64 and BYTES"),
        (rules([{"when": "age", "then": {"a": 1}}, {"then": {"a": 1}}]), "a number in a row"),
        (rules([{"when": "age > 'x'", "then": {"a": 1}}, {"then": {"a": 1}}]), "a text in a row"),
        (
            rules([{"when": "country > 'x'", "then": {"a": 1}}, {"then": {"a": 1}}]),
            "== , !=|==, !=",
        ),
    ],
)
def test_a_rule_table_that_is_not_whole_or_fails_its_examples_is_refused(composed, said, words):
    with pytest.raises(Invalid, match=words):
        composed(said, "refused")


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')", "().__class__", "age.__class__", "lambda: 1", "[age]",
        "age if age else age", "age ** 9", "f'{age}'", "open('x')", "age; age", "", "missing(1)",
        "(" * 60 + "age" + ")" * 60 + "[", "-" * 900 + "age", "not " * 200 + "(age > 1)",
        "age > 1j", "age in age", "country[0] == 'x'", "x := age", "age > None",
    ],
)  # fmt: skip
def test_an_expression_may_say_nothing_else(composed, text):
    with pytest.raises(Invalid):
        composed(rules([{"when": text, "then": {"a": 1}}, {"then": {"a": 2}}]), "refused")


def test_a_comparison_with_a_missing_value_is_false(composed, table):
    row = {"amount": [1.0], "age": [np.nan], "country": np.array([None], object)}
    for text in ("age != 5", "age == 5", "not missing(age)", "country != 'DE'", "country == 'DE'",
                 "age not in [1, 2]", "country not in ['DE']", "age == age"):  # fmt: skip
        made = composed(
            {
                "parts": {
                    "risk": {"model": "risk"},
                    "last": {"rules": [{"when": text, "then": {"a": 1}}, {"then": {"a": 2}}]},
                }
            },
            "missing",
        )
        assert made.predict(row)["a"] == [2], text


def test_a_column_that_no_model_reads_is_declared(composed, table):
    parts = {
        "risk": {"model": "risk"},
        "last": {
            "rules": [
                {"when": "vip and column('days since') >= 2", "then": {"go": True}},
                {"then": {"go": False}},
            ]
        },
    }
    said = {
        "parts": parts,
        "inputs": {"vip": "BOOL", "days since": "FP64"},
    }
    made = composed(said, "declared")
    rows = table.head(3).assign(vip=[True, True, False], **{"days since": [3.0, np.nan, 3.0]})
    assert made.predict(rows)["go"].tolist() == [True, False, False]


def test_a_bundle_whose_parts_were_exchanged_is_not_opened(chain, folder, tmp_path):
    place = tmp_path / "changed"
    shutil.copytree(chain.path, place)
    shutil.rmtree(place / "parts/risk")
    shutil.copytree(folder / "other", place / "parts/risk")
    with pytest.raises(Untrusted):
        load(place)
    manifest = disk.read_manifest(chain.path)
    with pytest.raises(Untrusted, match="not the bundle that was packed"):
        bascule.bundle.open_program(place, manifest)


def test_a_toml_file_names_bundles_beside_it_and_registered_ones(
    folder, tmp_path, monkeypatch, command
):
    monkeypatch.setenv("BASCULE_HOME", str(tmp_path / "home"))
    registry = bascule.open_registry()
    registry.push(folder / "risk", by="ada")
    registry.set_alias("risk", "champion", 1, by="ada")
    shutil.copytree(folder / "other", tmp_path / "other")
    file = tmp_path / "both.toml"
    file.write_text(
        '[parts.a]\nmodel = "risk@champion"\n[parts.b]\nmodel = "other"\n'
        '[parts.both]\nensemble = ["a", "b"]\n'
    )
    code, _, said = command("pack", file, "--name=both", "--to", tmp_path / "both", "--no-measure")
    assert code == 0, said
    made = load(tmp_path / "both")
    assert made.task == "classification"
    (known,) = made.statements("provenance")
    assert "risk@champion" in known.body["model_parameters"]["a"]
    file.write_text('[parts.a]\nmodel = "missing/3"\n')
    code, _, said = command("pack", file, "--name=both", "--to", tmp_path / "none")
    assert code != 0
    assert "parts.a.model" in said
    with pytest.raises(NotFound, match=r"parts\.a\.model"):
        bascule.compose(file)
    with pytest.raises(Invalid, match="TOML"):
        bascule.compose(tmp_path / "nothing.toml")


def test_what_needs_one_graph_says_that_a_composition_is_none(chain, tmp_path):
    from bascule.runtimes import export

    with pytest.raises(Invalid):
        export(chain, "c", tmp_path / "c")


def test_a_composition_is_rebuilt_from_the_parts_in_its_bundle(composed, table, tmp_path):
    """Also where the registry has other versions of them by now, or none."""
    bundle = composed(CHAIN, "rebuilt")
    again = bascule.rebuild(bundle.path, to=tmp_path / "again")
    assert again.same, again.differences
    expected = bundle.predict(table)["decision"]
    assert (load(tmp_path / "again").predict(table)["decision"] == expected).all()
    outer = composed({"parts": {"inner": {"model": "rebuilt"}}}, "outermost")
    assert bascule.rebuild(outer.path).same


def test_a_composition_with_rows_is_rebuilt_with_them(folder, table):
    document = bascule.packing.Composition(
        {"parts": {"risk": {"model": "risk"}}}, lambda name: load(folder / name)
    )
    truth = np.where(table.amount > 110, "bad", "ok")
    to = folder / "with_rows"
    bascule.pack(document, name="rows", train=table, test=(table, truth), to=to, measure=False)
    with pytest.raises(Invalid, match="train rows are missing"):
        bascule.rebuild(to)
    assert bascule.rebuild(to, train=table).same


def test_an_output_may_be_called_as_what_is_recorded_of_a_part(composed, folder, tmp_path):
    """The time of a part must not be taken for its answer."""
    (tmp_path / "timed.py").write_text(
        "class Model:\n    def predict(self, columns):\n        return {'ms': columns['x'] + 1}\n"
    )
    code = PythonModel(entry="timed:Model", code=tmp_path / "timed.py")
    pack(code, "timed", pd.DataFrame({"x": [1.0, 2.0]}), folder)
    program = composed({"parts": {"first": {"model": "timed"}}}, "timed_once").program()
    try:
        (completed,) = program.complete([{"x": np.array([1.0])}])
        assert program.run(completed)["ms"] == [2.0]
    finally:
        program.close()


def test_a_longer_bound_takes_the_place_of_a_shorter_one(chain):
    program = chain.program()
    row = {"amount": [1.0], "age": [20.0], "country": np.array(["DE"], object)}
    row = {name: np.asarray(values) for name, values in row.items()}
    program.bound_runs(0.0)
    with pytest.raises(TimedOut):
        program.run(row)
    program.bound_runs(60.0)
    assert program.run(row)["decision"]


def test_models_that_read_a_column_in_other_types_get_it_in_theirs(composed, folder):
    for name, dtype in (("whole", "int64"), ("halves", "float32"), ("small", "int8")):
        rows = pd.DataFrame({"n": np.arange(40).astype(dtype)})
        pack(LinearRegression().fit(rows, rows.n * 2.0), name, rows, folder)
    parts = {name: {"model": name} for name in ("halves", "whole", "small")}
    made = composed({"parts": parts | {"all": {"ensemble": list(parts)}}}, "types")
    assert [field.dtype for field in made.signature.inputs] == ["INT8"]
    assert made.predict({"n": [3]})["prediction"] == pytest.approx([6.0], rel=1e-5)
    cut = {
        "parts": {"whole": {"model": "whole", "inputs": {"n": "0.5"}}, "small": {"model": "small"}}
    }
    with pytest.raises(Invalid, match=r"takes INT64, and 0\.5 is FP64"):
        composed(cut, "cut")


def test_a_program_that_this_machine_cannot_run_is_replaced_by_one_that_reads_other_types(
    chain, table, monkeypatch
):
    expected = chain.predict(table)
    monkeypatch.setattr("bascule.bundle.opening.runnable", lambda _entries: [])
    answered = load(chain.path).predict(table)
    assert (answered["decision"] == expected["decision"]).all()
    assert np.allclose(answered["fee"], expected["fee"], equal_nan=True)


NESTED = {
    "third": {"model": "price"}, "second": {"model": "price"}, "first": {"model": "price"},
    "inner": {"router": [{"when": "loss > 5", "part": "first"}, {"part": "second"}]},
    "outer": {"router": [{"when": "p_bad > 0.5", "part": "inner"}, {"part": "third"}]},
}  # fmt: skip


def test_the_time_of_a_part_is_that_of_a_run_and_of_rows_for_which_it_ran(composed):
    program = composed({"parts": NESTED}, "nested").program()
    rows = [(0.9, 9.0), (0.9, 1.0), (0.1, 1.0)]
    calls = [{"p_bad": np.array([p]), "loss": np.array([loss])} for p, loss in rows]
    completed = program.complete(calls)
    ran = [{part for part in NESTED if added[f"{part}.ms"][0] > 0} for added in completed]
    assert ran == [{"outer", "inner", "first"}, {"outer", "inner", "second"}, {"outer", "third"}]
    arrays = {id(added["outer.ms"].base) for added in completed}
    assert len(arrays) == 1
    assert arrays.isdisjoint(id(one["outer.ms"].base) for one in program.complete(calls[:1]))


def test_the_last_part_may_be_chosen_by_a_router_that_a_router_chooses(composed):
    made = composed({"parts": NESTED}, "nested")
    assert [field.name for field in made.signature.outputs] == ["prediction"]
    program = made.program()
    program.run({"p_bad": np.array([0.9, 0.9, 0.1]), "loss": np.array([9.0, 1.0, 1.0])})
    counts = program.new_part_counts()
    assert all(counts[name].rows == 1 for name in ("first", "second", "third"))


def test_columns_that_show_the_same_values_are_known_for_the_ledger(composed):
    """A rule table may copy a column, and a model is private under its own name too."""
    parts = {
        "first": {"model": "risk"},
        "copy": {"rules": [{"when": "first.label == 'ok'", "then": {"paid": {"value": "amount"}}},
                           {"then": {"paid": 0}}]},
        "again": {"rules": [{"then": {"twice": {"value": "copy.paid * 2"}}}]},
    }  # fmt: skip
    said = {"parts": parts, "outputs": {"bill": "again.twice", "risk": "first.label"}}
    program = composed(said, "credit").program()
    sources = program.plan.sources
    for name in ("amount", "copy.paid", "again.twice", "bill"):
        assert {"amount", "bill", "copy.paid", "twice"} <= sources[name]
        assert "label" not in sources[name]
    for name in ("first.label", "risk"):
        assert {"first.label", "risk.label", "label"} <= sources[name]
        assert "amount" not in sources[name]


def test_what_a_model_reads_is_private_under_its_own_names(composed):
    parts = {
        "risk": {"model": "risk", "inputs": {"amount": "income"}},
        "price": {"model": "price", "inputs": {"p_bad": "risk.probabilities['bad']"}},
    }
    said = {"parts": parts, "inputs": {"income": "FP64"}}
    sources = composed(said, "credit").program().plan.sources
    assert {"risk.amount", "amount"} <= sources["income"]
    assert {"risk.age"} <= sources["age"]
    assert {"price.p_bad", "p_bad"} <= sources["risk.probabilities"]
    assert "risk.amount" not in sources["loss"]


def test_a_part_that_may_take_long_is_asked_for_no_rows_that_are_made_up(tmp_path):
    (tmp_path / "listing.py").write_text(
        "import numpy as np\n"
        "class Model:\n"
        "    def predict(self, columns):\n"
        f"        with open({str(tmp_path / 'asked')!r}, 'a') as file:\n"
        "            file.writelines(f'{text}\\n' for text in columns['text'])\n"
        "        return {'size': np.array([float(len(text)) for text in columns['text']])}\n"
    )
    bascule.pack(
        bascule.PythonModel("listing:Model", code=tmp_path / "listing.py"), name="listing",
        train=pd.DataFrame({"text": ["one", "two"]}), to=tmp_path / "listing.bundle", measure=False,
    )  # fmt: skip
    (tmp_path / "asked").unlink()
    said = {"parts": {"listing": {"model": str(tmp_path / "listing.bundle")}}}
    bascule.pack(bascule.compose(said), name="of", to=tmp_path / "of.bundle", measure=False)
    assert not (tmp_path / "asked").exists()
