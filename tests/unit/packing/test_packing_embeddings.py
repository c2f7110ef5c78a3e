"""Text networks as one graph with their tokenizer: embeddings, and scores of pairs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
from hypothesis import given, settings, strategies as st
from tests.embeddings import TOKENS, WIDTH, by_hand, cross_encoder, network, sentence_folder
from tests.tiers import examples
from tests.tiny_pipelines import TEXTS, WORDS, pipeline

import bascule
from bascule.bundle.programs import METADATA, open_tokenized
from bascule.bundle.programs.tokenized import runs_of
from bascule.core.errors import Invalid, Untrusted
from bascule.packing import rebuild

STRANGE = ["", "   ", "日本語 \U0001f600", "gate " * 50, "e\u0301 late\x00", "flight"]
SENTENCES = st.lists(
    st.lists(st.sampled_from([*WORDS, "ünïcode", "日本"]), max_size=2 * TOKENS).map(" ".join),
    min_size=1, max_size=64,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return network(sentence_folder(tmp_path_factory.mktemp("sentences")))


@pytest.fixture(scope="module")
def bundle(folder, packed):
    return bascule.load(packed("sentences", folder, None))


@pytest.fixture(scope="module")
def reranker(tmp_path_factory, packed):
    folder = cross_encoder(tmp_path_factory.mktemp("pairs"))
    return folder, bascule.load(packed("pairs", folder, None))


def mean_of(folder, texts):
    means = np.stack([tokens.mean(axis=0) for tokens in by_hand(folder, texts)])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def altered(folder, tmp_path, name, value):
    shutil.copytree(folder, tmp_path / "altered")
    (tmp_path / "altered" / name).write_text(json.dumps(value))
    return tmp_path / "altered"


def test_a_folder_with_a_graph_takes_texts_and_answers_one_vector(bundle):
    (taken,), (answered,) = bundle.signature.inputs, bundle.signature.outputs
    assert (taken.name, taken.dtype.value, taken.shape) == ("text", "BYTES", ())
    assert (answered.name, answered.dtype.value, answered.shape) == ("embedding", "FP32", (WIDTH,))


@given(SENTENCES)
@settings(max_examples=examples(30), deadline=None)
def test_each_text_has_the_vector_that_it_has_alone_by_hand(folder, bundle, texts):
    """Whatever their order and lengths: the batches that are made are not seen."""
    found = bundle.predict({"text": texts})["embedding"]
    np.testing.assert_allclose(found, mean_of(folder, texts), atol=1e-5)


def test_strange_texts_are_cut_as_the_tokenizer_cuts_them(folder, bundle):
    found = bundle.predict({"text": STRANGE})["embedding"]
    np.testing.assert_allclose(found, mean_of(folder, STRANGE), atol=1e-5)
    longer = bundle.predict({"text": ["gate " * (TOKENS - 1)]})["embedding"]
    np.testing.assert_allclose(found[3:4], longer, atol=1e-6)


def test_the_first_token_without_a_length_of_one(folder, packed, tmp_path):
    other = altered(folder, tmp_path, "1_Pooling/config.json", {"pooling_mode_cls_token": True})
    modules = json.loads((other / "modules.json").read_text())
    (other / "modules.json").write_text(json.dumps(modules[:2]))
    found = bascule.load(packed("first", other, None)).predict({"text": TEXTS[:9]})["embedding"]
    expected = np.stack([tokens[0] for tokens in by_hand(other, TEXTS[:9])])
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_saved_weights_become_a_graph_that_answers_without_pytorch(packed, tmp_path):
    bundle = bascule.load(packed("saved", sentence_folder(tmp_path), None))
    alone = pipeline("feature-extraction")
    alone.tokenizer.model_max_length = TOKENS
    means = np.stack([np.mean(alone(text, truncation=True)[0], axis=0) for text in STRANGE])
    code = (
        f"import sys, bascule, numpy; bundle = bascule.load({str(bundle.path)!r}); "
        f"numpy.save({str(tmp_path / 'found.npy')!r}, bundle.predict({{'text': {STRANGE!r}}})"
        "['embedding']); print(sorted({'torch', 'transformers'} & {*sys.modules}))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
    expected = means / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), expected, atol=1e-5)


def test_a_bundle_that_is_rebuilt_has_the_same_digest(bundle, tmp_path):
    assert rebuild(bundle.path, to=tmp_path / "again").same


@given(SENTENCES, st.randoms())
@settings(max_examples=examples(30), deadline=None)
def test_a_cross_encoder_scores_a_query_and_a_document(reranker, texts, random):
    folder, bundle = reranker
    others = random.sample(texts, len(texts))
    found = bundle.predict({"query": texts, "document": others})["score"]
    logits = np.concatenate(by_hand(folder, texts, others))
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits)), atol=1e-5)


def test_a_cross_encoder_may_answer_its_number_as_it_is(packed, tmp_path):
    folder = cross_encoder(tmp_path, "linear.Identity")
    rows = {"query": TEXTS[:5], "document": TEXTS[5:10]}
    found = bascule.load(packed("plain", folder, None)).predict(rows)["score"]
    np.testing.assert_allclose(found, np.concatenate(by_hand(folder, *rows.values())), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pooling_mode_max_tokens"),
        ("modules.json", [{"type": "models.Dense", "path": ""}], "Dense"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case"),
        ("config_sentence_transformers.json", {"default_prompt_name": "q"}, "default_prompt_name"),
        ("tokenizer.json", {"model": 7}, "tokenizer.json cannot be read"),
        ("config.json", {"architectures": ["BertForSequenceClassification"]}, "one label"),
    ],
)
def test_a_folder_of_another_kind_is_refused(folder, packed, tmp_path, name, value, said):
    with pytest.raises(Invalid, match=said) as refused:
        packed("other", altered(folder, tmp_path, name, value), None)
    assert refused.value.hint


def test_a_folder_that_does_not_say_how_many_tokens_it_takes_is_refused(folder, packed, tmp_path):
    other = altered(folder, tmp_path, "sentence_bert_config.json", {})
    (other / "config.json").write_text(json.dumps({"hidden_size": WIDTH}))
    (other / "tokenizer_config.json").write_text("{}")
    with pytest.raises(Invalid, match="how many tokens"):
        packed("other", other, None)


def test_half_a_surrogate_pair_is_refused(bundle):
    program = bundle.program()
    with pytest.raises(Invalid, match="surrogate"):
        program.run({"text": np.array(["late", "\ud800"], object)})


@pytest.mark.parametrize(
    "change", [{"tokenizer": "{}"}, {"columns": []}, {"columns": ["a", "b", "c"]}, {"tokenizer": 7}]
)
def test_a_graph_with_a_damaged_tokenizer_is_refused(bundle, change):
    model = onnx.load(bundle.path / bundle.manifest.served.file)
    (held,) = (each for each in model.metadata_props if each.key == METADATA)
    held.value = json.dumps({**json.loads(held.value), **change})
    with pytest.raises(Untrusted, match="tokenizer"):
        open_tokenized(model.SerializeToString(), "graph")


def test_a_tokenizer_that_does_not_truncate_is_refused(bundle):
    model = onnx.load(bundle.path / bundle.manifest.served.file)
    held = json.loads(model.metadata_props[0].value)
    tokenizer = {**json.loads(held["tokenizer"]), "truncation": None}
    model.metadata_props[0].value = json.dumps({**held, "tokenizer": json.dumps(tokenizer)})
    with pytest.raises(Untrusted, match="tokens"):
        open_tokenized(model.SerializeToString(), "graph")


@given(st.lists(st.integers(0, 600), min_size=1, max_size=200).map(sorted))
def test_runs_have_each_row_once_and_little_padding(lengths):
    lengths = np.array(lengths)
    runs = [lengths[run] for run in runs_of(lengths)]
    assert np.concatenate(runs).tolist() == lengths.tolist()
    assert all(len(run) == 1 or len(run) * run[-1] <= 512 for run in runs)
    assert sum(len(run) * run[-1] for run in runs) <= lengths.sum() + 10 * len(lengths)
