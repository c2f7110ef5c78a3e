"""The commands: what they print, what they leave behind, how they say no."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import skops.io
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.semi_supervised import LabelSpreading
from tests.tiers import first_of

from bascule.bundle.disk.folder import read_statements
from bascule.bundle.originals.sklearn import load_trusted

CRITERION = "accuracy >= 0.8"


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """A fitted model and its tables, as a person has them on disk."""
    folder = tmp_path_factory.mktemp("files")
    X, y = load_breast_cancer(return_X_y=True)
    model = GradientBoostingClassifier(n_estimators=10, random_state=0).fit(X[:400], y[:400])
    skops.io.dump(model, folder / "model.skops")
    np.savez(folder / "train.npz", X=X[:400], y=y[:400])
    np.savez(folder / "test.npz", X=X[400:], y=y[400:])
    columns = {f"f{i:02}": X[400:, i] for i in range(30)} | {"truth": y[400:]}
    pyarrow.parquet.write_table(pa.table(columns), folder / "test.parquet")
    pyarrow.csv.write_csv(pa.table(columns), folder / "test.csv")
    np.save(folder / "rows.npy", X[400:450])
    for name in ("m.keras", "m.pt", "m.cbm", "m.json", "m.txt"):
        (folder / name).touch()
    return folder


@pytest.fixture(scope="session")
def packed_once(files, tmp_path_factory):
    place = tmp_path_factory.mktemp("packed") / "gb.bundle"
    code, out, _ = run_once(*pack_words(files, place))
    assert (code, out.strip()) == (0, str(place))
    return place


@pytest.fixture
def packed(packed_once, tmp_path_factory):
    """A bundle made by the command line; a test's own, because checks write statements to it."""
    return shutil.copytree(packed_once, tmp_path_factory.mktemp("bundle") / "gb.bundle")


