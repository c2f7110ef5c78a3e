"""Texts, images and embeddings as a few numbers a row, and drift of these."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import bascule
from bascule.bundle.statements import names_of_projections
from bascule.stats.projecting import (
    PROJECTIONS,
    field_of_projection,
    projected_names,
    projections,
    worth_projecting,
)
from bascule.stats.sketches import mixed

TRAVEL = ("flight", "late", "gate", "crew", "plane", "storm", "hub", "wing", "fuel", "seat")
MONEY = ("bank", "loan", "rate", "bond", "fund", "credit", "debt", "share", "price", "stock")


def texts(rows, random, words=TRAVEL):
    return [" ".join(random.choice(words, random.integers(5, 15))) for _ in range(rows)]


def sign(code, projection):
    return 1 if int(mixed(np.array([code], np.uint64))[0]) >> projection & 1 else -1


def one_by_one(text, projection):
    raw = b"\2\2" + text.encode() + b"\3"
    codes = [raw[at] | raw[at + 1] << 8 | raw[at + 2] << 16 for at in range(len(raw) - 2)]
    return sum(sign(code, projection) for code in codes) / len(codes)


def test_texts_are_projected_each_on_its_own():
    rows = ["late at the gate", "", None, "École ✈"]
    columns = projections("note", np.array(rows, object))
    assert list(columns) == list(projected_names("note", is_text=True))
    np.testing.assert_array_equal(columns["note~letters"], [16, 0, np.nan, 7])
    for projection in range(PROJECTIONS):
        expected = [np.nan if row is None else one_by_one(row, projection) for row in rows]
        np.testing.assert_array_equal(columns[f"note~{projection + 1}"], expected)


def test_numbers_are_projected_each_row_on_its_own():
    rows = np.random.default_rng(0).normal(size=(3, 5, 20)).astype(np.float32)
    columns = projections("image", rows)
    np.testing.assert_allclose(columns["image~mean"], rows.mean(axis=(1, 2)), rtol=1e-5)
    signs = [sign(place, 2) for place in range(100)]
    centred = (rows - rows.mean(axis=(1, 2), keepdims=True)).reshape(3, 100)
    np.testing.assert_allclose(columns["image~3"], centred @ signs / 100, atol=1e-7)
    alone = projections("image", rows[1:2])
    assert {name: values[0] for name, values in alone.items()} == {
        name: values[1] for name, values in columns.items()
    }


def test_free_texts_and_wide_rows_are_worth_it_and_categories_and_named_columns_are_not():
    random = np.random.default_rng(1)
    assert worth_projecting(np.array(texts(80, random), object))
    assert not worth_projecting(np.array([f"id {row}" for row in range(80)], object))
    assert not worth_projecting(np.array(texts(20, random) * 4, object))
    assert worth_projecting(np.zeros((3, 13, 5)))
    assert not worth_projecting(np.zeros((3, 64)))
    assert not worth_projecting(np.zeros((3, 65)), tuple(map(str, range(65))))


def test_the_field_of_a_projection_is_told_from_a_column_with_a_tilde():
    assert field_of_projection("note~letters") == "note"
    assert field_of_projection("a~b~3") == "a~b"
    assert field_of_projection("a~b") == "a~b"


@pytest.fixture(scope="module")
def bundle(packed):
    random = np.random.default_rng(2)
    rows = texts(1_200, random)
    late = ["yes" if "late" in row else "no" for row in rows]
    model = make_pipeline(CountVectorizer(), LogisticRegression()).fit(rows, late)
    return bascule.load(packed("notes", model, (rows[:900], late[:900]), (rows[900:], late[900:])))


def test_texts_of_another_topic_raise_an_alarm_and_texts_of_the_same_do_not(bundle):
    expected = {"text": projected_names("text", is_text=True)}
    assert names_of_projections(bundle.path, bundle.manifest) == expected  # what a server hands on
    random = np.random.default_rng(3)
    same = bascule.drift(bundle, texts(500, random), score=False)
    assert {column.name for column in same.windows[0].columns} == {
        "text", *projected_names("text", is_text=True)
    }  # fmt: skip
    assert not same.windows[0].alarms

    half = texts(250, random) + texts(250, random, MONEY)
    alarms = bascule.drift(bundle, half, score=False).windows[0].alarms
    assert {field_of_projection(column.name) for column in alarms} == {"text"}
    assert any(column.sentence.startswith("text (random projection ") for column in alarms)


def test_darker_images_raise_an_alarm(packed):
    nodes = [helper.make_node("ReduceMean", ["image"], ["level"], axes=[1, 2], keepdims=0)]
    graph = helper.make_graph(
        nodes, "brightness",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 12, 12])],
        [helper.make_tensor_value_info("level", TensorProto.FLOAT, ["n"])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9)
    random = np.random.default_rng(4)

    def images(rows, light=0.6):
        levels = random.normal(light, 0.1, (rows, 1, 1))
        return (levels + random.normal(0, 0.2, (rows, 12, 12))).astype(np.float32)

    bundle = bascule.load(packed("pictures", model, images(1_000)))
    assert not bascule.drift(bundle, images(400), score=False).windows[0].alarms
    (dark,) = bascule.drift(bundle, images(400, light=0.52), score=False).windows[0].alarms
    assert dark.sentence.startswith("image (mean value): ")
