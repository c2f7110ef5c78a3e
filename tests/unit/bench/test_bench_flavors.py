"""The page of flavors: what is asked of whom, and where it is written."""

from __future__ import annotations

import pytest
from bench import flavors, report
from bench.flavors import MARKS, MODELS, Asked, Row, chosen, main, markdown

from bascule.packing.flavors import TABLE

ROW = Row(
    flavor="sklearn",
    model="trees",
    parity=1e-7,
    programs=["onnx", "llvm"],
    best={1: "onnx", 100: "llvm", 65_536: "original"},
    original_us={1: 400.0, 100: 500.0, 65_536: 1e5},
    speed_up={1: 50.0, 100: 6.25, 65_536: 1.0},
    spread=0.12,
    one_row_us={"program": 6.0, "predict": 11.04},
)
ABOUT = {"rounds": 7, "versions": {"onnxruntime": "1.0"}, "machine": {"processor": "A chip"}}


class Recorded:
    name, inputs, outputs = "onnx", (), ()

    def run(self, columns, outputs=None):
        self.columns, self.asked = columns, outputs
        return {}


def test_original_and_programs_are_asked_for_the_same():
    """To time one by its probabilities and another by all of its outputs says nothing of either."""
    inner = Recorded()
    Asked(inner, ["probabilities"]).run({})
    assert inner.asked == ["probabilities"]


def test_a_line_of_the_page_names_the_fastest_at_each_size_and_the_spread():
    text = markdown([ROW], ABOUT)
    line = "| sklearn | trees | 1.0e-07 | 50.0 x (onnx) | 6.2 x (llvm) | 1.0 x (original) | 12% |"
    assert line in text.splitlines()
    assert "Medians of 7 interleaved rounds" in text


def test_the_page_tells_what_predict_takes_beside_the_program():
    assert "| sklearn | trees | 6.0 | 11.0 |  |" in markdown([ROW], ABOUT).splitlines()


def test_the_pages_of_the_two_benches_have_marks_of_their_own():
    page = flavors.PAGE.read_text()
    assert page.count(MARKS[0]) == page.count(MARKS[1]) == 1
    assert not set(MARKS) & set(report.MARKS)
    assert report.MARKS[0] not in page
    written = report.put_between_marks(page, "new", "flavors")
    before, _, rest = page.partition(MARKS[0])
    assert written == f"{before}{MARKS[0]}\n\nnew\n\n{MARKS[1]}{rest.partition(MARKS[1])[2]}"


def test_every_flavor_has_a_line_but_those_that_answer_themselves():
    assert {flavor for flavor, _ in MODELS} == set(TABLE) - {"onnx", "python"}


def test_models_are_chosen_by_words_of_their_names():
    assert chosen(None) == MODELS
    assert list(chosen("catboost")) == [("catboost", "100 trees")]
    assert set(chosen("sklearn: ")) == {key for key in MODELS if key[0] == "sklearn"}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--only", "tensors"], "no model is called like 'tensors'"),
        (["--only", "catboost", "--markdown"], "leave --only out"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is(arguments, reason, capsys):
    with pytest.raises(SystemExit) as refused:
        main(arguments)
    assert refused.value.code == 2
    assert reason in capsys.readouterr().err
