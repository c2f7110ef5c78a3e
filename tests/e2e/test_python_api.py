"""The whole way from Python: pack, check, push, alias, load, serve, ask."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression

import bascule
from bascule.core import Invalid, NotFound, Refused

TABLE = pd.DataFrame({"age": range(40), "income": np.arange(40) % 7})
TOWNS = np.where(TABLE.age > 20, "Oslo", "Rome")


@pytest.fixture(scope="module")
def packed_town(tmp_path_factory):
    model = LogisticRegression().fit(TABLE, TOWNS)
    return bascule.pack(
        model, name="town", train=(TABLE, TOWNS), test=(TABLE, TOWNS), measure=False,
        to=tmp_path_factory.mktemp("packed") / "town",
    )  # fmt: skip


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BASCULE_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture
def town(home, packed_town):
    return bascule.load(packed_town.path)


def test_a_bundle_is_pushed_named_and_opened_from_the_registry(town):
    version = bascule.push(town, alias="champion", reason="first")
    assert str(version) == "town/1"
    assert bascule.push(town.path) == version
    for reference in ("town", "town/1", "town@champion"):
        assert bascule.load(reference).digest == town.digest
    bascule.set_alias("town/1", "old")
    assert set(bascule.open_registry().aliases("town")) == {"champion", "old"}


@pytest.mark.parametrize("reference", ["nope", "nope/3", "nope@champion"])
def test_what_is_neither_folder_nor_model_is_not_found_and_says_both(town, reference):
    bascule.push(town)
    with pytest.raises(NotFound, match=f"no bundle at '{reference}', and as the name of a model"):
        bascule.load(reference)


@pytest.mark.parametrize("path", [Path("town/1"), "some/folder/town", "town.bundle", "./town"])
def test_a_path_is_a_folder_and_no_reference(town, path):
    bascule.push(town)
    with pytest.raises(NotFound, match="there is no bundle at"):
        bascule.load(path)


def test_criteria_of_the_settings_decide_the_alias(home, town):
    (home / "bascule.toml").write_text('[gates]\ncriteria = ["accuracy > 1"]\n')
    bascule.push(town)
    assert not bascule.check("town/1").passed
    assert bascule.check("town/1", ["accuracy >= 0"]).passed
    with pytest.raises(Refused, match="failed its gates: accuracy > 1"):
        bascule.set_alias("town/1", "champion")
    with pytest.raises(Invalid, match="rmse is a metric of numbers"):
        bascule.check("town/1", ["rmse <= 1"])

    (home / "bascule.toml").write_text('[gates]\ncriteria = ["accuracy >= 0.5"]\n')
    assert bascule.check("town/1").passed
    assert bascule.set_alias("town/1", "champion").to_number == 1


def test_a_server_answers_in_its_block_and_ends_with_it(town):
    bascule.push(town, alias="champion")
    with bascule.serve("town@champion") as server:
        assert server.models == ["town/1"]
        with server.client() as client:
            answer = client.predict(TABLE)
            assert client.predict({"age": 3, "income": 1})["label"].tolist() == ["Rome"]
            with pytest.warns(
                bascule.BasculeWarning, match="does not take 'id', which is left out"
            ):
                client.predict(TABLE.assign(id=1).to_dict("records"))
        assert np.array_equal(answer["label"], town.predict(TABLE)["label"])
        assert answer.to_pandas().equals(town.predict(TABLE).to_pandas())  # names of classes too
        assert repr(server) == f"Server(town/1 at {server.url})"
    assert repr(server) == "Server(town/1 stopped)"
    server.stop()
    with bascule.Client(server.url, retries=0, timeout_s=2) as client:
        assert not client.ready()


def test_a_server_that_cannot_start_raises_what_the_command_says(town):
    with pytest.raises(NotFound, match="no registry at"):
        bascule.serve("nope/1")
    with pytest.raises(Invalid, match="nothing to serve"):
        bascule.serve()


# -- what an answer looks like --


def test_an_answer_is_a_table_with_a_column_for_each_class(town):
    answer = town.predict(TABLE)
    columns = ["label", "probabilities_Oslo", "probabilities_Rome"]
    assert list(answer.to_pandas().columns) == columns
    assert answer.to_arrow().column_names == columns
    assert (
        answer.to_pandas()["probabilities_Rome"].tolist() == answer["probabilities"][:, 1].tolist()
    )


def test_an_output_that_is_not_there_is_an_error_that_lists_the_outputs(town):
    answer = town.predict(TABLE)
    with pytest.raises(KeyError, match="no output 'prediction'; the outputs are 'label', 'prob"):
        answer["prediction"]
    assert "prediction" not in answer
    assert answer.get("prediction") is None


def test_notebooks_show_bundles_and_answers(town):
    page = town.predict(TABLE)._repr_html_()
    assert "<th>probabilities_Oslo</th>" in page
    assert page.count("<tr>") == 6
    assert "40 rows, by onnx" in page
    shown = town._repr_html_()
    assert '<th scope="row">inputs</th><td>age, income</td>' in shown
    assert "Parity: onnx" in shown


def test_notebooks_show_verdicts_versions_and_the_registry(town, home):
    assert "no models yet" in bascule.open_registry()._repr_html_()
    verdict = bascule.check(town, ["accuracy >= 1.01", "size <= 5 MB"])._repr_html_()
    assert "failed: 1 of 2" in verdict
    assert "size &lt;= 5 MB</th>" in verdict
    assert "<td>town/1</td>" in bascule.push(town)._repr_html_()
    assert ">town</th>" in bascule.open_registry()._repr_html_()


def test_the_original_answers_as_the_estimator_does(town, tmp_path):
    fitted = LogisticRegression().fit(TABLE, TOWNS)
    original = town.original()
    assert original.predict(TABLE).tolist() == fitted.predict(TABLE).tolist()
    assert np.array_equal(original.predict_proba(TABLE), fitted.predict_proba(TABLE))
    line = bascule.pack(
        LinearRegression().fit(TABLE, TABLE.age), name="line", train=TABLE, measure=False,
        to=tmp_path / "line",
    ).original()  # fmt: skip
    assert line.predict(TABLE) == pytest.approx(TABLE.age.to_numpy())
    with pytest.raises(Invalid, match="gives no probabilities; its outputs are prediction"):
        line.predict_proba(TABLE)


def test_importing_the_package_imports_no_framework_and_no_server():
    script = "import json, sys, bascule; dir(bascule); print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    modules = json.loads(done.stdout)
    assert not {"sklearn", "onnxruntime", "sqlalchemy", "bascule.app", "bascule.api"} & set(modules)
