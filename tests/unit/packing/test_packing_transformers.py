"""Pipelines of transformers: what is kept, what is refused, and what answers."""

from __future__ import annotations

import io
import json
import os
import zipfile

import numpy as np
import pytest
from tests.tiny_pipelines import TEXTS, pipeline

import bascule
from bascule.bundle import open_program
from bascule.bundle.originals import pipelines
from bascule.core.errors import Invalid, Untrusted
from bascule.packing.flavors.own_code import to_archive
from bascule.packing.flavors.transformers import Transformers


@pytest.fixture(scope="module")
def classifier():
    return pipeline()


@pytest.fixture(scope="module")
def bundle(classifier, packed):
    return bascule.load(packed("reviews", classifier, TEXTS[:20]))


def test_a_bundle_answers_as_the_pipeline_does_from_a_process_of_its_own(bundle, classifier):
    program = open_program(bundle.path, bundle.manifest, isolated=True)
    try:
        answers = program.run({"text": np.array(TEXTS[20:40], object)})
        assert program.pid not in (None, os.getpid())
    finally:
        program.close()
    for text, label, shares in zip(TEXTS[20:40], *answers.values(), strict=True):
        (best,) = classifier(text)
        assert label == best["label"]
        assert shares.max() == pytest.approx(best["score"], abs=1e-6)


def test_a_folder_of_safetensors_is_the_same_model(bundle, classifier, tmp_path):
    classifier.save_pretrained(tmp_path)
    read = Transformers().read(tmp_path, TEXTS[:20], None)
    assert read.saved == (bundle.path / bundle.manifest.original.file).read_bytes()
    with zipfile.ZipFile(io.BytesIO(read.saved)) as archive:
        assert sorted(archive.namelist()) == sorted(pipelines.MEMBERS)


def test_pickled_weights_are_refused_with_a_hint(classifier, packed, tmp_path):
    classifier.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(Invalid, match=r"pytorch_model\.bin may run code") as refused:
        packed("reviews", tmp_path, TEXTS[:20])
    assert "save_pretrained" in refused.value.hint


def test_a_configuration_that_brings_code_is_refused(bundle, classifier, packed, tmp_path):
    classifier.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    brings = config | {"auto_map": {"AutoModelForSequenceClassification": "mine.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(brings))
    (tmp_path / "mine.py").write_text("raise SystemExit('the code was run')")
    with pytest.raises(Invalid, match="auto_map"):
        packed("reviews", tmp_path, TEXTS[:20])

    file = bundle.path / bundle.manifest.original.file
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    frame = bundle.manifest.original.frame
    altered = to_archive(parts | {"config.json": json.dumps(brings).encode()})
    with pytest.raises(Untrusted, match="auto_map"):
        pipelines.load_pipeline(altered, frame)
    with pytest.raises(Untrusted, match="arguments are kept that are none of"):
        pipelines.load_pipeline(to_archive(parts), frame | {"call": {"trust_remote_code": True}})
    with pytest.raises(Untrusted, match="has not the files"):
        pipelines.load_pipeline(to_archive(parts | {"mine.py": b""}), frame)


def test_a_text_of_too_many_tokens_is_refused_unless_the_pipeline_truncates(bundle):
    long = "late " * 40
    with pytest.raises(Invalid, match="41 tokens, and the model takes 16"):
        bundle.predict([long])
    cut = pipeline(truncation=True)
    assert pipelines.call_of(cut) == {"truncation": True}
    scores = pipelines.answers_of(cut, [long])["probabilities"]
    assert scores.max() == pytest.approx(cut(long)[0]["score"], abs=1e-6)


@pytest.mark.parametrize(
    ("config", "call", "names"),
    [
        ({"problem_type": "multi_label_classification"}, {}, ["label", "scores"]),
        ({}, {"function_to_apply": "none"}, ["label", "scores"]),
        ({"problem_type": "regression", "id2label": {0: "stars"}}, {}, ["prediction"]),
    ],
)
def test_scores_that_do_not_add_up_to_one_are_no_probabilities(config, call, names):
    pipe = pipeline(config=config, **call)
    answer = pipelines.answers_of(pipe, TEXTS[20:22])
    assert list(answer) == names
    assert answer[names[-1]][0].max() == pytest.approx(pipe(TEXTS[20])[0]["score"], abs=1e-6)


def test_other_columns_than_one_of_texts_are_refused(classifier, packed):
    with pytest.raises(Invalid, match="takes one column of texts"):
        packed("reviews", classifier, {"text": TEXTS[:20], "stars": list(range(20))})
