"""Batches are answered by the original where that is the fastest by far, and only safely."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import xgboost
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests.tiers import first_of

import bascule
from bascule.bundle import loaded
from bascule.bundle.disk.manifest import ISOLATED, MANIFEST, ORIGINAL
from bascule.bundle.opening import pinned_program
from bascule.core.digests import canonical_json
from bascule.core.errors import ModelFailed, TimedOut, Unavailable, Untrusted

SLOW, QUICK = {"1": 1.0, "8": 100.0}, {"1": 50.0, "8": 60.0}


@pytest.fixture(scope="module")
def fitted(cancer):
    return LogisticRegression(max_iter=5000).fit(*cancer)


@pytest.fixture
def linear(pack, cancer, fitted, say_of_cost):
    bundle = pack(fitted, cancer[0])
    say_of_cost(bundle, onnx=SLOW, original=QUICK)
    return bundle


@pytest.fixture
def boosted_trees(pack, cancer, say_of_cost):
    X, y = cancer
    bundle = pack(xgboost.XGBClassifier(n_estimators=3, n_jobs=1).fit(X, y), X)
    say_of_cost(bundle, onnx=SLOW, **{ISOLATED: QUICK, ORIGINAL: QUICK})
    return bundle


def test_the_original_answers_the_batches_that_it_is_fastest_for(linear, cancer):
    X, _ = cancer
    alone, together = linear.predict(X[:1]), linear.predict(X[:8])
    assert (alone.program, together.program) == ("onnx", "original")
    compiled = linear.program("onnx").run({"input": X[:8]})
    assert list(together) == [field.name for field in linear.signature.outputs]
    for field in linear.signature.outputs:
        assert together[field.name].dtype == field.dtype.numpy
        assert together[field.name].shape == compiled[field.name].shape
        np.testing.assert_allclose(together[field.name], compiled[field.name], atol=1e-9)


def test_requests_keep_to_a_compiled_program(linear):
    assert pinned_program(linear.path, linear.manifest) == "onnx"
    assert linear.program().name == "onnx"


def test_a_batch_larger_than_one_call_of_the_original_is_answered_whole(
    linear, cancer, monkeypatch
):
    X, _ = cancer
    monkeypatch.setattr(loaded, "_CALL_ROWS", 100)
    answer = linear.predict(X)
    assert answer.program == "original"
    expected = linear.program("onnx").run({"input": X})
    np.testing.assert_allclose(answer["probabilities"], expected["probabilities"], atol=1e-9)
    assert (answer["label"] == expected["label"]).all()


def test_another_version_than_the_one_compared_is_no_candidate(linear, cancer, monkeypatch):
    monkeypatch.setattr("bascule.bundle.originals.saved.installed_version", lambda name: "0.1")
    assert bascule.load(linear.path).predict(cancer[0][:8]).program == "onnx"


def test_a_framework_is_not_imported_to_find_out_whether_it_is_there(linear):
    probe = f"""