def run_once(*words):
    done = subprocess.run(
        [sys.executable, "-m", "bascule.cli", *map(str, words)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def pack_words(files, place, *more):
    return (
        "pack", files / "model.skops", "--name", "gb", "--train", files / "train.npz",
        "--test", files / "test.npz", "--to", place, "--no-measure", *more,
    )  # fmt: skip


def test_packing_says_what_was_proven_and_prints_the_folder(run, files, tmp_path):
    code, out, messages = run(*pack_words(files, tmp_path / "gb.bundle"))

    assert code == 0
    assert out.strip() == str(tmp_path / "gb.bundle")
    assert re.search(r"answers differ from the original by at most \S+ on [\d,]+ rows", messages)


def test_json_of_packing_has_the_digest_and_the_parity(run, files, tmp_path):
    _, out, _ = run(*pack_words(files, tmp_path / "gb.bundle", "--json"))

    told = json.loads(out)
    assert told["digest"].startswith("sha256:")
    assert told["parity"]["passed"] is True
    assert told["serves"] == "onnx"
    assert told["cost"] is None


@pytest.mark.parametrize("table", first_of(["test.parquet", "test.csv"]))
def test_a_table_serves_a_model_that_was_fitted_on_a_matrix(run, files, tmp_path, table):
    code, _, messages = run(
        "pack", files / "model.skops", "--name", "gb", "--test", files / table,
        "--target", "truth", "--train", files / "train.npz", "--to", tmp_path / "b",
        "--no-measure",
    )  # fmt: skip
    assert code == 0, messages


@pytest.mark.slow
def test_rows_that_cannot_be_judged_fail_their_gates_and_the_report_is_written(run, packed, files):
    table = np.load(files / "test.npz")
    np.savez("empty.npz", X=table["X"][:0], y=table["y"][:0])
    code, out, _ = run(
        "check", packed, "-c", "latency_p50 <= 1 s", "-c", CRITERION, "--test", "empty.npz",
        "-o", "junit:rep.xml", "--json",
    )  # fmt: skip

    assert code == 1
    assert [one["passed"] for one in json.loads(out)["results"]] == [True, False]
    assert "there are no rows" in Path("rep.xml").read_text()
    *_, last = read_statements(packed, "gates")
    assert last.body["passed"] is False


def test_a_target_that_is_no_column_is_a_mistake_of_usage_and_no_verdict(run, packed):
    Path("rows.csv").write_text("a,b\n1,2\n")
    code, _, said = run("check", packed, "-c", CRITERION, "--test", "rows.csv", "--target", "y")

    assert code == 2
    assert "has no column 'y'" in said


def test_a_gate_that_is_not_met_ends_with_1_and_its_reason(run, packed):
    code, out, _ = run("check", packed, "--criterion", "accuracy >= 0.9999", "--json")

    told = json.loads(out)
    assert code == 1
    assert told["passed"] is False
    assert told["results"][0]["reason"]


def test_the_criteria_come_from_the_settings(run, packed, tmp_path):
    (tmp_path / "bascule.toml").write_text(f'[gates]\ncriteria = ["{CRITERION}"]\n')
    code, out, _ = run("check", packed)
    assert code == 0
    assert "passed" in out
    assert CRITERION in out


def test_no_criteria_at_all_is_a_mistake_and_not_a_pass(run, packed):
    code, _, messages = run("check", packed)
    assert code == 2
    assert "no criteria" in messages


def test_the_life_of_a_version_from_push_to_alias_and_history(run, packed):
    assert run("push", packed)[:2] == (0, "gb/1\n")
    assert run("push", packed)[:2] == (0, "gb/1\n"), "the same bundle is the same version"
    assert run("check", "gb/1", "--criterion", CRITERION)[0] == 0
    assert run("alias", "gb/1", "champion")[:2] == (0, "gb@champion -> gb/1\n")

    code, out, _ = run("models", "--json")
    assert code == 0
    assert json.loads(out)[0]["aliases"] == {"champion": 1}
    assert "champion -> 1" in run("models")[1]

    events = json.loads(run("history", "gb", "--json")[1])
    assert [event["kind"] for event in events] == ["alias_moved", "gates_recorded", "pushed"]
    assert "gb@champion: new -> 1" in run("history", "gb")[1]

    code, out, _ = run("show", "gb@champion", "--full")
    assert code == 0
    assert "Takes rows of 30 columns" in out
    assert "gates: passed" in out
    assert f"gates      passed: {CRITERION}" in run("show", "gb@champion")[1]
    assert json.loads(run("show", "gb", "--json")[1])["version"]["number"] == 1

    assert run("alias", "gb@champion", "--drop")[0] == 0
    assert run("show", "gb@champion")[0] == 3


def test_an_alias_to_a_version_that_failed_its_gates_is_refused(run, packed):
    run("push", packed)
    assert run("check", "gb/1", "--criterion", "accuracy >= 0.9999")[0] == 1

    code, _, messages = run("alias", "gb/1", "champion")

    assert code == 1
    assert "failed its gates" in messages
    assert json.loads(run("models", "--json")[1])[0]["aliases"] == {}


def test_predict_answers_a_file_as_the_bundle_does(run, files, packed):
    import bascule

    code, out, _ = run("predict", packed, files / "rows.npy", "--json")

    rows = json.loads(out)
    expected = bascule.load(packed).predict(np.load(files / "rows.npy"))
    assert code == 0
    assert [row["label"] for row in rows] == expected["label"].tolist()
    assert [row["probabilities_1"] for row in rows] == expected["probabilities"][:, 1].tolist()


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_predict_writes_a_file_whole(run, files, packed, tmp_path, suffix):
    target = tmp_path / f"answers{suffix}"
    code, _, messages = run("predict", packed, files / "rows.npy", "--output", target)
    assert code == 0
    assert "50 rows" in messages
    assert target.stat().st_size > 0
    assert not list(tmp_path.glob(".answers*"))


def test_predict_shows_twenty_rows_and_says_that_there_are_more(run, files, packed):
    _, out, messages = run("predict", packed, files / "rows.npy")
    assert "20 of 50 rows" in messages
    assert out.count("\n") < 30


def broken_bundle(packed, tmp_path):
    place = tmp_path / "broken"
    shutil.copytree(packed, place)
    program = place / "programs" / "onnx.onnx"
    data = bytearray(program.read_bytes())
    data[len(data) // 2] ^= 1
    program.chmod(0o644)
    program.write_bytes(data)
    return place


MISTAKES = {
    "no such model file": (("pack", "nothing.skops", "--name", "x"), 3, "no model at"),
    "a folder for a model": (("pack", "{files}", "--name", "x"), 2, "is not a file"),
    "an unknown kind of file": (("pack", "{files}/test.csv", "--name", "x"), 2, ".csv"),
    "a bad name": (("pack", "{files}/model.skops", "--name", "a/b"), 2, "'a/b'"),
    "no such table": (
        ("pack", "{files}/model.skops", "--name", "x", "--train", "none.parquet"), 3, "none.parquet"
    ),
    "an unknown column": (
        ("pack", "{files}/model.skops", "--name", "x", "--train", "{files}/train.npz",
         "--test", "{files}/test.parquet", "--target", "late"), 2, "'late'"),
    "held-out rows without the name of the truth": (
        ("pack", "{files}/model.skops", "--name", "x", "--train", "{files}/train.npz",
         "--test", "{files}/test.parquet"), 2, "--target"),
    "held-out rows without a truth": (
        ("pack", "{files}/model.skops", "--name", "x", "--train", "{files}/train.npz",
         "--test", "{files}/rows.npy"), 2, "no truth"),
    "a place that cannot be made": (
        ("pack", "{files}/model.skops", "--name", "x", "--train", "{files}/train.npz",
         "--to", "/proc/nowhere/b"), 2, "/proc/nowhere/b"),
    "a mistyped target of the training rows": (
        ("pack", "{files}/model.skops", "--name", "x", "--train", "{files}/test.parquet",
         "--target", "nope"), 2, "test.parquet has no column 'nope'"),
    "a model of Keras": (
        ("pack", "{files}/m.keras", "--name", "x"), 2,
        "bascule.pack(keras.saving.load_model('{files}/m.keras'), name='NAME', train=X)"),
    "a model of PyTorch": (
        ("pack", "{files}/m.pt", "--name", "x"), 2, "bascule.pack(module, name='NAME', train=X)"),
    "a model of CatBoost": (
        ("pack", "{files}/m.cbm", "--name", "x"), 2,
        "bascule.pack(catboost.CatBoost().load_model('{files}/m.cbm')"),
    "a model of XGBoost": (
        ("pack", "{files}/m.json", "--name", "x"), 2,
        "bascule.pack(xgboost.Booster(model_file='{files}/m.json')"),
    "a model of LightGBM": (
        ("pack", "{files}/m.txt", "--name", "x"), 2,
        "bascule.pack(lightgbm.Booster(model_file='{files}/m.txt')"),
    "a model's file in place of a bundle": (
        ("check", "{files}/model.skops", "-c", "size <= 1 GB"), 3, "no bundle at"),
    "the same by its name alone": (
        ("check", "model.skops", "-c", "size <= 1 GB"), 3, "model.skops is a file and no bundle"),
    "the same in a folder": (
        ("show", "some/model.skops"), 3, "some/model.skops is a file and no bundle"),
    "a folder that is no bundle": (
        ("predict", "some", "{files}/rows.npy"), 3,
        "some is a folder and no bundle, and as the name of a model: no registry"),
    "a mistyped folder": (("check", "gb.bundlee/", "-c", "accuracy >= 0"), 3, "gb.bundlee"),
    "a table of the wrong width": (
        ("pack", "{files}/model.skops", "--name", "x", "--train", "{files}/test.parquet"), 2, "31"),
    "no such bundle": (("push", "nowhere"), 3, "nowhere"),
    "no registry yet": (("models",), 3, "no registry"),
    "a bad reference": (("show", "gb/x"), 2, "'x'"),
    "a bad criterion": (("check", "{packed}", "-c", "sharpness >= 1"), 2, "sharpness"),
    "a broken bundle": (("check", "{broken}", "-c", "accuracy >= 0"), 5, "programs/onnx.onnx"),
    "a broken bundle pushed": (("push", "{broken}"), 5, "programs/onnx.onnx"),
    "a broken bundle served": (("serve", "{broken}", "--port", "0", "--control-port", "0"), 5,
                               "programs/onnx.onnx"),
    "a wrong port": (("serve", "{packed}", "--port", "70000"), 2, "--port"),
    "rows that do not fit": (("predict", "{packed}", "{files}/test.parquet"), 2, ""),
    "an unknown output": (
        ("predict", "{packed}", "{files}/rows.npy", "-o", "x.xlsx"), 2, ".xlsx"),
    "an alias without a name": (("alias", "gb/1"), 2, "alias"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_and_a_next_step_and_leaves_nothing(
    run, files, packed, tmp_path, name
):
    words, expected_code, said = MISTAKES[name]
    places = {"files": files, "packed": packed}
    if any("{broken}" in word for word in words):
        places["broken"] = broken_bundle(packed, tmp_path)
    for model in ("model.skops", "some/model.skops"):
        (tmp_path / model).parent.mkdir(exist_ok=True)
        shutil.copy(files / "model.skops", tmp_path / model)
    before = sorted(tmp_path.rglob("*"))

    code, out, messages = run(*(word.format(**places) for word in words))

    assert code == expected_code, messages
    assert said.format(**places) in messages
    assert messages.count("error:") == 1
    assert "Traceback" not in messages + out
    assert sorted(tmp_path.rglob("*")) == before, "nothing half-written is left"


def server_told(run, monkeypatch, *words):
    """What `bascule serve` would hand to the server: the references and the settings."""
    told = []
    monkeypatch.setattr(
        "bascule.cli.announcing.serve",
        lambda references, settings, **_: told.append((references, settings)),
    )
    code, _, messages = run("serve", *words)
    assert code == 0, messages
    return told[0]


def execs(run, monkeypatch, *words):
    """The command that a command becomes, without the interpreter; and what was said before."""
    become = []
    monkeypatch.setattr("bascule.cli.serving.os.execv", lambda _, argv: become.append(argv[1:]))
    code, _, messages = run(*words)
    assert code == 0, messages
    return become[0], messages


def test_a_model_is_packed_pushed_aliased_and_then_served_by_a_fresh_process(
    run, files, monkeypatch
):
    words, said = execs(
        run, monkeypatch, "--objects", "files", "quickstart", files / "model.skops", "--name", "gb",
        "--train", files / "train.npz", "--port", "0", "--workers", "2",
    )  # fmt: skip
    assert words == [
        "-m", "bascule.cli", "--objects=files", "serve", "--port=0", "--workers=2", "gb/1",
    ]  # fmt: skip
    assert "gb@champion points to it" in said
    assert run("show", "gb@champion")[0] == 0


def test_up_without_a_model_serves_what_the_aliases_name(run, monkeypatch):
    told = []
    monkeypatch.setattr(
        "bascule.cli.announcing.serve",
        lambda references, settings, *, as_json: told.append((references, settings.serving.port)),
    )
    assert run("up", "--port", "0")[0] == 0
    assert told == [(None, 0)]


def test_up_with_names_serves_these_models_and_endpoints(run, monkeypatch):
    told = []
    monkeypatch.setattr(
        "bascule.cli.announcing.serve",
        lambda references, settings, *, as_json: told.append(references),
    )
    assert run("up", "gb/1", "late", "--port", "0")[0] == 0
    assert told == [["gb/1", "late"]]


def test_settings_of_the_file_hold_where_the_command_line_says_nothing(
    run, packed, monkeypatch, tmp_path
):
    (tmp_path / "bascule.toml").write_text('[serving]\nbatching = "never"\nworkers = 3\n')

    _, settings = server_told(run, monkeypatch, packed)
    assert (settings.serving.batching, settings.serving.workers) == ("never", 3)

    _, settings = server_told(run, monkeypatch, packed, "--batching", "auto", "--workers", "2")
    assert (settings.serving.batching, settings.serving.workers) == ("auto", 2)


def test_packing_warns_when_the_original_is_what_answers(run, files, tmp_path):
    model = KNeighborsClassifier().fit(np.load(files / "rows.npy"), np.arange(50) % 2)
    skops.io.dump(model, tmp_path / "near.skops")
    code, out, messages = run(
        "pack", tmp_path / "near.skops", "--name", "near", "--train", files / "rows.npy", "--json",
        "--no-measure",
    )  # fmt: skip
    assert code == 0, messages
    assert (json.loads(out)["serves"] == "original") == ("warning: the original" in messages)


def test_several_outputs_have_several_targets(run, tmp_path):
    random = np.random.default_rng(0)
    table = {"size": random.normal(size=60), "warm": random.normal(size=60)}
    rows = pa.table({**table, "now": table["size"] * 2, "later": table["warm"] - 1})
    pyarrow.parquet.write_table(rows, tmp_path / "rows.parquet")
    inputs = rows.select(["size", "warm"]).to_pandas()
    model = LinearRegression().fit(inputs, rows.select(["now", "later"]).to_pandas())
    skops.io.dump(model, tmp_path / "two.skops")
    files = ("--train", tmp_path / "rows.parquet", "--test", tmp_path / "rows.parquet")
    targets = ("--target", "now", "--target", "later")
    code, out, messages = run(
        "pack", tmp_path / "two.skops", "--name", "two", *files, *targets, "--json", "--no-measure"
    )
    assert code == 0, messages
    packed = json.loads(out)
    assert [one["name"] for one in packed["signature"]["outputs"]] == [
        "prediction.now", "prediction.later",
    ]  # fmt: skip
    code, out, messages = run("check", packed["path"], "-c", "mae <= 1e-6", *files[2:], *targets)
    assert code == 0, messages
    code, _, messages = run("check", packed["path"], "-c", "mae <= 1", *files[2:], *targets[:2])
    assert code == 2
    assert "y has the shape (60,)" in messages


def test_a_pickle_is_not_loaded_unless_it_is_allowed_by_name(run, files, tmp_path):
    import joblib

    joblib.dump(load_trusted((files / "model.skops").read_bytes(), "x"), tmp_path / "model.joblib")
    words = ("pack", tmp_path / "model.joblib", "--name", "gb", "--train", files / "train.npz")

    code, _, messages = run(*words)
    assert code == 2
    assert "--allow-pickle" in messages
    assert run(*words, "--allow-pickle", "--no-measure")[0] == 0


def test_a_model_that_does_not_convert_is_refused_with_the_next_step(run, files, tmp_path):
    X = np.load(files / "rows.npy")
    model = LabelSpreading(kernel="knn").fit(X, np.arange(50) % 2)
    skops.io.dump(model, tmp_path / "odd.skops")
    np.save(tmp_path / "x.npy", X)
    words = ("pack", tmp_path / "odd.skops", "--name", "odd", "--train", tmp_path / "x.npy")

    code, _, messages = run(*words)

    assert code == 2
    assert "LabelSpreading" in messages
    assert "--serve-original" in messages
    assert not (tmp_path / "odd.bundle").exists()
    assert run(*words, "--serve-original", "--json", "--no-measure")[0] == 0


def test_an_existing_bundle_is_not_replaced_unless_asked(run, files, packed):
    code, _, messages = run(*pack_words(files, packed))
    assert code == 4
    assert "overwrite" in messages


def test_errors_are_json_where_json_was_asked_for(run):
    code, out, _ = run("show", "gb/x", "--json")
    assert code == 2
    assert set(json.loads(out)) == {"error", "hint", "kind"}


def test_doctor_finds_this_machine_fit(run):
    code, out, _ = run("doctor", "--json")
    findings = {finding["what"]: finding["state"] for finding in json.loads(out)}
    assert code == 0
    assert findings["python"] == findings["packages"] == findings["runtime telemetry"] == "ok"


def test_doctor_says_when_a_home_cannot_be_written(run, monkeypatch, tmp_path):
    monkeypatch.setattr("os.access", lambda *_, **__: False)
    code, out, _ = run("doctor", "--json")
    assert code == 1
    assert any(f["what"] == "home" and f["state"] == "FAILED" for f in json.loads(out))


def test_the_version_is_printed(run):
    from bascule import __version__

    assert run("--version")[:2] == (0, f"bascule {__version__}\n")
    by_module = [sys.executable, "-m", "bascule", "--version"]
    assert subprocess.check_output(by_module, text=True) == f"bascule {__version__}\n"
