"""A model learns each outcome once, in order; what it becomes depends on nothing else."""

from __future__ import annotations

import math
import pickle
import shutil
from contextlib import chdir
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from river import datasets, linear_model, metrics, naive_bayes, optim, preprocessing, tree
from river.datasets import synth
from sklearn.linear_model import SGDClassifier
from tests.learners import record, tell
from tests.ledger_rows import killed_at

from bascule import training
from bascule.app import open_registry
from bascule.bundle import load
from bascule.core import Conflict, Invalid, Untrusted
from bascule.jobs import Task, Unrecorded
from bascule.kinds import KINDS
from bascule.monitoring.ledger import Ledger
from bascule.settings import Settings
from bascule.training import (
    arrival,
    arrived,
    count_outcomes,
    key_of,
    learn,
    new_batches,
    open_state,
    packable,
    read_pipeline,
    save_state,
)
from bascule.training.learnable import answers_of, opened, tested_then_learnt as learnt_rows

CODE = """
from river import compose, ensemble, linear_model, naive_bayes, preprocessing, tree
from sklearn.linear_model import SGDClassifier

def logistic():
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()

def bayes():
    return naive_bayes.GaussianNB()

def linear():
    return preprocessing.StandardScaler() | linear_model.LinearRegression()

def regressor():
    return tree.HoeffdingTreeRegressor(grace_period=50)

def bagging():
    return ensemble.BaggingClassifier(naive_bayes.GaussianNB(), n_models=2)

def own_step():
    return compose.FuncTransformer(logistic) | linear_model.LogisticRegression()

def hoeffding():
    return tree.HoeffdingTreeClassifier(grace_period=50)

def sgd():
    return SGDClassifier(loss="log_loss", random_state=0)
"""
TOML = """
[pipeline.late]
fit = "learn.py:logistic"
every = 200
held_out = 100
batch = 50
classes = [0, 1]
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("learn.py").write_text(CODE)
    Path("pipeline.toml").write_text(TOML)
    return tmp_path / "home"


def learner(**changes):
    return msgspec.structs.replace(read_pipeline(Path("pipeline.toml")), **changes)


def phishing(rows=1250):
    pairs = list(datasets.Phishing())[:rows]
    inputs = [{name: float(value) for name, value in row.items()} for row, _ in pairs]
    return inputs, [int(truth) for _, truth in pairs]


def fill(home, rows=1250, **options):
    inputs, truths = phishing(rows)
    ids = record(home, inputs, [0] * rows, **options)
    tell(home, ids, truths)
    return ids, truths


def learnt(home, own, state):
    for batch in new_batches(Ledger(home), own, state):
        learn(own, state, batch)
    return state


def run(home):
    task = Task(
        kind="train", input=KINDS["train"].parse({}), title="train", by="me", folder=str(Path.cwd())
    )
    return KINDS["train"].run(Settings(home=home), task, Unrecorded())


@pytest.mark.parametrize(
    ("start", "model"),
    [
        ("logistic", preprocessing.StandardScaler() | linear_model.LogisticRegression()),
        ("bayes", naive_bayes.GaussianNB()),
    ],
)
def test_without_delay_the_prequential_accuracy_is_that_of_river_alone(home, start, model):
    fill(home)
    accuracy = metrics.Accuracy()
    for row, truth in zip(*phishing(), strict=True):
        accuracy.update(truth, model.predict_one(row))
        model.learn_one(row, bool(truth))

    own = learner(fit=f"learn.py:{start}")
    state = learnt(home, own, open_state(home / "state", own))

    tested = accuracy.cm.n_samples
    assert state.learned == tested == 1250
    assert state.prequential.tested - state.prequential.lost == accuracy.cm.total_true_positives


def drifting(rows):
    """Labels whose rule changes in the middle."""
    before, after = (synth.SEA(variant, seed=1) for variant in (0, 3))
    stream = synth.ConceptDriftStream(before, after, seed=1, position=rows // 2, width=20)
    pairs = list(stream.take(rows))
    return [{f"x{name}": value for name, value in row.items()} for row, _ in pairs], [
        int(truth) for _, truth in pairs
    ]


def follows_river_alone(home, stream, rows, comes):
    """Rows are answered in chunks of 50; truths come three chunks later, of some answers alone."""
    inputs, truths = stream(rows)
    own, answers, waiting = learner(), [], []
    state = open_state(home / "state", own)
    alone = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    for start in range(0, rows, 50):
        chunk = range(start, start + 50)
        table = pa.Table.from_pylist([inputs[place] for place in chunk])
        answers += answers_of(opened(state.model), table, own.classes)
        assert answers[start:] == [int(alone.predict_one(inputs[place])) for place in chunk]
        ids = record(home, [inputs[own] for own in chunk], answers[start:], first=start)
        waiting.append([(i, p) for i, p in zip(ids, chunk, strict=True) if comes(answers[p], p)])
        if len(waiting) <= 3:
            continue
        late = waiting[-4]
        tell(home, [name for name, _ in late], [truths[place] for _, place in late])
        told = [place for chunk in waiting[:-3] for _, place in chunk]
        for place in told[state.learned : len(told) // 50 * 50]:
            alone.learn_one(inputs[place], bool(truths[place]))
        learnt(home, own, state)
    told = told[: state.learned]
    assert state.served.tested - state.served.lost == sum(answers[p] == truths[p] for p in told)
    right = np.array(answers) == np.array(truths)
    return state, right, right[told].mean()


def test_late_truths_are_learnt_as_river_alone_learns_them_late(home):
    state, _, _ = follows_river_alone(
        home, phishing, 450, lambda answer, place: answer or place % 4
    )
    assert state.learned >= 200


@pytest.mark.slow  # 7,500 predictions in 150 looks at the ledger
@pytest.mark.parametrize("stream", [phishing, drifting])
def test_of_late_truths_that_depend_on_the_answer_the_bias_is_told(home, stream):
    rows = 1250 if stream is phishing else 2500
    everything = follows_river_alone(home / "all", stream, rows, lambda answer, place: True)
    state, right, plain = follows_river_alone(
        home / "some", stream, rows, lambda answer, place: answer or place % 5 == 0
    )
    assert everything[0].learned == rows - 150
    assert arrival(arrived(Ledger(home / "all"), learner()))[1] == ""
    weighted, told = arrival(arrived(Ledger(home / "some"), learner()))
    assert told.startswith("truths came for")
    assert abs(weighted - right.mean()) < 0.03 < plain - right.mean()
    again = follows_river_alone(
        home / "again", stream, rows, lambda answer, place: answer or place % 5 == 0
    )
    assert (state.model, state.snapshot) == (again[0].model, again[0].snapshot)


def test_a_regression_learns_numbers_as_river_alone_does(home):
    pairs = list(synth.FriedmanDrift(seed=1, position=(200, 300, 400)).take(550))
    inputs = [{f"x{name}": value for name, value in row.items()} for row, _ in pairs]
    truths = [truth for _, truth in pairs]
    Path("pipeline.toml").write_text(TOML.replace("logistic", "linear").replace("[0, 1]", "[]"))
    tell(home, record(home, inputs, [14.0] * 550, output="prediction"), truths)
    own = learner()
    state = learnt(home, own, open_state(home / "state", own))
    model = preprocessing.StandardScaler() | linear_model.LinearRegression()
    losses = []
    for row, truth in zip(inputs, truths, strict=True):
        losses.append(abs(model.predict_one(row) - truth))
        model.learn_one(row, truth)
    assert state.prequential.mean() == pytest.approx(np.mean(losses))
    assert state.served.mean() == pytest.approx(np.mean(np.abs(np.array(truths) - 14)))


@pytest.mark.slow  # packs, and builds an environment with river
@pytest.mark.parametrize(("start", "kind"), [("linear", "onnx"), ("regressor", "")])
def test_a_snapshot_of_a_regression_is_served_and_answers_numbers(home, start, kind):
    Path("pipeline.toml").write_text(TOML.replace("logistic", start).replace("[0, 1]", "[]"))
    inputs, _ = phishing(350)
    truths = [row["https"] * 3 + row["popup_window"] for row in inputs]
    tell(home, record(home, inputs, [1.0] * 350, output="prediction"), truths)
    metrics = run(home)["metrics"]
    assert metrics["prequential_absolute_error"] < metrics["served_absolute_error"]
    bundle = load(open_registry(Settings(home=home)).path("late/1"))
    assert bundle.task == "regression"
    assert [own.kind for own in bundle.manifest.programs] == [kind] * bool(kind)
    state = open_state(home / "training" / f"{key_of(learner())}.state", learner())
    columns = {name: np.array([row[name] for row in inputs]) for name in inputs[0]}
    expected = answers_of(opened(state.champion), pa.Table.from_pylist(inputs), ())
    assert bundle.predict(columns)["prediction"].tolist() == pytest.approx(expected)


def test_a_truth_that_is_no_number_is_not_learnt_by_a_regression(home):
    Path("pipeline.toml").write_text(TOML.replace("logistic", "linear").replace("[0, 1]", "[]"))
    tell(home, record(home, [{"x": 1.0}] * 50, [1.0] * 50, output="prediction"), ["late"] * 50)
    own = learner()
    state = learnt(home, own, open_state(home / "state", own))
    assert (state.learned, state.unknown, state.prequential.tested) == (50, 50, 0)


@pytest.mark.parametrize("data", [pickle.dumps({"model": b"[]"}), b"", b"\x81\xa5model\x01"])
def test_a_file_that_is_no_state_is_refused_and_not_run(home, data):
    (home / "state").parent.mkdir(exist_ok=True)
    (home / "state").write_bytes(data)
    with pytest.raises(Untrusted, match="is no state of a learner"):
        open_state(home / "state", learner())


def test_a_model_with_a_function_of_the_users_own_is_refused_by_its_name(home):
    own = learner(fit="learn.py:own_step")
    with pytest.raises(Invalid, match="holds learn:logistic, which is not of river's models"):
        open_state(home / "state", own)


def test_an_outcome_is_learnt_once_when_it_is_late_sent_twice_or_corrected(home):
    inputs, truths = phishing(400)
    ids = record(home, inputs, [0] * 400)
    tell(home, ids[100:300], truths[100:300])
    own = learner()
    state = learnt(home, own, open_state(home / "state", own))
    assert state.learned == 200
    tell(home, ids[100:300], [1 - truth for truth in truths[100:300]])
    learnt(home, own, state)
    assert state.learned == 200
    tell(home, ids[:130], truths[:130])
    learnt(home, own, state)
    assert state.learned == 300
    tell(home, ids[300:], truths[300:])
    assert learnt(home, own, state).learned == 400


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A home in which a run has learnt 550 outcomes, and its result."""
    folder = tmp_path_factory.mktemp("ran")
    with chdir(folder):
        Path("learn.py").write_text(CODE)
        Path("pipeline.toml").write_text(TOML)
        fill(folder / "home", 550)
        return folder / "home", run(folder / "home")


