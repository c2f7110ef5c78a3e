"""Texts: what is counted in the graph is what scikit-learn counts, whatever the text holds."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import (
    CountVectorizer,
    HashingVectorizer,
    TfidfTransformer,
    TfidfVectorizer,
)
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.naive_bayes import BernoulliNB, ComplementNB, MultinomialNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from tests.tiers import first_of

from bascule.bundle.disk.reading import shaped
from bascule.bundle.programs.onnx import open_onnx
from bascule.bundle.programs.texts import MAX_CHARACTERS, slices_of
from bascule.bundle.texts import Texts
from bascule.core.errors import Invalid, ModelFailed, Unconvertible, Untrusted
from bascule.core.fields import DType, Field, Signature
from bascule.packing.compilers.sklearn import compilations
from bascule.packing.compilers.texts import letters
from bascule.packing.flavors.sklearn import save
from bascule.packing.statements import parity

SENTENCES = [
    "The flight was late, the wind was strong",
    "In time at gate 42; nothing to say",
    "École fermée: Straße naïve ΟΔΟΣ ΣΟΦΟΣ",
    "it's a_b well-known x y İstanbul \u212aelvin",
    "日本語 の テキスト ١٢٣ Ⅷ ²² \U0001d400\U0001d401",
    "",
] * 5
TARGETS = np.random.default_rng(0).normal(size=len(SENTENCES))
LATE = np.array([("late" in text) + 2 * ("gate" in text) for text in SENTENCES])
SIGNATURE = Signature((Field("text", DType.BYTES),), (Field("prediction", DType.FP64),))


def compiled(vectorizer):
    """The vectorizer before a regressor that any other count would move, and its program."""
    model = make_pipeline(vectorizer, Ridge()).fit(SENTENCES, TARGETS)
    weights = np.random.default_rng(1).normal(size=model[-1].coef_.shape)
    model[-1].coef_ = weights + np.sign(weights)
    made = next(iter(compilations(model, SIGNATURE, sparse=True)))
    program = open_onnx(
        made.data,
        name="onnx",
        file="onnx",
        inputs=made.inputs,
        outputs=made.outputs,
        texts=made.texts,
    )
    return model, program


def answers_alike(model, program, texts):
    rows = np.empty(len(texts), object)
    rows[:] = texts
    found = program.run({"text": rows})["prediction"]
    np.testing.assert_allclose(found, model.predict(texts), rtol=1e-9, atol=1e-9)


VECTORIZERS = [
    CountVectorizer(),
    CountVectorizer(lowercase=False, binary=True),
    CountVectorizer(ngram_range=(1, 3)),
    CountVectorizer(ngram_range=(2, 2)),
    CountVectorizer(token_pattern=r"(?u)\b\w+\b", strip_accents="unicode"),
    CountVectorizer(strip_accents="ascii"),
    CountVectorizer(analyzer="char", ngram_range=(1, 3)),
    CountVectorizer(stop_words=["was", "late", "the"]),
    TfidfVectorizer(sublinear_tf=True),
    TfidfVectorizer(norm="l1", use_idf=False),
    TfidfVectorizer(norm=None, max_features=7),
]


def short(vectorizer):
    return repr(vectorizer).replace("\n", "")[:60]


@pytest.mark.parametrize("vectorizer", VECTORIZERS, ids=short)
def test_a_vectorizer_counts_as_the_original_does(vectorizer):
    answers_alike(*compiled(vectorizer), [*SENTENCES, *(text.upper() for text in SENTENCES)])


WORDS, LETTERS = compiled(CountVectorizer(ngram_range=(1, 2))), compiled(VECTORIZERS[6])
known = st.sampled_from(sorted({word for text in SENTENCES for word in text.split()}))
pieces = st.one_of(known, known.map(str.upper), st.text(max_size=6), st.characters())


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(pieces, max_size=8).map(" ".join), min_size=1, max_size=6))
def test_any_text_of_any_alphabet_is_counted_as_python_counts_it(texts):
    # A lone surrogate is no text that a request could hold.
    texts = [text.encode(errors="ignore").decode() for text in texts]
    for model, program in (WORDS, LETTERS):
        answers_alike(model, program, texts)


def test_what_is_a_letter_is_asked_of_python_character_by_character():
    """Each character between two letters: it is in the word, or it ends it."""
    model, program = compiled(CountVectorizer(vocabulary=["ab", "cd"], lowercase=False))
    texts = [f"ab{chr(code)}cd" for code in range(0x3000) if not 0xD800 <= code < 0xE000]
    answers_alike(model, program, texts)
    assert letters().startswith(r"[\x{30}-\x{39}\x{41}-\x{5a}\x{5f}-\x{5f}")


def test_a_list_of_texts_is_packed_served_and_asked_by_table_or_list(pack):
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(SENTENCES, LATE)
    bundle = pack(model, (SENTENCES, LATE), (SENTENCES, LATE))
    assert bundle.manifest.serves == "onnx", bundle.parity.reason
    assert [(field.name, field.dtype) for field in bundle.signature.inputs] == [("text", "BYTES")]
    expected = model.predict_proba(SENTENCES)
    for rows in (SENTENCES, np.array(SENTENCES), {"text": SENTENCES}, pd.Series(SENTENCES)):
        np.testing.assert_allclose(bundle.predict(rows)["probabilities"], expected, atol=1e-12)
    assert bundle.parity.probes >= 8
    with pytest.raises(Invalid, match="missing values"):
        bundle.predict(["a", None])


def test_a_series_gives_its_name_and_a_table_of_one_column_is_taken_too(pack):
    model = make_pipeline(CountVectorizer(), LogisticRegression()).fit(SENTENCES, LATE)
    named = pack(model, pd.Series(SENTENCES, name="note"))
    table = pack(model, pd.DataFrame({"note": SENTENCES}))
    assert named.signature == table.signature
    assert named.signature.inputs[0].name == "note"
    assert table.manifest.original.frame["container"] == "texts"


def test_a_column_may_be_counted_twice_and_also_be_a_category(pack):
    random = np.random.default_rng(0)
    table = pd.DataFrame({"note": random.choice(["Late Late", "late", "IN time"], 60)})
    model = make_pipeline(
        make_column_transformer(
            (CountVectorizer(), "note"),
            (CountVectorizer(lowercase=False, analyzer="char"), "note"),
            (OneHotEncoder(handle_unknown="ignore"), ["note"]),
        ),
        LogisticRegression(),
    ).fit(table, random.integers(0, 2, 60))
    bundle = pack(model, table)
    assert bundle.manifest.serves == "onnx", bundle.parity.reason
    prepared = bundle.manifest.served.texts.prepared
    assert [one.steps for one in prepared] == [("lower",), ("single_spaces",)]


@pytest.mark.parametrize(
    "last",
    [
        MultinomialNB(),
        ComplementNB(),
        BernoulliNB(),
        BernoulliNB(binarize=None),
        SGDClassifier(loss="log_loss"),
        SGDClassifier(),
    ],
    ids=short,
)
@pytest.mark.parametrize("classes", first_of([3, 2]))
def test_classifiers_of_counts_are_compiled(pack, last, classes):
    steps = (CountVectorizer(binary=True), TfidfTransformer(), last)
    if isinstance(last, BernoulliNB) and last.binarize is None:
        steps = (CountVectorizer(binary=True), last)
    model = make_pipeline(*steps).fit(SENTENCES, LATE % classes)
    bundle = pack(model, SENTENCES)
    assert bundle.manifest.serves == "onnx", bundle.parity.reason
    assert bundle.parity.max_difference <= 1e-12


@pytest.mark.parametrize(
    ("vectorizer", "message"),
    first_of(
        [
            (HashingVectorizer(n_features=64), "by a hash that the runtime does not have"),
            (CountVectorizer(analyzer="char_wb"), "analyzer='char_wb'"),
            (CountVectorizer(token_pattern=r"[a-z]+"), "token_pattern="),
            (CountVectorizer(stop_words=["the"], ngram_range=(1, 2)), "stop words left out"),
        ],
        2,
    ),
)
def test_what_cannot_be_counted_exactly_is_said_and_served_by_the_original(
    pack, vectorizer, message
):
    model = make_pipeline(vectorizer, LogisticRegression()).fit(SENTENCES, LATE)
    with pytest.raises(Unconvertible, match=message):
        pack(model, SENTENCES)
    bundle = pack(model, SENTENCES, serve_original=True)
    assert message.partition("'")[0] in bundle.parity.reason
    expected = model.predict_proba(SENTENCES)
    np.testing.assert_allclose(bundle.predict(SENTENCES)["probabilities"], expected)


@pytest.mark.parametrize("word", ["file", "__id__"])
def test_a_vocabulary_may_have_words_that_the_saved_file_has_keys_for(word):
    """With `max_features` the numbers of words are numpy's, each in a file of the archive."""
    texts = pd.DataFrame({"text": [f"{word} one", "one two", f"two {word}", "three one"]})
    vectorizer = TfidfVectorizer(max_features=3, token_pattern=r"\w+")
    model = make_pipeline(
        make_column_transformer((vectorizer, "text")), LogisticRegression()
    ).fit(texts, [0, 1, 0, 1])  # fmt: skip
    assert word in model[0].transformers_[0][1].vocabulary_

    assert save(model) == save(pickle.loads(pickle.dumps(model)))


