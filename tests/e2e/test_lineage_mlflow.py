"""Lineage from MLflow and back to it, by a real tracking server: runs in, models out."""

from __future__ import annotations

import json
import resource
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from tests.origins import QUIET

import bascule
import bascule.mlflow
from bascule.core.errors import Invalid, NotFound, Unavailable
from bascule.packing.lineage import trace


@pytest.fixture(scope="module", autouse=True)
def quiet():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def cancer():
    return load_breast_cancer(return_X_y=True, as_frame=True)


@pytest.fixture(scope="module")
def run(mlflow_server):
    """A finished run, as a training script leaves it."""
    import mlflow

    client = mlflow.MlflowClient(mlflow_server)
    experiment = client.create_experiment("tumours")
    run = client.create_run(experiment, run_name="third try", tags={"team": "risk"})
    run_id = run.info.run_id
    client.log_param(run_id, "C", 0.5)
    client.log_metric(run_id, "auc", 0.9, step=0)
    client.log_metric(run_id, "auc", 0.97, step=1)
    client.log_metric(run_id, "loss", float("nan"))
    client.set_tag(run_id, "mlflow.source.name", "train.py")
    client.set_tag(run_id, "mlflow.source.git.commit", "a" * 40)
    used = mlflow.entities.DatasetInput(
        mlflow.entities.Dataset(
            "wdbc", "1a2b", "http", '{"url": "https://ada:s3cret@x.org/d?k=1"}'
        ),
        [mlflow.entities.InputTag("mlflow.data.context", "training")],
    )
    client.log_inputs(run_id, [used])
    client.set_terminated(run_id)
    return run_id


@pytest.fixture(scope="module")
def table_model(packed, cancer):
    """A bundle of a model on a table, with a calibration."""
    X, y = cancer
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    return packed("tumours", model, X[:400], (X[400:], y[400:]))


