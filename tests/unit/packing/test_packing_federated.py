"""A Flower app for a model, and the bundle of its run, without Flower."""

from __future__ import annotations

import ast
import math

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq
from scipy.stats import norm
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from tests.federations import (
    averaged,
    device_rows,
    hand_over,
    options_of,
    packed,
    parent_bundle,
    rows_around,
    task_of,
    write_app,
    write_rows,
)
from tests.scenarios.commands import run

import bascule
from bascule.packing import federated_app

ROUNDS, NOISE, DELTA = 3, 4.0, 1e-5


def finish(folder, *criteria, app="app"):
    """Exit code, output and messages of the command that a run ends with."""
    options = [word for criterion in criteria for word in ("-c", criterion)]
    return run(folder / "home", "edge", "federate", folder / app, "--finish", *options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A bundle and its app, whose run was finished."""
    folder = tmp_path_factory.mktemp("federated")
    parent_bundle(folder)
    assert write_app(folder)[0] == 0
    hand_over(folder / "app", averaged(folder / "app", device_rows(folder), ROUNDS))
    code, _, errors = finish(folder, "roc_auc >= 0.9")
    assert code == 0, errors
    return folder


@pytest.fixture
def finished(folder):
    return bascule.load(folder / "app.bundle")


def test_the_average_of_devices_passes_gates_that_its_parent_fails(folder, finished):
    parent = bascule.load(folder / "late.bundle")

    assert not bascule.check(parent, ["roc_auc >= 0.9"]).passed
    (gates,) = finished.statements("gates")
    assert gates.body["passed"]
    assert (finished.classes, finished.signature) == (parent.classes, parent.signature)
    (provenance,) = finished.statements("provenance")
    assert provenance.body["federated"]["digest"] == parent.digest
    assert provenance.body["federated"]["completed"] == ROUNDS


def test_devices_train_on_scaled_rows_and_the_bundle_takes_rows_as_they_are(folder, finished):
    task = task_of(folder / "app")
    slopes, biases = averaged(folder / "app", device_rows(folder), ROUNDS)
    scaled, _ = task.load_rows(write_rows(folder / "rows.csv", 0, seed=3))
    odds = np.exp(scaled @ slopes.T + biases)
    columns, _ = rows_around(0, 200, seed=3)

    answer = finished.predict(np.column_stack([*columns.values()]))

    expected = odds / odds.sum(1, keepdims=True)
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-9)


def test_the_folder_that_flower_sends_to_devices_holds_no_rows_of_the_server(folder, finished):
    """Flower sends sources, TOML, Markdown and JSON; a bundle has rows in JSON."""
    names = {path.name for path in (folder / "app").iterdir() if path.name != "__pycache__"}

    assert finished.path.parent == folder
    assert names == {
        "README.md", "client_app.py", "pyproject.toml", "server_app.py", "task.py",
        "federated.npz",
    }  # fmt: skip


def test_held_out_rows_do_not_count_as_trained_on(finished):
    """They give types and ranges; as training rows, each would be a leak."""
    assert not finished.statements("training")


@pytest.mark.slow
def test_noise_of_a_run_is_a_claim_of_privacy_over_its_completed_rounds(folder, finished):
    """The exact curve of a Gaussian (Balle and Wang 2018, theorem 8) says what epsilon is."""
    write_app(folder, app="noisy")
    weights = averaged(folder / "noisy", device_rows(folder), ROUNDS)
    hand_over(folder / "noisy", weights, completed=ROUNDS, **{"noise-multiplier": NOISE})
    shift = math.sqrt(ROUNDS) / NOISE

    def excess(epsilon):
        lost = norm.cdf(shift / 2 - epsilon / shift)
        return lost - math.exp(epsilon) * norm.cdf(-shift / 2 - epsilon / shift) - DELTA

    assert finish(folder, "roc_auc >= 0.9", "epsilon <= 3", app="noisy")[0] == 0

    noisy = bascule.load(folder / "noisy.bundle")
    (claim,) = noisy.statements("privacy")
    assert claim.body["phases"] == [[NOISE, 1.0, ROUNDS]]
    exact = brentq(excess, 0.01, 20)
    assert exact <= claim.body["epsilon"] <= exact + 0.03
    assert noisy.digest == finished.digest


def test_without_noise_no_privacy_is_claimed(finished):
    assert not finished.statements("privacy")


@pytest.mark.slow
def test_three_classes_are_trained_as_well(tmp_path):
    random = np.random.default_rng(0)
    columns = {"a": random.normal(size=300), "b": random.normal(size=300)}
    truth = np.digitize(columns["a"], [-0.5, 0.5]) * 10
    model = LogisticRegression().fit(np.column_stack([*columns.values()]), truth)
    model.feature_names_in_ = np.array([*columns], object)
    packed(model, tmp_path, train=columns, test=(columns, truth))
    write_app(tmp_path)
    rows = zip(columns["b"], truth, columns["a"], strict=True)
    lines = ["b,target,a", *(f"{b},{label},{a}" for b, label, a in rows)]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    hand_over(tmp_path / "app", averaged(tmp_path / "app", [tmp_path / "rows.csv"], 20))

    code, out, _ = finish(tmp_path, "accuracy >= 0.9")

    assert code == 0, out
    bundle = bascule.load(tmp_path / "app.bundle")
    assert bundle.classes == (0, 10, 20)
    assert [field.name for field in bundle.signature.inputs] == ["a", "b"]


def test_nothing_is_packed_before_a_run(folder):
    write_app(folder, app="unused")

    code, _, errors = finish(folder, app="unused")

    assert code != 0
    assert "federated.npz is not there" in errors


def test_a_file_that_was_cut_short_is_refused(folder):
    write_app(folder, app="cut")
    data = (folder / "app/federated.npz").read_bytes()
    (folder / "cut/federated.npz").write_bytes(data[:-40])

    code, _, errors = finish(folder, app="cut")

    assert code != 0
    assert "federated.npz cannot be read as weights" in errors
    assert not (folder / "cut.bundle").exists()


def test_a_parent_that_is_another_bundle_now_is_refused(folder):
    write_app(folder, app="other")
    weights = averaged(folder / "other", device_rows(folder), 1)
    hand_over(folder / "other", weights, digest=f"sha256:{'0' * 64}")

    code, _, errors = finish(folder, app="other")

    assert code != 0
    assert "is not the bundle that" in errors


def test_what_a_user_wrote_into_an_app_is_not_replaced(folder):
    write_app(folder, app="edited")
    (folder / "edited/task.py").write_text("# ours\n")

    code, _, errors = write_app(folder, app="edited")

    assert code != 0
    assert "edited exists already" in errors
    assert (folder / "edited/task.py").read_text() == "# ours\n"


def test_a_device_with_a_missing_value_does_not_train(folder):
    file = folder / "missing.csv"
    file.write_text(",".join([*task_of(folder / "app").FEATURES, "target"]) + "\n1,nan,3,late\n")

    with pytest.raises(ValueError, match="missing or infinite"):
        task_of(folder / "app").load_rows(file)


def test_names_of_columns_and_folders_do_not_become_code(tmp_path):
    """A bundle may come from anywhere."""
    hostile = '"""\nraise SystemExit\n#\' {{ name }}'
    columns = {hostile: np.arange(50.0), "b": np.arange(50.0)[::-1].copy()}
    truth = columns["b"] > 20
    model = LogisticRegression().fit(np.column_stack([*columns.values()]), truth)
    model.feature_names_in_ = np.array([*columns], object)
    bundle = packed(model, tmp_path, train=columns, test=(columns, truth))
    place = 'a "quoted" \\ folder'
    for name, text in federated_app(bundle, model=place, folder=place).items():
        (tmp_path / name).write_text(text)

    task = task_of(tmp_path)
    assert [hostile, "b"] == task.FEATURES
    assert options_of(tmp_path)["folder"] == options_of(tmp_path)["model"] == place
    for name in ("client_app.py", "server_app.py"):
        assert ast.parse((tmp_path / name).read_text()).body


def of_texts(columns, truth):
    words = pd.DataFrame({"word": ["a", "b"] * 30})
    model = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(words, truth)
    return model, words, (words, truth)


def of_a_regression(columns, truth):
    matrix = np.column_stack([*columns.values()])
    return LinearRegression().fit(matrix, matrix[:, 0]), matrix, (matrix, matrix[:, 0])


def without_held_out_rows(columns, truth):
    matrix = np.column_stack([*columns.values()])
    return LogisticRegression().fit(matrix, truth), matrix, None


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (of_texts, "no classifier of columns of numbers"),
        (of_a_regression, "no classifier of columns of numbers"),
        (without_held_out_rows, "holds no held-out rows"),
    ],
)
def test_a_model_that_cannot_be_trained_so_is_refused(parts, message, tmp_path):
    model, train, test = parts(*rows_around(0, 60, seed=0))
    bundle = packed(model, tmp_path, train=train, test=test)

    with pytest.raises(bascule.Invalid, match=message):
        federated_app(bundle)
