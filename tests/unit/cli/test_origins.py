"""The commands that pack code of one's own, and that rebuild."""

import json
import pickle
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import sklearn
import skops.io
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests.tiers import first_of

import bascule
from bascule.bundle.originals import python as python_original
from bascule.core.errors import Invalid, NotFound
from bascule.packing.flavors import python
from bascule.packing.model_files import CodeOptions, read_model

CODE = """
import numpy as np

class Model:
    def load(self, folder):
        self.weights = np.load(folder / "weights.npy")

    def predict(self, columns):
        return (columns["input"] * self.weights).sum(axis=1)

class Judge:
    def predict(self, columns):
        high = columns["input"].sum(axis=1) > 2
        return {
            "label": np.where(high, "high", "low").astype(object),
            "probabilities": np.column_stack([high, ~high]).astype(float),
        }
"""


@pytest.fixture
def code(tmp_path, monkeypatch):
    """The child runs under this Python: environments are tested where they are built."""
    import sys

    monkeypatch.setattr(
        python,
        "lock",
        lambda requirements: (
            "".join(f"{r} --hash=sha256:{'0' * 64}\n" for r in requirements)
            or f"numpy==1 --hash=sha256:{'0' * 64}\n"
        ),
    )
    monkeypatch.setattr(python_original, "interpreter", lambda locked: sys.executable)
    (tmp_path / "linear.py").write_text(CODE)
    np.save(tmp_path / "w.npy", np.array([0.5, 2.0]))
    np.save(tmp_path / "rows.npy", np.array([[1.0, 2.0], [3.0, 4.0]]))


# -- code of one's own --


def test_a_class_is_packed_with_its_files_and_its_requirements(run, code, tmp_path):
    status, out, messages = run(
        "pack", "linear.py:Model", "--name", "own", "--train", "rows.npy",
        "--file", "weights.npy=w.npy", "--require", "scipy==1.16.3", "--task", "regression",
        "--no-measure",
    )  # fmt: skip

    assert (status, out.strip()) == (0, "own.bundle"), messages
    bundle = bascule.load("own.bundle")
    assert bundle.predict(np.array([[1.0, 2.0]]))["prediction"].tolist() == [4.5]
    assert bundle.task == "regression"
    assert b"scipy==1.16.3" in (tmp_path / "own.bundle/original/model.zip").read_bytes()


def test_a_file_is_called_as_it_is_where_no_other_name_is_given(run, code, tmp_path):
    (tmp_path / "w.npy").rename(tmp_path / "weights.npy")
    status, _, messages = run(
        "pack", "linear.py:Model", "--name", "own", "--train", "rows.npy", "--file", "weights.npy",
        "--no-measure",
    )  # fmt: skip
    assert status == 0, messages


def test_labels_make_it_a_classifier(run, code):
    status, _, messages = run(
        "pack", "linear.py:Judge", "--name", "own", "--train", "rows.npy",
        "--label", "high", "--label", "low", "--no-measure",
    )  # fmt: skip

    assert status == 0, messages
    bundle = bascule.load("own.bundle")
    assert (bundle.task, bundle.classes) == ("classification", ("high", "low"))


@pytest.mark.parametrize(
    ("written", "label"), [("0", 0), ('"0"', "0"), ("0.5", 0.5), ("true", True), ("yes", "yes")]
)
def test_a_label_is_the_json_value_that_it_is_or_else_a_text(tmp_path, written, label):
    (tmp_path / "m.py").write_text("")
    model = read_model(
        tmp_path / "m.py:M", allow_pickle=False, options=CodeOptions(labels=[written])
    )
    assert model.classes == (label,)
    assert type(model.classes[0]) is type(label)


@pytest.mark.parametrize(
    ("written", "entry"), [("pkg:Model", "pkg:Model"), ("pkg:inner.Model", "pkg.inner:Model")]
)
def test_a_class_may_be_in_a_folder(tmp_path, written, entry):
    (tmp_path / "pkg").mkdir()
    model = read_model(tmp_path / written, allow_pickle=False)
    assert (model.entry, model.code) == (entry, tmp_path / "pkg")


def test_code_without_a_class_asks_for_it(tmp_path):
    (tmp_path / "m.py").write_text("")
    with pytest.raises(Invalid, match="which class of it") as refused:
        read_model(tmp_path / "m.py", allow_pickle=False)
    assert refused.value.hint.endswith("m.py:Model")


def test_code_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(NotFound, match="no code at"):
        read_model(tmp_path / "m.py:Model", allow_pickle=False)


def test_what_is_said_of_code_is_refused_for_a_model_s_file(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"")
    code = CodeOptions(requirements=["scipy"])
    with pytest.raises(Invalid, match="--require"):
        read_model(tmp_path / "m.onnx", allow_pickle=False, options=code)


def test_code_of_one_s_own_is_rebuilt_with_the_environment_that_was_locked(run, code, monkeypatch):
    run(
        "pack", "linear.py:Model", "--name", "own", "--train", "rows.npy",
        "--file", "weights.npy=w.npy", "--require", "scipy==1.16.3", "--no-measure",
    )  # fmt: skip
    monkeypatch.setattr(python, "lock", lambda _: pytest.fail("the package index was asked"))

    status, out, messages = run("rebuild", "./own.bundle", "--train", "rows.npy")

    assert (status, out.partition(":")[0]) == (0, "the same bundle"), messages


# -- rebuilding --