def test_a_run_pushes_snapshots_with_their_parents(home, ran):
    shutil.copytree(ran[0], home)
    result = ran[1]
    registry = open_registry(Settings(home=home))
    bodies = [registry.statements(own, "snapshot")[0].body for own in registry.versions("late")]
    assert [(own["learned"], own["parent"]) for own in bodies] == [(200, ""), (400, "late/1")]
    assert registry.resolve("late@champion").number in (1, 2)
    assert "550 outcomes learnt" in result["sentence"]
    assert result["metrics"]["learned"] == 550
    assert run(home)["version"] == ""


@pytest.mark.parametrize("start", [
    "logistic", "hoeffding", pytest.param("bayes", marks=pytest.mark.slow),
    pytest.param("sgd", marks=pytest.mark.slow), pytest.param("bagging", marks=pytest.mark.slow),
])  # fmt: skip
def test_a_model_depends_on_its_outcomes_and_not_on_where_runs_began(home, start):
    inputs, truths = phishing(500)
    ids = record(home, inputs, [0] * 500)
    own = learner(fit=f"learn.py:{start}")
    pieces = open_state(home / "pieces", own)
    for first, last in ((0, 120), (120, 130), (130, 420), (420, 500)):
        tell(home, ids[first:last], truths[first:last])
        learnt(home, own, pieces)
        save_state(home / "pieces", pieces)
        pieces = open_state(home / "pieces", own)
    whole = learnt(home, own, open_state(home / "whole", own))
    assert whole.learned == pieces.learned == 500
    assert (whole.model, whole.snapshot) == (pieces.model, pieces.snapshot)