@pytest.fixture
def bascule_command(tmp_path, monkeypatch, capsys):
    """Run a command in an empty folder; gives its output."""
    from bascule.cli import main

    monkeypatch.chdir(tmp_path)

    def call(*words):
        monkeypatch.setattr("sys.argv", ["bascule", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        assert not end.value.code, captured.err
        return captured.out

    return call


# -- a run as lineage --


def test_what_the_run_recorded_is_what_the_bundle_says(mlflow_server, run):
    found = trace(f"mlflow:{run}@{mlflow_server}")

    assert found["run"] == run
    assert (found["name"], found["experiment"]) == ("third try", "tumours")
    assert (found["uri"], found["status"]) == (mlflow_server, "FINISHED")
    assert found["parameters"] == {"C": "0.5"}
    assert found["metrics"] == {"auc": 0.97, "loss": "nan"}
    assert found["tags"] == {"team": "risk"}
    assert found["source"] == {"name": "train.py", "commit": "a" * 40}
    assert found["started"] <= found["ended"]


def test_the_datasets_of_a_run_are_told_without_their_keys(mlflow_server, run):
    (dataset,) = trace(f"mlflow:{run}@{mlflow_server}")["datasets"]

    assert (dataset["name"], dataset["digest"], dataset["context"]) == ("wdbc", "1a2b", "training")
    assert dataset["source"] == '{"url": "https://x.org/d"}'


def test_the_server_is_the_one_of_the_environment_where_none_is_named(
    mlflow_server, run, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    assert trace(f"mlflow:{run}")["run"] == run
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(Invalid, match="where does MLflow keep") as refused:
        trace(f"mlflow:{run}")
    assert "MLFLOW_TRACKING_URI" in refused.value.hint


def test_a_run_that_is_not_there_is_not_found(mlflow_server):
    with pytest.raises(NotFound, match=f"has no run {'0' * 32}"):
        trace(f"mlflow:{'0' * 32}@{mlflow_server}")


def test_a_store_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(NotFound, match="no store of MLflow"):
        trace(f"mlflow:{'0' * 32}@sqlite:///{tmp_path}/absent.db")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_does_not_answer_is_unavailable_and_its_password_is_not_shown(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(Unavailable, match="does not answer") as refused:
        trace(f"mlflow:{'0' * 32}@http://ada:s3cret@127.0.0.1:9")
    assert "s3cret" not in refused.value.message


def test_the_command_packs_with_a_run_and_shows_it(
    mlflow_server, run, cancer, tmp_path, bascule_command
):
    import skops.io

    X, y = cancer
    skops.io.dump(
        make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y), tmp_path / "model.skops"
    )
    X.to_parquet(tmp_path / "train.parquet")
    words = ["pack", "model.skops", "--name=t", "--train=train.parquet", "--no-measure"]

    bascule_command(*words, "--lineage", f"mlflow:{run}@{mlflow_server}")

    assert "third try" in bascule_command("show", "./t.bundle", "--full")
    assert f"| mlflow run | {run} |" in (tmp_path / "t.bundle" / "card.md").read_text()
    known = json.loads(bascule_command("show", "./t.bundle", "--json"))
    (said,) = [one for one in known["statements"] if one["kind"] == "provenance"]
    assert said["body"]["lineage"][0]["metrics"]["auc"] == 0.97


# -- a bundle as a model of MLflow --


@pytest.fixture(scope="module")
def pushed(mlflow_server, table_model):
    return bascule.mlflow.push(table_model, uri=mlflow_server)


@pytest.fixture
def server(mlflow_server):
    import mlflow

    mlflow.set_tracking_uri(mlflow_server)
    yield mlflow
    mlflow.set_tracking_uri(None)


def test_a_pushed_bundle_is_in_the_registry_and_its_run(mlflow_server, pushed, table_model, server):
    client = server.MlflowClient(mlflow_server)

    version = client.get_model_version(pushed.name, pushed.version)

    assert pushed.model_uri == f"models:/tumours/{pushed.version}"
    assert version.run_id == pushed.run_id
    assert client.get_run(pushed.run_id).info.status == "FINISHED"
    assert server.is_tracking_uri_set()


def test_mlflow_answers_with_our_program_bit_for_bit(pushed, table_model, cancer, server):
    X, _ = cancer
    ours = bascule.load(table_model).predict(X[400:])

    theirs = server.pyfunc.load_model(pushed.model_uri).predict(X[400:])

    assert list(theirs.columns) == ["label", "probabilities_0", "probabilities_1"]
    np.testing.assert_array_equal(theirs["label"], ours["label"])
    np.testing.assert_array_equal(theirs.iloc[:, 1:].to_numpy(), ours["probabilities"])


def test_what_mlflow_holds_is_the_bundle_itself(pushed, table_model, server):
    folder = server.artifacts.download_artifacts(pushed.model_uri)

    assert bascule.load(f"{folder}/bundle").digest == bascule.load(table_model).digest
    about = server.models.Model.load(folder)
    assert about.flavors["python_function"]["loader_module"] == "bascule.mlflow"
    assert about.flavors["bascule"]["digest"] == bascule.load(table_model).digest


def test_the_signature_and_the_example_are_those_of_the_bundle(pushed, cancer, server):
    X, _ = cancer
    about = server.models.Model.load(pushed.model_uri)

    assert about.signature.inputs.input_names() == list(X.columns)
    example = about.load_input_example(pushed.model_uri)
    assert len(example) == 4
    assert server.pyfunc.load_model(pushed.model_uri).predict(example).shape == (4, 3)


def test_a_confidence_is_a_parameter_of_the_model(pushed, table_model, cancer, server):
    X, _ = cancer
    ours = bascule.load(table_model).predict(X[:50], confidence=0.9)

    loaded = server.pyfunc.load_model(pushed.model_uri)
    theirs = loaded.predict(X[:50], params={"confidence": 0.9})

    np.testing.assert_array_equal(theirs.iloc[:, 3:].to_numpy(), ours["prediction_set"])


def test_an_altered_bundle_does_not_load_in_mlflow_either(table_model, tmp_path, server):
    bascule.mlflow.save_model(table_model, tmp_path / "model")
    program = tmp_path / "model" / "bundle" / "programs" / "onnx.onnx"
    data = bytearray(program.read_bytes())
    data[len(data) // 2] ^= 1
    program.write_bytes(data)

    with pytest.raises(bascule.BasculeError, match=r"programs/onnx.onnx"):
        server.pyfunc.load_model(str(tmp_path / "model"))


@pytest.mark.parametrize("which", ["cancer_bundle", "regressor_bundle", "table_bundle"])
def test_matrices_texts_and_gaps_pass_through_mlflow_unchanged(which, request, tmp_path, server):
    bundle = bascule.load(request.getfixturevalue(which))
    bascule.mlflow.save_model(bundle.path, tmp_path / "model")
    example = server.models.Model.load(str(tmp_path / "model")).load_input_example(
        str(tmp_path / "model")
    )

    answer = server.pyfunc.load_model(str(tmp_path / "model")).predict(example)

    ours = bundle.predict(example)
    first = next(iter(ours))
    np.testing.assert_array_equal(answer[first].to_numpy(), ours[first])


def test_a_date_is_a_date_in_mlflow_and_passes_through_its_server(packed, tmp_path, server):
    days = pd.DataFrame({"day": pd.date_range("2026-01-01", periods=40, freq="7h")})
    model = make_pipeline(OneHotEncoder(handle_unknown="ignore"), Ridge()).fit(days, range(40))
    path = packed("days", model, days, (days, np.arange(40.0)), serve_original=True)
    bascule.mlflow.save_model(path, tmp_path / "model")

    loaded = server.pyfunc.load_model(str(tmp_path / "model"))

    assert [str(one.type) for one in loaded.metadata.get_input_schema()] == ["DataType.datetime"]
    answer = loaded.predict(days)
    ours = bascule.load(path).predict(days)
    np.testing.assert_array_equal(answer["prediction"], ours["prediction"])


def test_what_is_there_is_not_overwritten(table_model, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("mine")
    with pytest.raises(bascule.BasculeError, match="exists already"):
        bascule.mlflow.save_model(table_model, tmp_path / "kept")


def test_a_place_that_cannot_be_written_is_named_with_the_next_step(
    table_model, tmp_path, may_only_read
):
    place = tmp_path / "closed" / "model"
    place.parent.mkdir()
    with may_only_read(place.parent), pytest.raises(Invalid) as refused:
        bascule.mlflow.save_model(table_model, place)
    assert refused.value.message == f"{place} cannot be written: Permission denied"
    assert refused.value.hint == "choose a place that you may write to"
    assert refused.value.facts["path"] == str(place)

    (tmp_path / "file").touch()
    with pytest.raises(Invalid, match=r"file/model cannot be written: Not a directory"):
        bascule.mlflow.save_model(table_model, tmp_path / "file" / "model")


@contextmanager
def files_up_to(size):
    """No file of this process may become larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_model_that_could_not_be_written_whole_is_not_in_the_way_of_another_try(
    table_model, tmp_path, server
):
    place = tmp_path / "model"
    with files_up_to(1_000), pytest.raises(Invalid) as refused:
        bascule.mlflow.save_model(table_model, place)
    assert refused.value.message == f"{place} cannot be written: File too large"
    assert list(place.iterdir()) == []

    bascule.mlflow.save_model(table_model, place)
    assert server.pyfunc.load_model(str(place)).metadata is not None


def test_the_command_pushes_under_another_name_and_says_where(
    mlflow_server, table_model, bascule_command
):
    told = json.loads(
        bascule_command(
            "push-mlflow", f"{table_model}/", "--uri", mlflow_server, "--name", "other", "--json"
        )
    )

    assert (told["name"], told["version"]) == ("other", "1")
    assert told["model_uri"] == "models:/other/1"