@pytest.fixture
def packed(run, tmp_path):
    """A bundle of a model and tables as a person has them on disk."""
    X, y = load_breast_cancer(return_X_y=True)
    X = X[:, :5]
    skops.io.dump(LogisticRegression(max_iter=5000).fit(X, y), tmp_path / "model.skops")
    table = pa.table({f"f{i}": X[:, i] for i in range(5)} | {"truth": y})
    pyarrow.parquet.write_table(table[:400], tmp_path / "train.parquet")
    pyarrow.csv.write_csv(table[:400], tmp_path / "train.csv")
    pyarrow.parquet.write_table(table[400:], tmp_path / "test.parquet")
    status, _, messages = run(
        "pack", "model.skops", "--name", "gb", "--train", "train.parquet",
        "--test", "test.parquet", "--target", "truth", "--no-keep-test", "--no-measure",
    )  # fmt: skip
    assert status == 0, messages
    return bascule.load(tmp_path / "gb.bundle")


ROWS = ("--test", "test.parquet", "--target", "truth")


@pytest.mark.parametrize("train", first_of(["train.parquet", "train.csv"]))
def test_rebuilding_from_files_gives_the_same_bundle(run, packed, train):
    status, out, messages = run("rebuild", "./gb.bundle", "--train", train, *ROWS)

    assert (status, out.strip()) == (0, f"the same bundle: {packed.digest}"), messages
    assert "every row is as recorded" in messages


def test_json_of_rebuilding_has_both_digests(run, packed):
    status, out, _ = run("rebuild", "./gb.bundle", "--train", "train.parquet", *ROWS, "--json")

    assert status == 0
    assert json.loads(out) == {
        "same": True,
        "packed": packed.digest,
        "rebuilt": packed.digest,
        "differences": [],
    }


def test_other_rows_are_wrong_input(run, packed):
    status, _, messages = run("rebuild", "./gb.bundle", "--train", "test.parquet", *ROWS)

    assert status == 2
    assert "the train rows are not those" in messages


def test_what_differs_is_a_no_with_a_line_for_each_file(run, packed, monkeypatch):
    """Another version of a library, as `environment.txt` would tell of it."""
    from bascule.packing.lineage import provenance

    real = provenance.locked
    monkeypatch.setattr(
        provenance,
        "locked",
        lambda names: (
            "\n".join(
                "numpy==1.0" if line.startswith("numpy==") else line
                for line in real(names).splitlines()
            )
            + "\n"
        ),
    )

    status, out, _ = run("rebuild", "./gb.bundle", "--train", "train.parquet", *ROWS)

    assert status == 1
    assert "environment.txt" in out
    assert f"numpy {np.__version__} -> 1.0" in out
    status, out, _ = run("rebuild", "./gb.bundle", "--train", "train.parquet", *ROWS, "--json")
    assert status == 1
    assert [one["what"] for one in json.loads(out)["differences"]] == ["environment.txt"]


def test_a_registered_version_is_rebuilt_from_what_the_registry_says_of_it(run, packed):
    run("push", "gb.bundle")
    status, out, messages = run("rebuild", "gb/1", "--train", "train.parquet", *ROWS)
    assert (status, out.strip()) == (0, f"the same bundle: {packed.digest}"), messages


def test_a_source_that_is_none_is_refused_before_anything_is_written(run, packed, tmp_path):
    status, _, messages = run(
        "pack", "model.skops", "--name", "other", "--train", "train.parquet",
        "--target", "truth", "--lineage", "svn:trunk",
    )  # fmt: skip

    assert status == 2
    assert "KIND:WHAT" in messages
    assert not (tmp_path / "other.bundle").exists()


def _saved_by_another(model, lacks):
    """The pickle as scikit-learn 1.5.2 would have left it: without what came later."""
    for name in lacks:
        del vars(model)[name]
    version = sklearn.__version__.encode()
    assert len(version) == len(b"1.5.2")
    return pickle.dumps(model).replace(version, b"1.5.2")


def test_a_model_of_another_scikit_learn_names_both_versions_and_the_way_out(tmp_path):
    X = np.arange(20.0).reshape(10, 2)
    model = make_pipeline(StandardScaler(), Ridge()).fit(X, X[:, 0])
    (tmp_path / "old.pkl").write_bytes(_saved_by_another(model, ["transform_input"]))
    (tmp_path / "x.csv").write_text("a,b\n" + "\n".join(f"{a},{b}" for a, b in X))
    ran = subprocess.run(
        [sys.executable, "-m", "bascule.cli", "pack", "old.pkl", "--allow-pickle", "--name", "m",
         "--train", "x.csv"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    here = re.escape(sklearn.__version__)
    assert re.search(f"lacks what scikit-learn {here}.* saved with scikit-learn 1.5.2", ran.stderr)
    assert "pip install 'scikit-learn==1.5.2'" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.InconsistentVersionWarning")
def test_a_pickle_that_another_scikit_learn_made_and_this_cannot_read_names_both(tmp_path):
    data = _saved_by_another(StandardScaler().fit([[1.0], [2.0]]), [])
    (tmp_path / "old.pkl").write_bytes(data.replace(b"sklearn.preprocessing._data", b"s" * 27))
    with pytest.raises(
        Invalid, match=r"made with scikit-learn 1\.5\.2, and .* is installed"
    ) as told:
        read_model(tmp_path / "old.pkl", allow_pickle=True)
    assert "pip install 'scikit-learn==1.5.2'" in told.value.hint