@pytest.mark.slow
def test_of_many_classes_the_prequential_accuracy_is_that_of_river_alone(home):
    pairs = list(datasets.Shuttle())[:1000]
    inputs = [{name: float(value) for name, value in row.items()} for row, _ in pairs]
    truths = [int(truth) for _, truth in pairs]
    tell(home, record(home, inputs, [0] * 1000), truths)
    own = learner(fit="learn.py:hoeffding", classes=tuple(sorted(set(truths))))
    state = learnt(home, own, open_state(home / "state", own))
    model, right = tree.HoeffdingTreeClassifier(grace_period=50), 0
    for row, truth in zip(inputs, truths, strict=True):
        right += model.predict_one(row) == truth
        model.learn_one(row, truth)
    assert state.learned == 1000
    assert state.prequential.tested - state.prequential.lost == right


@pytest.mark.slow  # packs six times
def test_a_killed_run_is_done_again_and_ends_in_the_same_snapshot(home, tmp_path):
    fill(tmp_path / "twin", 350)
    run(tmp_path / "twin")
    fill(home, 350)
    registry = type(open_registry(Settings(home=home)))
    steps = [(training, "learn", True), (registry, "push", True), (registry, "add_statement", True),
             (registry, "set_alias", True), (training, "save_state", False)]  # fmt: skip
    for owner, step, after in steps:
        with killed_at(owner, step, after=after):
            run(home)
    run(home)
    (version,) = open_registry(Settings(home=home)).versions("late")
    (other,) = open_registry(Settings(home=tmp_path / "twin")).versions("late")
    state = open_state(home / "training" / f"{key_of(learner())}.state", learner())
    assert version.digest == other.digest
    assert (state.learned, state.champion_version) == (350, "late/1")
    assert (state.prequential.tested, len(state.keys)) == (350, 350)