def test_a_vocabulary_that_would_cost_more_than_the_original_is_not_compiled(pack, monkeypatch):
    monkeypatch.setattr("bascule.packing.compilers.texts.MAX_WORDS", 21)
    fits = CountVectorizer(max_features=21)
    assert compiled(fits)
    with pytest.raises(Unconvertible, match="knows 22 words, and up to 21 are compiled"):
        compiled(CountVectorizer(max_features=22))


def test_a_model_that_gives_another_number_of_answers_is_refused(pack):
    """A vectorizer takes a table for the list of its column names."""
    table = pd.DataFrame({"note": SENTENCES, "more": SENTENCES})
    model = make_pipeline(CountVectorizer(), LogisticRegression()).fit(SENTENCES, LATE)
    with pytest.raises(Invalid, match="the model gives 2 answers for 3 rows"):
        pack(model, table)


# -- how many rows at once -----------------------------------------------------------------------


def of_lengths(*lengths):
    made = np.empty(len(lengths), object)
    made[:] = ["x" * length for length in lengths]
    return [made]


def test_rows_are_cut_where_there_are_too_many():
    assert list(slices_of(of_lengths(1, 1, 1), 3)) == [slice(0, 3)]
    assert list(slices_of(of_lengths(1, 1, 1, 1), 3)) == [slice(0, 3), slice(3, 4)]
    assert list(slices_of(of_lengths(), 3)) == [slice(0, 0)]


