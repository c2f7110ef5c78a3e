"""Where a version is worse: slices of the ledger and of held-out rows, and false ones."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy.stats import binomtest, fisher_exact
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from tests.ledger_rows import take_in
from tests.tiers import first_of

import bascule
from bascule.bundle import take
from bascule.bundle.statements import column_names
from bascule.core import NotFound
from bascule.documents import Document, markdown
from bascule.jobs import Task, Unrecorded
from bascule.kinds import KINDS
from bascule.monitoring import Outcomes, Sides, find_slices
from bascule.monitoring.ledger import SpoolWriter
from bascule.registry import open_registry
from bascule.release import measure_slices, slice_blocks
from bascule.serving.calls import Answer, AnsweredBy, Call
from bascule.serving.telemetry import LedgerRecorder, MetricLabels
from bascule.settings import load_settings
from bascule.stats import WrongShares

DAY_NS = 86_400 * 10**9


def flights(rows, seed):
    random = np.random.default_rng(seed)
    X = pd.DataFrame({
        "wind": random.normal(10, 4, rows),
        "distance": np.where(random.random(rows) < 0.1, np.nan, random.gamma(3, 300, rows)),
        "carrier": random.choice(np.array(["AA", "UA", "B6"], object), rows, p=[0.6, 0.3, 0.1]),
    })  # fmt: skip
    y = np.where(X.wind + random.normal(0, 1.5, rows) > 13, "late", "ok").astype(object)
    return X, y


def spoilt(X, y, seed=5):
    """The same with a third of the truths of B6 turned around."""
    turned = (X.carrier == "B6") & (np.random.default_rng(seed).random(len(X)) < 0.35)
    return np.where(turned, np.where(y == "late", "ok", "late"), y).astype(object)


def packed(folder, name, X, y, fit_y=None):
    columns = make_column_transformer(
        (OneHotEncoder(), ["carrier"]), ("passthrough", ["wind"]), remainder="drop"
    )
    model = make_pipeline(columns, LogisticRegression(max_iter=500))
    model.fit(X[:3_000], (y if fit_y is None else fit_y)[:3_000])
    return bascule.pack(
        model, name="late", train=(X[:3_000], y[:3_000]), test=(X[3_000:], y[3_000:]),
        to=folder / f"{name}.bundle", measure=False, explain=False, outliers=False,
    )  # fmt: skip


def record(home, bundle, X, y, back=1, number="1"):
    """Rows that version `number` answered `back` days ago, with their truths."""
    manifest = bundle.manifest
    names = column_names(bundle.signature, manifest.classes, manifest.targets)
    by = AnsweredBy("late", number, "onnx", tuple(names.items()))
    columns = {name: X[name].to_numpy() for name in X}
    answers, at = dict(bundle.predict(columns)), time.perf_counter_ns() - back * DAY_NS
    recorder = LedgerRecorder(SpoolWriter(home), max_rows_per_s=10**9)
    for start in range(0, len(X), 100):
        part = slice(start, start + 100)
        context = SimpleNamespace(
            prediction_id=f"{number}-{back}-{start}", caller="me", protocol="oip",
            trace=(b"", b""), started_ns=at,
        )  # fmt: skip
        answer, call = Answer(take(answers, part), by), Call(take(columns, part), 100)
        recorder.add(context, call, answer, MetricLabels("late", number), 200, 10**6)
    recorder.close()
    take_in(home)
    ids = [f"{number}-{back}-{row // 100 * 100}#{row % 100}" for row in range(len(X))]
    Outcomes(home).add("late", pa.table({"id": ids, "truth": y.tolist()}))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """late/1, and late/2, which learned nothing of B6; a day of production spoilt in B6."""
    folder = tmp_path_factory.mktemp("slices")
    X, y = flights(6_000, seed=1)
    turned = np.where(X.carrier == "B6", np.where(y == "late", "ok", "late"), y).astype(object)
    first, second = packed(folder, "first", X, y), packed(folder, "second", X, y, turned)
    registry = open_registry(folder / "home")
    for bundle in (first, second):
        registry.push(bundle.path, by="ada")
    rows, truths = flights(4_000, seed=2)
    record(folder / "home", first, rows, spoilt(rows, truths))
    return folder / "home", first, second


def ask(home, **content):
    """The job in this process."""
    task = Task(kind="slices", input=content, title="slices")
    return KINDS["slices"].run(load_settings(home, {"BASCULE_HOME": str(home)}), task, Unrecorded())


@pytest.mark.slow  # in a process of its own
def test_the_command_shows_the_slice_and_ends_with_exit_code_1(made, command, monkeypatch):
    monkeypatch.setenv("BASCULE_HOME", str(made[0]))
    code, out, messages = command("slices", "late/1")
    assert code == 1, messages
    (line,) = (line for line in out.splitlines() if " = " in line)
    assert line.split()[:3] == ["carrier", "=", "B6"]


def test_a_slice_of_production_is_worse_than_the_same_held_out_rows(made):
    report = ask(made[0], model="late/1")
    (found,) = report["slices"]
    assert (report["model"], report["beside"]) == ("late/1", "held-out rows")
    assert found["where"] == ["carrier = B6"]
    assert 0.1 < found["between"][0] < found["difference"] < found["between"][1] < 0.5
    assert "truths count that came within" in report["notes"][0]


def test_two_versions_are_compared_on_the_rows_that_one_answered(made):
    report = ask(made[0], model="late/2", against="late/1", held_out=True)
    assert report["slices"][0]["where"] == ["carrier = B6"]
    assert ask(made[0], model="late/1", against="late/2", held_out=True)["slices"] == []
    report = ask(made[0], model="late/1", against="late/2")
    assert (report["beside"], report["slices"]) == ("the other version", [])
    assert report["rows"] > 3_000
    assert "is worse than the other version" in markdown(Document("", (), slice_blocks(report)))


def test_a_version_without_truths_or_answers_is_an_error_with_a_next_step(made):
    with pytest.raises(NotFound, match="late has no rows with inputs and truths to slice"):
        ask(made[0], model="late/2")
    with pytest.raises(NotFound):
        ask(made[0], model="late/1", since_s=60)


def test_numbers_are_wrong_where_their_error_is_among_the_largest(tmp_path):
    random = np.random.default_rng(3)
    X = random.normal(size=(6_000, 3))
    far = (X[:, 1] > 0.9)[:, None] * random.normal(size=(6_000, 1)) * 5
    y = X[:, 0] + random.normal(size=6_000) + far[:, 0]
    bundle = bascule.pack(
        LinearRegression().fit(X[:2_000], y[:2_000]), name="gb", train=(X[:2_000], y[:2_000]),
        test=(X[2_000:], y[2_000:]), to=tmp_path / "gb.bundle", measure=False, explain=False,
        outliers=False,
    )  # fmt: skip
    report = measure_slices(bundle)
    assert report["wrong"].startswith("errors over ")
    assert report["slices"][0]["where"][0].startswith("c1 > ")
    itself = measure_slices(bundle, against=bundle)
    assert (itself["slices"], itself["tested"] > 50) == ([], True)


def test_who_may_read_both_models_may_compare_them():
    model_of = KINDS["slices"].model_of
    assert (
        model_of({"model": "late/4"}) == model_of({"model": "late", "against": "late@a"}) == "late"
    )
    assert model_of({"model": "late/4", "against": "fares/1"}) == "*"


# -- the tests --


@pytest.mark.parametrize(("wrong", "rows", "others_wrong", "others"), [
    (30, 100, 10, 100), (3, 40, 0, 900), (20, 20, 0, 30), (1, 30, 1, 31),
])  # fmt: skip
def test_groups_are_compared_by_fishers_test(wrong, rows, others_wrong, others):
    table = [[wrong, rows - wrong], [others_wrong, others - others_wrong]]
    expected = fisher_exact(table, alternative="greater").pvalue
    found = WrongShares(rows, wrong, others, others_wrong).p_value
    assert found == pytest.approx(expected, rel=1e-6)


def test_pairs_are_compared_by_mcnemars_test():
    found = WrongShares(200, 40, 200, 22, both_wrong=10).p_value
    assert found == pytest.approx(binomtest(30, 42, alternative="greater").pvalue, rel=1e-9)
    assert WrongShares(200, 22, 200, 40, both_wrong=10).p_value == 1.0
    assert WrongShares(200, 22, 200, 22, both_wrong=22).p_value == 1.0


def test_intervals_cover_the_difference():
    random, covered = np.random.default_rng(0), []
    for _ in range(2_000):
        wrong, before = random.binomial(60, 0.3), random.binomial(90, 0.1)
        low, high = WrongShares(60, wrong, 90, before).interval(0.025)
        alone, both, beside = random.multinomial(80, [0.3, 0.1, 0.1, 0.5])[:3]
        shares = WrongShares(80, alone + both, 80, beside + both, int(both))
        least, most = shares.interval(0.025)
        covered.append((low <= 0.2 <= high, least <= 0.2 <= most))
    assert (np.mean(covered, axis=0) >= 0.94).all()


# -- the search --


def columns(random, rows):
    """Dependent, tied, missing, rare and constant columns."""
    x, a = random.normal(size=rows), random.choice(np.array(list("ABCDEFGH"), object), rows)
    return {
        "x": x, "copy": 2 * x, "near": x + random.normal(size=rows) / 10, "a": a,
        "a_mostly": np.where(random.random(rows) < 0.8, a, "A").astype(object),
        "ties": np.round(random.gamma(2, 1, rows)), "constant": np.ones(rows),
        "gaps": np.where(random.random(rows) < 0.2, np.nan, random.normal(size=rows)),
        "empty": np.full(rows, np.nan), "flag": random.random(rows) < 0.3,
        "rare": random.choice(np.array([f"v{i}" for i in range(200)], object), rows),
    }  # fmt: skip


def sides(kind, random, share, rows, worse=0.0):
    """Both sides, equally wrong but for what is worse; `share` is of each row."""
    wrong, before = random.random(rows) < share + worse, random.random(rows) < share
    if kind == "pairs":
        return Sides(wrong, others_wrong=before)
    if kind == "rest":
        return Sides(wrong)
    is_old = random.random(rows) < 0.5
    return Sides(np.where(is_old, before, wrong), is_old=is_old)


def false_share(kind, rows, runs, seed=0):
    false = 0
    for run in range(runs):
        random = np.random.default_rng([seed, run, rows])
        by = columns(random, rows)
        # Where answers are hard is the same on both sides; of one side all rows are alike.
        hard = 0.0 if kind == "rest" else 0.15 * (by["a"] == "A") - 0.1 * (by["x"] > 0)
        false += bool(find_slices(by, sides(kind, random, 0.2 + hard, rows))[0])
    return false / runs


@pytest.mark.parametrize("kind", first_of(["pairs", "groups", "rest"]))
def test_few_searches_find_a_false_slice(kind):
    assert false_share(kind, 400, 40) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("rows", [100, 1_000, 10_000])
@pytest.mark.parametrize("kind", ["pairs", "groups", "rest"])
def test_at_most_one_search_in_twenty_finds_a_false_slice(kind, rows):
    assert false_share(kind, rows, 400 if rows < 10_000 else 100) <= 0.05


def found_share(kind, by_pair, runs):
    """How often a planted slice of 5 % of the rows, 10 points worse, is found by its conditions."""
    found, rows = 0, 20_000 * (2 if kind == "groups" else 1)
    for run in range(runs):
        random = np.random.default_rng([7, run])
        by = columns(random, rows)
        names = [f"k{place}" for place in range(4 if by_pair else 20)]
        by["k"], by["u"] = random.choice(np.array(names, object), rows), random.random(rows)
        worse = 0.1 * ((by["k"] == "k3") & (by["u"] > (0.8 if by_pair else 0)))
        slices, _ = find_slices(by, sides(kind, random, 0.2, rows, worse))
        conditions = [each["where"] for each in slices]
        found += any(
            where[0] == "k = k3" and (where[1].startswith("u > ") if by_pair else not where[1:])
            for where in conditions
            if not by_pair or len(where) == 2
        )
    return found / runs


def test_a_planted_slice_is_found():
    assert found_share("pairs", False, 4) >= 0.75


@pytest.mark.slow
@pytest.mark.parametrize("by_pair", [False, True])
@pytest.mark.parametrize("kind", ["pairs", "groups", "rest"])
def test_four_of_five_planted_slices_are_found(kind, by_pair):
    assert found_share(kind, by_pair, 100) >= 0.8
