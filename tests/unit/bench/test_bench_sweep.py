"""The sweep: what it calls broken, and a short form of it."""

from __future__ import annotations

import numpy as np
import pytest
from bench.report import marks
from bench.sweep import rows
from bench.sweep.__main__ import PAGE
from bench.sweep.children import verdicts_of
from bench.sweep.judge import Verdict
from bench.sweep.page import fallen_back, markdown, table

SHORT = (
    "sklearn/Ridge",
    "table/onehot-error/plain",
    "default/LGBMClassifier/wine",
    "lightgbm/float32",
    "torch/dense",
)


def test_both_sides_of_a_jump_are_found_to_the_last_bit():
    threshold = 0.1 + 0.2
    real = np.linspace(0, 1, 40)[:, None]
    found = dict(rows.groups(real, real, lambda asked: (asked > threshold).astype(float)))
    edges = set(found["edges"].ravel().tolist())
    assert {threshold, np.nextafter(threshold, 1)} <= edges


def test_a_default_that_the_original_serves_or_that_was_not_packed_has_fallen_back():
    verdicts = [
        Verdict("default/A", serves="onnx"),
        Verdict("default/B", serves="original"),
        Verdict("default/C", "refused"),
        Verdict("other", serves="original"),
    ]
    assert [one.name for one in fallen_back(verdicts)] == ["default/B", "default/C"]


def test_the_page_says_what_broke_and_why_the_original_serves():
    verdicts = [
        Verdict("a", "broken", "onnx", {"onnx": 1e-16}, 0.5, 10, findings=["huge: differs | much"]),
        Verdict("b", serves="original", why="no converter", rows=5),
    ]
    text = markdown(verdicts, {"onnxruntime": "1.0"}, "A chip")
    assert "`a` (huge: differs | much)" in text
    assert "| a | 1 | 1 | 0 | 0 | 1.0e-16 | 5.0e-01 |" in text
    assert table(verdicts).splitlines()[1:] == [
        "a,onnx,1.0e-16,5.0e-01,10,broken,huge: differs | much",
        "b,original,,0.0e+00,5,kept,no converter",
    ]


def test_the_page_has_a_place_for_the_table():
    assert all(PAGE.read_text().count(mark) == 1 for mark in marks("sweep"))


@pytest.mark.slow
def test_five_models_of_the_sweep_are_judged_each_in_a_process_of_its_own():
    verdicts = list(verdicts_of(SHORT, 2))
    assert [one.name for one in verdicts] == list(SHORT)
    assert all(one.rows > 300 and one.serves == "onnx" for one in verdicts)
    assert all(one.measured <= 1e-5 and not one.wrong_labels for one in verdicts)