import sys
import numpy as np
import bascule
bundle = bascule.load({str(linear.path)!r})
assert bundle.predict(np.zeros((1, 30))).program == "onnx"
assert bundle.fastest_program(8) == "original"
print("sklearn" in sys.modules, "skops" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_what_is_said_of_the_cost_later_counts_at_once(linear, cancer, say_of_cost):
    X, _ = cancer
    assert linear.predict(X[:8]).program == "original"
    say_of_cost(linear, onnx=QUICK, original=SLOW)
    assert linear.predict(X[:8]).program == "onnx"


def test_what_another_process_says_of_the_cost_counts_a_tenth_of_a_second_later(
    linear, cancer, monkeypatch, say_of_cost
):
    """To look whether there are new statements takes as long as to run a small program."""
    X, _ = cancer
    now_s = 50.0
    monkeypatch.setattr(loaded.time, "monotonic", lambda: now_s)
    assert linear.predict(X[:8]).program == "original"
    say_of_cost(bascule.load(linear.path), onnx=QUICK, original=SLOW)
    os.utime(linear.path / "statements", ns=(1, 1))  # a clock may be too coarse to tell
    now_s = 50.09
    assert linear.predict(X[:8]).program == "original"
    now_s = 50.11
    assert linear.predict(X[:8]).program == "onnx"


def test_what_is_read_by_a_library_s_own_code_is_opened_in_a_process_of_its_own(
    boosted_trees, cancer
):
    """Nobody asked for the original by name, so its file may do no harm."""
    X, _ = cancer
    answer = boosted_trees.predict(X[:8])
    assert answer.program == "original"
    (running,) = boosted_trees._programs.values()
    assert running.pid not in (None, os.getpid())
    expected = boosted_trees.program("onnx").run({"input": X[:8].astype(np.float32)})
    for field in boosted_trees.signature.outputs:
        assert answer[field.name].dtype == field.dtype.numpy
        np.testing.assert_allclose(answer[field.name], expected[field.name], atol=1e-6)


def test_its_time_in_this_process_says_nothing_of_its_time_in_another(boosted_trees, say_of_cost):
    say_of_cost(boosted_trees, onnx=SLOW, original=QUICK)
    assert boosted_trees.fastest_program(8) == "onnx"
    say_of_cost(boosted_trees, onnx=SLOW, **{ISOLATED: {"8": 90.0}, ORIGINAL: QUICK})
    assert boosted_trees.fastest_program(8) == "onnx"


@pytest.mark.parametrize("kind", first_of([ModelFailed, TimedOut, Unavailable]))
def test_an_original_that_cannot_be_started_leaves_the_batch_to_the_programs(
    boosted_trees, cancer, monkeypatch, caplog, kind
):
    def fails(*args, **settings):
        raise kind("no processes here")

    monkeypatch.setattr("bascule.bundle.programs.of_bundle", fails)
    for _ in range(2):
        assert boosted_trees.predict(cancer[0][:8]).program == "onnx"
    assert [record.getMessage() for record in caplog.records] == [
        "model: its original cannot be used: no processes here"
    ]


def test_an_original_that_was_altered_is_refused_not_passed_over(linear, cancer):
    file = linear.path / linear.manifest.original.file
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(Untrusted, match="not the file that was sealed"):
        linear.predict(cancer[0][:8])


def without_programs(bundle, **original):
    """The bundle as whoever writes manifests may have it: its original serves."""
    gone = {program.file for program in bundle.manifest.programs}
    for file in gone:
        (bundle.path / file).unlink()
    manifest = replace(
        bundle.manifest,
        original=replace(bundle.manifest.original, **original),
        programs=(),
        serves=ORIGINAL,
        files={name: entry for name, entry in bundle.manifest.files.items() if name not in gone},
        digest_on_disk="",
    )
    (bundle.path / MANIFEST).write_bytes(canonical_json(manifest.to_json()))
    return bascule.load(bundle.path)


@pytest.mark.slow
def test_an_original_that_serves_is_opened_apart_too_unless_it_is_named(boosted_trees, cancer):
    X, _ = cancer
    bundle = without_programs(boosted_trees)
    served = bundle.program()
    assert served.pid not in (None, os.getpid())
    own = bundle.program(ORIGINAL)
    assert own.pid is None
    rows = {"input": X[:8].astype(np.float32)}
    for name, expected in own.run(rows).items():
        assert np.array_equal(served.run(rows)[name], expected)
        assert np.array_equal(bundle.predict(X[:8])[name], expected)
    served.close()


def test_boosted_trees_that_the_manifest_keeps_quiet_about_are_not_opened_here(
    pack, cancer, say_of_cost
):
    """A manifest can be written by anybody: what is opened here is chosen by the file itself."""
    X, y = cancer
    model = make_pipeline(StandardScaler(), xgboost.XGBClassifier(n_estimators=2, n_jobs=1))
    bundle = pack(model.fit(X, y), X)
    requires = {k: v for k, v in bundle.manifest.original.requires.items() if "xgboost" not in k}
    original = replace(bundle.manifest.original, requires=requires)
    manifest = replace(bundle.manifest, original=original, digest_on_disk="")
    (bundle.path / MANIFEST).write_bytes(canonical_json(manifest.to_json()))
    crafted = bascule.load(bundle.path)
    say_of_cost(crafted, onnx=SLOW, original=QUICK)
    assert crafted.fastest_program(8) == "original"
    with pytest.raises(Untrusted, match="xgboost"):
        crafted.predict(X[:8])
    crafted = without_programs(crafted)
    with pytest.raises(Untrusted, match="xgboost"):
        crafted.program()
    with pytest.raises(Untrusted, match="xgboost"):
        crafted.predict(X[:8])


@pytest.mark.slow
def test_the_cost_of_isolation_is_measured_where_it_could_matter(pack, cancer, monkeypatch):
    """And no process is started where it could not."""
    X, y = cancer
    model = xgboost.XGBClassifier(n_estimators=3, n_jobs=1).fit(X, y)
    monkeypatch.setattr("bascule.packing.packing.is_ever_fastest", lambda *args: False)
    assert ISOLATED not in pack(model, X, measure=True).cost.latency_us
    monkeypatch.setattr("bascule.packing.packing.is_ever_fastest", lambda *args: True)
    measured = pack(model, X, measure=True).cost.latency_us
    assert set(measured) == {"onnx", "llvm", ORIGINAL, ISOLATED}
    assert measured[ISOLATED].keys() == measured["onnx"].keys()
