"""Code of one's own in a pipeline: named, kept, and opened in a process of its own alone."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
import textwrap
import zipfile
from dataclasses import replace

import lightgbm
import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator
from sklearn.cluster import Birch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from tests.tiers import first_of

import bascule
from bascule.bundle.opening import open_program
from bascule.core.errors import Invalid, Untrusted
from bascule.core.fields import DType, Field
from bascule.packing.flavors.own_code import read_code

FEATURES = """
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, TransformerMixin

SCALE = 1.0


def ratios(X):
    X = np.asarray(X, float)
    return np.column_stack([X, X[:, 0] / (1 + np.abs(X[:, 1]))])


def scaled(X):
    return np.asarray(X, float) * SCALE


def standardised(X):
    return (X - X.mean(axis=0)) / (X.std(axis=0) + 1e-9)


class Clip(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):
        self.ends_ = np.quantile(X, [0.05, 0.95], axis=0)
        return self

    def transform(self, X):
        return np.clip(X, *self.ends_)


class Doubled(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return np.asarray(X, float) * 2


class Centred(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):
        self._means = np.mean(X, axis=0)
        return self

    def transform(self, X):
        return np.asarray(X, float) - self._means


class Plain:
    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return np.asarray(X, float) * 2

    def fit_transform(self, X, y=None):
        return self.transform(X)


class Named(RegressorMixin, BaseEstimator):
    def fit(self, X, y):
        self.n_features_in_ = X.shape[1]
        return self

    def predict(self, X):
        return X["b"].to_numpy() * 2


class OfAny(RegressorMixin, BaseEstimator):
    def fit(self, X, y):
        self.n_features_in_ = X.shape[1]
        return self

    def predict(self, X):
        return np.asarray(X, float)[:, 1] * 2


class Rule(RegressorMixin, BaseEstimator):
    def fit(self, X, y=None):
        return self

    def predict(self, X):
        return np.asarray(X, float)[:, 0] * 2


class Weighted(Rule):
    def predict(self, X):
        return np.asarray(X, float)[:, 0] * self._weight


class Sign(ClassifierMixin, BaseEstimator):
    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return self.classes_[(X[:, 0] > 0).astype(int)]


class Duck:
    def get_params(self, deep=True):
        return {}

    def predict(self, X):
        return np.zeros(len(X))
"""
X = np.random.default_rng(0).normal(size=(300, 4))
Y = (X[:, 0] + X[:, 1] > 0).astype(int)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with sources, importable as in the process that trains."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "own_features.py").write_text(FEATURES)
    package = folder / "own_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "steps.py").write_text("from own_features import ratios\n")
    (folder / "own_helping.py").write_text(
        "import own_features\n\n\ndef ratios(X):\n    return own_features.ratios(X)\n"
    )
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def model(home):
    import own_features

    steps = FunctionTransformer(own_features.ratios), own_features.Clip(), StandardScaler()
    return make_pipeline(*steps, LogisticRegression()).fit(X, Y)


@pytest.fixture(scope="module")
def bundle(home, model, tmp_path_factory):
    place = tmp_path_factory.mktemp("packed") / "own.bundle"
    code = [home / "own_features.py"]
    return bascule.pack(
        model, name="own", train=(X, Y), test=(X, Y), to=place, code=code, measure=False
    )


def test_a_pipeline_with_functions_and_classes_of_ones_own_answers_as_it_did(model, bundle):
    answer = bundle.predict(X)
    assert (answer["label"] == model.predict(X)).all()
    np.testing.assert_allclose(answer["probabilities"], model.predict_proba(X), rtol=0, atol=1e-12)
    entry = bundle.manifest.served
    assert entry.name == "onnx"
    assert entry.inputs == bundle.signature.inputs
    assert entry.features == Field("features", DType.FP64, (5,))
    assert entry.precision == "float64, behind the model's own steps"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("Doubled", "only"),
        ("Plain", "last"),
        ("Centred", "last"),
        ("Plain", "first"),
        ("Doubled", "between"),
    ],
)
def test_a_step_that_keeps_nothing_ending_in_an_underscore_may_stand_anywhere(
    home, pack, name, place
):
    """A pipeline of the steps before the last one would call itself not fitted; none is made."""
    import own_features

    own, scale = getattr(own_features, name)(), StandardScaler()
    steps = {"only": [own], "first": [own, scale], "last": [scale, own]}
    fitted = make_pipeline(*steps.get(place, [scale, own, StandardScaler()]), Ridge()).fit(X, Y)
    bundle = pack(fitted, X, code=home / "own_features.py")
    assert bundle.manifest.serves == "onnx"
    np.testing.assert_allclose(bundle.predict(X)["prediction"], fitted.predict(X), rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "inputs"), first_of([("Named", ["a", "b"]), ("OfAny", ["input"])])
)
def test_an_estimator_that_knows_the_count_of_its_columns_alone_may_read_their_names(
    home, pack, name, inputs
):
    import own_features

    table = pd.DataFrame(X[:, :2], columns=["a", "b"])
    model = getattr(own_features, name)().fit(table, Y)
    bundle = pack(
        model, (table, X[:, 0]), (table, X[:, 0]), code=home / "own_features.py",
        serve_original=True,
    )  # fmt: skip
    assert [field.name for field in bundle.signature.inputs] == inputs
    assert bundle.predict(table)["prediction"].tolist() == model.predict(table).tolist()


@pytest.mark.slow
def test_an_estimator_that_keeps_nothing_is_packed_if_it_answers_and_refused_if_it_does_not(
    home, pack
):
    """To scikit-learn neither is fitted; only the author's own predict knows."""
    import own_features

    code = home / "own_features.py"
    bundle = pack(own_features.Rule(), X, code=code, serve_original=True)
    assert bundle.predict(X)["prediction"].tolist() == (X[:, 0] * 2).tolist()
    with pytest.raises(Invalid, match=r"does not answer for its training rows: .* no attribute"):
        pack(own_features.Weighted(), X, code=code, serve_original=True)


@pytest.mark.slow
def test_trees_behind_steps_of_ones_own_answer_by_each_program(home, pack):
    import own_features

    trees = lightgbm.LGBMRegressor(n_estimators=5, num_leaves=4, verbose=-1, n_jobs=1)
    fitted = make_pipeline(FunctionTransformer(own_features.ratios), trees).fit(X, X[:, 2])
    bundle = pack(fitted, (X, X[:, 2]), code=home / "own_features.py")
    expected = fitted.predict(X)
    for name in ("onnx", "llvm", "original"):
        program = bundle.program(name)
        assert program.may_block
        assert program.name == name
        found = program.run({"input": X})["prediction"]
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.slow
def test_behind_a_last_step_that_does_not_compile_the_original_answers(home, pack):
    import own_features

    steps = FunctionTransformer(own_features.ratios), own_features.Sign()
    fitted = make_pipeline(*steps).fit(X, Y)
    bundle = pack(fitted, (X, Y), code=home / "own_features.py")
    assert bundle.manifest.serves == "original"
    assert "Sign" in bundle.parity.reason
    assert [field.name for field in bundle.signature.outputs] == ["label"]  # without probabilities
    assert (bundle.predict(X)["label"] == fitted.predict(X)).all()


def test_a_manifest_that_puts_a_program_behind_steps_that_are_not_there_is_refused(pack):
    bundle = pack(make_pipeline(StandardScaler(), Ridge()).fit(X, Y), (X, Y))
    entry = replace(bundle.manifest.served, features=Field("features", DType.FP64, (4,)))
    altered = replace(bundle.manifest, programs=(entry,))
    with pytest.raises(Untrusted, match=r"behind the steps of original/model\.skops"):
        open_program(bundle.path, altered)


def test_the_bundle_holds_the_sources_and_a_pickle_that_its_format_names(bundle):
    assert bundle.manifest.original.format == "sklearn-pickle"
    with zipfile.ZipFile(bundle.path / bundle.manifest.original.file) as archive:
        assert archive.namelist() == ["code/own_features.py", "model.pkl"]
        assert archive.read("code/own_features.py").decode() == FEATURES


def test_the_original_is_asked_in_a_process_of_its_own_however_it_is_opened(bundle):
    """A fresh process that opens the bundle imports neither the code nor scikit-learn."""
    said = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent("""
                import sys, bascule, numpy as np
                bundle = bascule.load(sys.argv[1])
                rows = np.zeros((2, 4))
                bundle.predict(rows), bundle.original().run({"input": rows})
                bundle.program().run({"input": rows})
                print({"own_features", "sklearn"} & set(sys.modules))
            """),
            str(bundle.path),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == "set()"


@pytest.mark.slow
def test_without_code_the_next_step_is_the_line_to_type(home, model, bundle, pack, monkeypatch):
    """Which gives the bundle of the same model and code, to the digest."""
    monkeypatch.chdir(home)
    with pytest.raises(Invalid, match="own_features") as refused:
        pack(model, (X, Y))
    assert refused.value.hint == "pass code=['own_features.py'] (--code own_features.py)"
    again = pack(model, (X, Y), (X, Y), name="own", **followed(refused.value))
    assert again.digest == bundle.digest


@pytest.mark.slow
def test_a_module_that_the_sources_import_is_asked_for_too(home, pack, monkeypatch):
    import own_helping

    monkeypatch.chdir(home)
    fitted = make_pipeline(FunctionTransformer(own_helping.ratios), Ridge()).fit(X, Y)
    with pytest.raises(Invalid) as refused:
        pack(fitted, X, code="own_helping.py")
    assert "code=['own_helping.py', 'own_features.py']" in refused.value.hint
    found = pack(fitted, X, **followed(refused.value)).predict(X)["prediction"]
    np.testing.assert_allclose(found, fitted.predict(X))


def test_a_package_is_named_by_its_folder(home, pack, monkeypatch):
    from own_package import steps

    monkeypatch.chdir(home)
    own = FunctionTransformer(steps.ratios)  # defined in own_features, and re-exported
    with pytest.raises(Invalid, match="own_features"):
        pack(make_pipeline(own, Ridge()).fit(X, Y), X, code=["own_package"])


def test_a_class_that_is_no_estimator_is_refused_with_what_to_derive_it_from(home, pack):
    import own_features

    with pytest.raises(Invalid, match="Duck is no estimator") as refused:
        pack(own_features.Duck(), X, code=home / "own_features.py")
    assert "BaseEstimator" in refused.value.hint


def test_a_lambda_is_refused_with_what_to_do(pack):
    fitted = make_pipeline(FunctionTransformer(lambda rows: rows + 1), Ridge()).fit(X, Y)
    with pytest.raises(Invalid, match="no name that can be imported") as refused:
        pack(fitted, X)
    assert "pass code=['features.py']" in refused.value.hint


@pytest.mark.slow
def test_what_a_notebook_defines_is_refused_and_works_as_the_hint_says(home, pack, monkeypatch):
    """The function moves to a file; the model is fitted with it, and packed with that file."""
    main = sys.modules["__main__"]
    exec("def added(rows):\n    return rows + 1", main.__dict__)
    fitted = make_pipeline(FunctionTransformer(main.added), Ridge()).fit(X, Y)
    with pytest.raises(Invalid, match="added is defined in the script or notebook") as refused:
        pack(fitted, X)
    assert "move added to a file" in refused.value.hint
    (home / "features.py").write_text("def added(rows):\n    return rows + 1\n")
    monkeypatch.chdir(home)
    import features

    again = make_pipeline(FunctionTransformer(features.added), Ridge()).fit(X, Y)
    bundle = pack(again, X, **followed(refused.value))
    np.testing.assert_allclose(bundle.predict(X)["prediction"], fitted.predict(X))


def test_a_function_that_reads_a_variable_of_the_script_is_refused(home, pack, monkeypatch):
    """In a fresh process the variable has another value, and so would every answer."""
    import own_features

    monkeypatch.setattr(own_features, "SCALE", 3.0)
    fitted = make_pipeline(FunctionTransformer(own_features.scaled), Ridge()).fit(X, Y)
    with pytest.raises(Invalid, match="depends on more than it holds"):
        pack(fitted, X, code=home / "own_features.py")


@pytest.mark.slow
def test_a_function_that_looks_at_all_rows_of_a_batch_is_refused(home, pack):
    """A server would answer one caller otherwise for what another one sends."""
    import own_features

    model = make_pipeline(FunctionTransformer(own_features.standardised), LogisticRegression())
    with pytest.raises(Invalid, match="otherwise when it is asked alone than among") as refused:
        pack(model.fit(X, Y), (X, Y), code=[home / "own_features.py"])
    assert "take out the step that computes over all rows at once" in refused.value.hint


@pytest.mark.slow
def test_an_estimator_that_skops_cannot_keep_needs_its_library_named(pack):
    fitted = make_pipeline(StandardScaler(), Birch(n_clusters=2), Ridge()).fit(X, Y)
    with pytest.raises(Invalid, match="cannot be saved without pickle") as refused:
        pack(fitted, X)
    assert refused.value.hint == "pass code=['sklearn'] (--code sklearn)"
    bundle = pack(fitted, X, **followed(refused.value))
    assert bundle.manifest.serves == "onnx"  # what can be compiled is, also beside a pickle
    np.testing.assert_allclose(bundle.predict(X)["prediction"], fitted.predict(X), rtol=1e-6)


def test_a_model_without_code_of_its_own_keeps_its_form(home, pack):
    fitted = LogisticRegression().fit(X, Y)
    bundle = pack(fitted, (X, Y), code=home / "own_features.py")
    assert bundle.manifest.original.format == "skops"


def test_another_version_of_a_named_library_is_refused(bundle, monkeypatch):
    monkeypatch.setattr("bascule.bundle.originals.libraries.installed_version", lambda name: "0.1")
    with pytest.raises(Untrusted, match=r"saved with scikit-learn .*, and 0.1 is installed"):
        bundle.original()


def test_code_is_a_path_or_an_installed_package():
    assert read_code("scikit-learn").packages == ("scikit-learn",)
    assert read_code(["sklearn", __file__]).modules == {"test_packing_own_code"}
    with pytest.raises(
        Invalid, match=r"'nowhere\.py' is neither a file or folder nor an installed"
    ):
        read_code(["nowhere.py"])


@pytest.mark.parametrize("other", [np.zeros(1), "model.onnx"])
def test_code_is_for_estimators_alone(pack, home, other):
    with pytest.raises(Invalid):
        pack(other, X, code=home / "own_features.py")


def test_a_pickle_of_another_shape_than_an_archive_is_refused(bundle, tmp_path):
    from bascule.bundle.originals.pickled import open_archive

    with pytest.raises(Untrusted, match="is not an archive"):
        open_archive(pickle.dumps(1), bundle.manifest.original.frame, bundle.signature)


@pytest.mark.parametrize("boosts", [False, True])
def test_the_steps_before_the_last_run_once_for_labels_and_probabilities(boosts):
    import lightgbm

    from bascule.bundle.originals.sklearn import _asked

    calls = []

    def noted(rows):
        calls.append(len(rows))
        return rows

    last = lightgbm.LGBMClassifier(n_estimators=3, verbose=-1) if boosts else LogisticRegression()
    fitted = make_pipeline(FunctionTransformer(noted), last).fit(X, np.array(["a", "b"])[Y])
    expected = {method: getattr(fitted, method)(X) for method in ("predict", "predict_proba")}
    calls.clear()
    found = _asked(fitted, X, set(expected))
    assert calls == [len(X)]
    for method, values in expected.items():
        assert (found[method] == values).all()


class Held(BaseEstimator):
    """Holds what no pickle can: an open file."""

    def fit(self, rows, y=None):
        self.file_ = open(__file__)  # noqa: SIM115
        return self

    def transform(self, rows):
        return rows


def test_what_cannot_be_pickled_says_so(pack):
    fitted = make_pipeline(Held(), Ridge()).fit(X, Y)
    with pytest.raises(Invalid, match=r"cannot be pickled: .*TextIOWrapper") as refused:
        pack(fitted, X, code=__file__)
    assert "open file" in refused.value.hint
    fitted[0].file_.close()


def followed(refused):
    """The arguments that a hint says to pass."""
    found = re.search(r"code=(\[[^\]]*\])", refused.hint)
    return {"code": eval(found.group(1))}
