"""Code of one's own: packed without being imported, and run only in a process of its own."""

from __future__ import annotations

import io
import sys
import zipfile

import numpy as np
import pytest

import bascule
from bascule.bundle.originals import python as python_original, python_environment
from bascule.bundle.originals.code_archive import from_archive
from bascule.bundle.originals.python_environment import interpreter
from bascule.core.errors import Invalid, ModelFailed, Unavailable, Untrusted
from bascule.packing.flavors import python
from bascule.packing.flavors.python import lock

CODE = """
import os, sys
import numpy as np

open(os.environ["HOME"] + "/" + "imported-by-" + str(os.getpid()), "w").close()

class Model:
    def predict(self, columns):
        return columns["input"].sum(axis=1)

class Shaped:
    def predict(self, columns):
        return columns["input"][:, :2]

class Centred:
    def predict(self, columns):
        return columns["input"].sum(axis=1) - columns["input"].mean()

class Counting:
    calls = 0

    def predict(self, columns):
        self.calls += 1
        return columns["input"].sum(axis=1) + self.calls

class Loud:
    def predict(self, columns):
        raise ValueError("not today")
"""
ROWS = np.arange(12.0).reshape(4, 3)


@pytest.fixture
def code(tmp_path, monkeypatch):
    """The child runs under this Python: environments are tested where they are built."""
    monkeypatch.setattr(python, "lock", lambda requirements: "numpy==1 --hash=sha256:" + "0" * 64)
    monkeypatch.setattr(python_original, "interpreter", lambda locked: sys.executable)
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "summing.py"
    file.write_text(CODE)
    return file


def test_a_class_answers_as_it_does_in_its_own_process(pack, code, tmp_path):
    bundle = pack(bascule.PythonModel("summing:Model", code=code), ROWS)
    assert bundle.predict(ROWS)["prediction"].tolist() == ROWS.sum(axis=1).tolist()
    assert bundle.manifest.serves == "original"
    assert bundle.parity.reason == "the original itself answers, in a process of its own"
    assert "summing" not in sys.modules
    assert list(tmp_path.glob("imported-by-*"))
    assert not (tmp_path / f"imported-by-{__import__('os').getpid()}").exists()
    assert bascule.rebuild(bundle.path, train=ROWS).same


def test_outputs_are_what_the_class_gives_when_it_is_tried(pack, code):
    bundle = pack(bascule.PythonModel("summing:Shaped", code=code), ROWS)
    (field,) = bundle.signature.outputs
    assert (field.name, field.dtype.value, field.shape) == ("prediction", "FP64", (2,))


def test_a_column_that_may_be_missing_is_seen_in_the_rows(pack, code):
    rows = ROWS.copy()
    assert (
        not pack(bascule.PythonModel("summing:Model", code=code), rows).signature.inputs[0].nullable
    )
    rows[0, 0] = np.nan
    made = pack(bascule.PythonModel("summing:Model", code=code), rows, allow_non_finite=True)
    assert made.signature.inputs[0].nullable


def test_a_package_is_taken_whole_and_its_caches_are_not(pack, tmp_path, code):
    package = tmp_path / "mine"
    (package / "inner").mkdir(parents=True)
    (package / "__pycache__").mkdir()
    (package / "__pycache__/junk.pyc").write_bytes(b"x")
    (package / "__init__.py").write_text("from mine.inner.deep import Model")
    (package / "inner/__init__.py").write_text("")
    (package / "inner/deep.py").write_text(CODE)
    bundle = pack(bascule.PythonModel("mine:Model", code=package), ROWS)
    assert bundle.predict(ROWS)["prediction"].tolist() == ROWS.sum(axis=1).tolist()
    with zipfile.ZipFile(bundle.path / "original/model.zip") as archive:
        assert archive.namelist() == [
            "code/mine/__init__.py",
            "code/mine/inner/__init__.py",
            "code/mine/inner/deep.py",
            "requirements.txt",
        ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"entry": "summing"}, "entry 'summing' is not a module and a class"),
        ({"entry": "../summing:Model"}, "is not a module and a class"),
        ({"code": "nowhere.py"}, "code nowhere.py is not there"),
        ({"files": {"../x": __file__}}, "is not a name inside a folder"),
        ({"files": {"x": "nowhere"}}, "files: nowhere cannot be read"),
        ({"task": "guessing"}, "task 'guessing' is none of"),
        ({"task": "classification"}, "classes go with the task classification"),
        (
            {"task": "classification", "classes": [0, 1]},
            "answers prediction, and for classification it must answer label",
        ),
    ],
)
def test_what_is_wrong_with_a_model_is_told(pack, code, changes, said):
    given = {"entry": "summing:Model", "code": code, **changes}
    with pytest.raises(Invalid, match=said):
        pack(bascule.PythonModel(**given), ROWS)