def test_rows_are_cut_where_one_is_so_long_that_all_would_be_made_as_wide():
    half = MAX_CHARACTERS // 2
    assert list(slices_of(of_lengths(half, 1), 9)) == [slice(0, 2)]
    assert list(slices_of(of_lengths(half + 1, 1), 9)) == [slice(0, 1), slice(1, 2)]
    assert list(slices_of(of_lengths(1, 1, MAX_CHARACTERS + 5, 1), 9)) == [
        slice(0, 2),
        slice(2, 3),
        slice(3, 4),
    ]


def test_the_answers_of_the_slices_are_those_of_the_whole(pack):
    model = make_pipeline(CountVectorizer(), LogisticRegression()).fit(SENTENCES, LATE)
    bundle = pack(model, SENTENCES)
    rows = SENTENCES * 60
    columns = {"text": np.array(rows, object)}
    assert len(list(slices_of([columns["text"]], bundle.manifest.served.texts.rows_at_once))) > 1
    found = parity.answers(bundle.program(), columns)["probabilities"]
    np.testing.assert_allclose(found, model.predict_proba(rows), atol=1e-12)


def test_a_text_that_is_missing_is_a_failure_in_words(pack):
    model = make_pipeline(CountVectorizer(), Ridge()).fit(SENTENCES, TARGETS)
    program = pack(model, SENTENCES).program()
    with pytest.raises(ModelFailed, match="a text is missing"):
        program.run({program.inputs[0].name: np.array(["the wind", None], object)})


@pytest.mark.parametrize(
    "change",
    [
        {"rows_at_once": 0},
        {"prepared": [{"name": "p", "column": "text", "steps": ["lower", "eval"]}]},
    ],
)
def test_a_manifest_that_prepares_texts_in_unknown_ways_is_refused(change):
    known = {
        "prepared": [{"name": "p", "column": "text", "steps": ["lower"]}],
        "rows_at_once": 1,
    }
    texts = shaped(known, Texts, "it", what="texts")
    assert json.loads(json.dumps(asdict(texts))) == known
    with pytest.raises(Untrusted, match="the manifest prepares texts"):
        shaped({**known, **change}, Texts, "it", what="texts")