def test_a_learner_with_a_state_in_another_home_is_refused(home, ran):
    shutil.copytree(ran[0], home)
    (file,) = (home / "training").glob("*.state")
    file.unlink()
    with pytest.raises(Conflict, match="late/1 is a snapshot of this learner in another home"):
        run(home)


def test_a_model_that_is_worse_than_its_champion_is_given_up(home):
    """After a change of the truths and back, what was learnt in between is worth nothing."""
    inputs, truths = phishing(1250)
    own, wrong = learner(), [1 - truth for truth in truths]
    tell(home, record(home, inputs[:300], [0] * 300), truths[:300])
    state = learnt(home, own, open_state(home / "state", own))
    state.settle("late/1", wins=True)
    tell(home, record(home, inputs[300:900], [0] * 600, first=300), wrong[300:900])
    learnt(home, own, state)
    tell(home, record(home, inputs[900:], [0] * 350, first=900), truths[900:])
    sentences = [learn(own, state, batch) for batch in new_batches(Ledger(home), own, state)]
    (told,) = filter(None, sentences)
    assert "the model was given up for late/1, which was better" in told


def test_truths_that_depend_on_the_answer_are_told_and_weighed(home):
    """Of answers 1 all truths come, and of answers 0 one in four."""
    rng = np.random.default_rng(0)
    answers = rng.integers(0, 2, 4000)
    right = rng.random(4000) < np.where(answers == 1, 0.9, 0.6)
    truths = np.where(right, answers, 1 - answers)
    ids = record(home, [{"x": float(own)} for own in rng.normal(size=4000)], answers.tolist())
    comes = (answers == 1) | (rng.random(4000) < 0.25)
    tell(home, np.array(ids)[comes], truths[comes])
    weighted, told = arrival(arrived(Ledger(home), learner()))
    assert abs(right[comes].mean() - right.mean()) > 0.08
    assert abs(weighted - right.mean()) < 0.02
    assert told.startswith("truths came for 100% of the answers 1 and 2")
    alike = np.bincount(answers), np.bincount(answers) // 2
    assert (
        arrival([(str(own), int(alike[0][own]), int(alike[1][own]), 9) for own in (0, 1)])[1] == ""
    )


def test_a_model_of_scikit_learn_learns_a_batch_at_a_time_and_skips_rows_that_lack_an_input(home):
    inputs, truths = phishing(400)
    for row in inputs[:10]:
        row["https"] = math.nan
    tell(home, record(home, inputs, [0] * 400), truths)
    own = learner(fit="learn.py:sgd")
    state = learnt(home, own, open_state(home / "state", own))
    alone = SGDClassifier(loss="log_loss", random_state=0)
    frame, truth = pd.DataFrame(inputs)[sorted(inputs[0])], np.array(truths)
    for start in range(0, 400, 50):
        rows = slice(max(start, 10), start + 50)
        alone.partial_fit(frame[rows], truth[rows], classes=[0, 1])
    assert state.learned == 400
    model = opened(state.model)
    place = {name: at for at, name in enumerate(alone.feature_names_in_)}
    expected = [alone.coef_[0][place[name]] for name in model.feature_names_in_]
    assert model.coef_[0].tolist() == pytest.approx(expected)
    assert state.prequential.tested == 350


def test_a_compiled_logistic_regression_answers_as_river_does(home, tmp_path):
    inputs, truths = phishing(400)
    for row in inputs:
        row["still"] = 3.0
    table = pa.Table.from_pylist(inputs)
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    learnt_rows(model, table, truths, (0, 1))
    linear = packable(model, (0, 1), table.column_names, tmp_path)
    assert linear.predict(table.to_pandas()).tolist() == answers_of(model, table, (0, 1))
    chances = [model.predict_proba_one({**row, "still": 9.0})[True] for row in inputs]
    other = table.to_pandas().assign(still=9.0)
    assert linear.predict_proba(other)[:, 1].tolist() == pytest.approx(chances, abs=1e-12)