def test_a_class_that_fails_on_the_rows_is_not_packed(pack, code, tmp_path):
    with pytest.raises(ModelFailed, match="ValueError: not today") as refused:
        pack(bascule.PythonModel("summing:Loud", code=code), ROWS)
    assert "`predict` gets a dict of arrays, here '" in refused.value.hint
    assert not list(tmp_path.glob("bundle*"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Centred", "answers a row otherwise when it is asked alone than among others"),
        ("Counting", "answers the same rows otherwise when it is asked twice"),
    ],
)
def test_code_whose_answer_depends_on_the_company_or_the_call_is_not_packed(pack, code, name, said):
    with pytest.raises(Invalid, match=said):
        pack(bascule.PythonModel(f"summing:{name}", code=code), ROWS)


def test_rows_are_needed_to_know_the_inputs(pack, code):
    with pytest.raises(Invalid, match="train is missing"):
        pack(bascule.PythonModel("summing:Model", code=code), None)


def test_another_python_is_refused_with_the_one_that_is_needed(pack, code, monkeypatch):
    bundle = pack(bascule.PythonModel("summing:Model", code=code), ROWS)
    monkeypatch.setattr(python_original, "python_version", lambda: "3.99")
    with pytest.raises(Invalid, match=r"packed under Python 3\.\d+, and this is 3.99"):
        bundle.predict(ROWS)


# -- archives that were made to lead it astray --


def archive(*names, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as made:
        for name in names:
            made.writestr(zipfile.ZipInfo(name), b"x" * 100, compress_type=compression)
    return file.getvalue()


@pytest.mark.parametrize("data", [b"", b"PK", archive("requirements.txt")[:-30]])
def test_what_is_no_archive_is_refused(data):
    with pytest.raises(Untrusted, match="is not an archive"):
        from_archive(data, "original/model.zip", "requirements.txt")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "names",
    [
        ["code/a.py"],
        ["requirements.txt", "code/../../a.py"],
        ["requirements.txt", "/etc/passwd"],
        ["requirements.txt", "files/../code/a.py"],
        ["requirements.txt", "sitecustomize.py"],
        ["requirements.txt", "code\\a.py"],
        ["requirements.txt", "code/a.py", "code/a.py"],
    ],
)
def test_an_archive_that_pack_did_not_write_is_refused(names):
    with pytest.raises(Untrusted, match=r"original/model\.zip"):
        from_archive(archive(*names), "original/model.zip", "requirements.txt")


def test_an_archive_that_grows_when_it_is_read_is_refused():
    data = archive("requirements.txt", "code/a.py", compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(Untrusted, match=r"holds 'requirements.txt'"):
        from_archive(data, "original/model.zip", "requirements.txt")


# -- environments --


@pytest.mark.parametrize(
    "requirement",
    ["--index-url=http://evil", "-r other.txt", "./local", "git+https://x", "a b", ""],
)
def test_a_requirement_is_a_name_with_a_version_and_nothing_else(requirement):
    with pytest.raises(Invalid, match="is not a name with a version"):
        lock((requirement,))


@pytest.mark.slow
def test_a_python_that_has_no_pip_locks_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("BASCULE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(python_environment, "find_spec", lambda name: None)
    assert lock.__wrapped__(("numpy",)) == lock(("numpy",))


@pytest.mark.parametrize("line", ["numpy", "numpy==1", "--pre", "numpy==1 --hash=md5:00", ""])
def test_a_lock_holds_versions_with_hashes_and_nothing_else(line, tmp_path, monkeypatch):
    monkeypatch.setenv("BASCULE_CACHE_DIR", str(tmp_path))
    with pytest.raises(Invalid, match="is not a line of a lock"):
        interpreter(line + "\n")


def test_an_environment_that_cannot_be_built_leaves_nothing_and_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("BASCULE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(python_environment, "_run", failing)
    with pytest.raises(Unavailable, match="could not be made"):
        interpreter("numpy==1 --hash=sha256:" + "0" * 64 + "\n")
    assert [path.suffix for path in (tmp_path / "environments").iterdir()] == [".lock"]


def failing(command, what):
    raise Unavailable(f"the model's environment could not be {what}: no disk")