def test_a_model_with_another_loss_is_served_by_itself(tmp_path):
    model = preprocessing.StandardScaler() | linear_model.LinearRegression(
        loss=optim.losses.Poisson()
    )
    learnt_rows(model, pa.table({"x": [0.5, 1.0, 2.0]}), [1.0, 2.0, 3.0], ())
    served = packable(model, (), ["x"], tmp_path)
    assert served.entry == "served_river:Model"


def test_a_learner_without_classes_says_how_a_regression_is_written(home):
    Path("pipeline.toml").write_text(TOML.replace("classes", "#"))
    with pytest.raises(Invalid, match="classes") as refused:
        learner()
    assert "classes = []" in refused.value.hint


@pytest.mark.parametrize("change", ["every = 220", "held_out = 200", "batch = 0"])
def test_batches_that_do_not_fit_are_refused(home, change):
    name = change.split(" ")[0]
    lines = [change if line.startswith(name) else line for line in TOML.splitlines()]
    Path("pipeline.toml").write_text("\n".join(lines))
    with pytest.raises(Invalid, match=name):
        learner()


def test_a_model_that_cannot_go_on_learning_is_refused(home):
    with pytest.raises(Invalid, match="neither learn_one nor partial_fit"):
        answers_of(object(), pa.table({"x": [1.0]}), (0, 1))


@pytest.mark.slow  # builds an environment with river
def test_a_tree_of_river_is_served_as_code_of_its_own(home):
    fill(home, 350)
    Path("pipeline.toml").write_text(TOML.replace("logistic", "hoeffding"))
    assert run(home)["version"] == "late/1"
    bundle = load(open_registry(Settings(home=home)).path("late/1"))
    own = learner()
    state = open_state(home / "training" / f"{key_of(own)}.state", own)
    inputs, _ = phishing(300)
    columns = {name: np.array([row[name] for row in inputs]) for name in inputs[0]}
    expected = answers_of(opened(state.champion), pa.Table.from_pylist(inputs), (0, 1))
    assert bundle.predict(columns)["label"].tolist() == expected


def test_a_learner_of_held_back_requests_learns_no_outcome_that_followed_from_an_answer(home):
    inputs, truths = phishing(400)
    for first, arm in ((0, "current"), (200, "holdback")):
        part = slice(first, first + 200)
        ids = record(home, inputs[part], [0] * 200, first=first, arm=arm)
        tell(home, ids, truths[part])
    ledger, every, clean = Ledger(home), learner(), learner(holdback="arm")
    assert count_outcomes(ledger, every) == 400
    assert count_outcomes(ledger, clean) == 200
    assert key_of(clean) != key_of(every)
    learnt_keys = [
        key.partition("\n")[2].partition("#")[0]
        for batch in new_batches(ledger, clean, open_state(home / "clean.state", clean))
        for key in batch["key"].to_pylist()
    ]
    assert learnt_keys == [f"p{number:06d}" for number in range(200, 400)]


def test_a_learner_whose_answers_change_outcomes_says_that_no_row_is_held_back(home):
    Path("pipeline.toml").write_text(TOML + "changes_outcomes = true\n")
    fill(home, 100)
    assert run(home)["feedback"].endswith("and no row is held back")


def test_how_truths_arrive_is_told_of_the_requests_that_a_learner_learns(home):
    inputs, answers = phishing(400)[0], [0, 1] * 100
    for first, arm, told_of in ((0, "current", [0]), (200, "holdback", [0, 1])):
        ids = record(home, inputs[first : first + 200], answers, first=first, arm=arm)
        known = [answer in told_of for answer in answers]
        tell(home, np.array(ids)[known], np.array(answers)[known])
    assert arrived(Ledger(home), learner()) == [("0", 200, 200, 200), ("1", 200, 100, 100)]
    clean = learner(holdback="arm")
    assert arrived(Ledger(home), clean) == [("0", 100, 100, 100), ("1", 100, 100, 100)]


@pytest.mark.parametrize("line", ["refit = true", 'holdback = "flag"'])
def test_a_learner_has_no_refit_and_no_column_of_its_own_for_held_back_rows(home, line):
    Path("pipeline.toml").write_text(TOML + line)
    with pytest.raises(Invalid, match="no refit, and holdback is arm or empty"):
        learner()
