from __future__ import annotations

import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from sklearn.tree import DecisionTreeClassifier

import bascule
from bascule.bundle.card import Said, card_page, render, sections
from bascule.cli.cards import write_card
from bascule.core.errors import Invalid
from bascule.documents import page as html_of
from bascule.release.quality import measure_quality


@pytest.fixture
def bundle(table_bundle, tmp_path):
    return bascule.load(shutil.copytree(table_bundle, tmp_path / "table"))


@pytest.fixture
def shown(bundle):
    write_card(bundle.path, None, None, None, by="ada")
    return Said.of(bundle.statements())


def titles(bundle, said):
    return [section.title for section in sections(bundle.manifest, said)]


def test_a_card_says_what_was_measured_and_in_the_order_of_training(bundle, shown):
    text = render(bundle.manifest, shown)

    assert f"| digest | {bundle.digest} |" in text
    assert "It was trained on 400 rows and measured on 50 others." in text
    names = re.findall(r"^\| (carrier|airport|month|wind|gust) \| (?:BYTES|INT64|FP64)", text, re.M)
    assert names == [one.name for one in bundle.signature.inputs]
    assert "| only EWR, JFK |" in text
    assert "Refuses values that it was not trained on in airport, month." in text
    assert "100.0% of the held-out rows have the same inputs as a training row." in text
    assert "were trained on" not in text


def test_quality_is_that_of_each_slice_and_of_all(bundle):
    measured = measure_quality(bundle)
    columns, truth = bundle.test_data()
    labels = bundle.predict(columns)["label"]
    chosen = columns["carrier"] == "AA"

    assert measured["overall"]["accuracy"] == pytest.approx((labels == truth).mean())
    found = measured["slices"]["carrier"]["AA"]
    assert found["rows"] == chosen.sum()
    assert found["metrics"]["accuracy"] == pytest.approx((labels == truth)[chosen].mean(), abs=1e-6)
    assert "wind" not in measured["slices"]


def test_what_is_not_known_has_no_section(bundle):
    assert titles(bundle, Said()) == ["At a glance", "Intended use", "Inputs", "Outputs", "Limits",
                                      "Lineage"]  # fmt: skip
    assert "Its quality was not measured" in render(bundle.manifest, Said())


def test_a_card_says_what_measures_the_quality_that_pack_left_open(bundle):
    packed = (bundle.path / "card.md").read_text()
    assert (
        "- Its quality was not measured yet: bascule card measures it on the 50 held-out rows.\n"
        in packed
    )
    assert "no rows with their truth" not in packed

    write_card(bundle.path, None, None, None, by="ada")
    anew = (bundle.path / "card.md").read_text()
    assert "not measured" not in anew
    assert "On 50 held-out rows, by the program served:" in anew


@pytest.mark.parametrize("rows", ["none", "not kept"])
def test_a_card_says_that_there_is_nothing_to_measure_quality_on(rows, pack):
    X, y = np.eye(4), np.array([0, 1, 0, 1])
    test = None if rows == "none" else (X, y)
    model = DecisionTreeClassifier(random_state=0).fit(X, y)
    card = (pack(model, X, test, keep_test=False).path / "card.md").read_text()
    assert "- Its quality was not measured: the bundle holds no rows with their truth.\n" in card


def test_a_card_promises_no_measure_of_what_has_none(bundle, shown):
    other = replace(bundle.manifest, task="other")
    text = render(other, replace(shown, quality={}))
    assert "Its quality was not measured: a model whose task is other has no known measure" in text


def test_words_of_the_author_are_quoted_apart_and_are_no_markup(bundle):
    said = Said(provenance={"description": "Good & <script>alert(1)</script>\nfor | all"}, by="eve")
    text = render(bundle.manifest, said)
    assert "> Good &amp; &lt;script&gt;alert(1)&lt;/script&gt;\n> for | all\n>\n> eve" in text
    page = html_of(card_page(bundle.manifest, said))
    assert "<script" not in page
    assert "Good &amp; &lt;script&gt;" in page


class Tags(HTMLParser):
    """Whether every tag that opens closes, in order."""

    def __init__(self):
        super().__init__()
        self.open, self.attributes = [], []

    def handle_starttag(self, tag, attributes):
        self.attributes += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing_from_elsewhere(bundle, shown):
    page = html_of(card_page(bundle.manifest, shown))
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert all(link.startswith("#") for link in tags.attributes)
    assert "prefers-color-scheme: dark" in page
    for link in tags.attributes:
        assert f'id="{link[1:]}"' in page


def test_a_card_made_anew_says_what_was_said_since_and_keeps_the_digest(bundle):
    before = bundle.digest
    result = {"criterion": "f1 >= 1", "value": None, "passed": False, "reason": "not measured"}
    bundle.add_statement("gates", {"passed": False, "results": [result]}, by="ci")
    write_card(bundle.path, None, None, bundle.path.parent / "card.html", by="ada")

    assert "| f1 &gt;= 1 | - | **failed** | not measured |" in (bundle.path / "card.md").read_text()
    assert '<span class="badge bad">failed</span>' in (bundle.path.parent / "card.html").read_text()
    assert bascule.load(bundle.path).digest == before
    assert len(bundle.statements("quality")) == 1


def test_a_card_in_another_form_is_refused_before_anything_is_measured(bundle, tmp_path):
    with pytest.raises(Invalid, match=r"card\.pdf is neither \.md nor \.html"):
        write_card(bundle.path, None, None, tmp_path / "card.pdf", by="ada")
    assert bundle.statements("quality") == []


# -- which program answers --


@pytest.fixture
def measured(say_of_cost):
    def said(bundle, **latency_us):
        say_of_cost(bundle, **latency_us)
        return Said.of(bundle.statements())

    return said


QUICK, SLOW = {"1": 1.0, "512": 10.0}, {"1": 9.0, "512": 90.0}


def test_the_card_names_the_program_that_serves_requests_and_the_one_that_runs_batches(
    bundle, measured
):
    text = render(bundle.manifest, measured(bundle, onnx=SLOW, llvm=QUICK, original=SLOW))
    assert re.search(r"\| serves requests \| llvm in .*; where that cannot run, onnx \|", text)
    assert "| runs batches | llvm |" in text
    assert "| chosen by | the times measured on Abacus 3 |" in text

    text = render(
        bundle.manifest,
        measured(bundle, onnx={"1": 1.0, "512": 90.0}, llvm={"1": 9.0, "512": 80.0}),
    )
    assert re.search(r"\| serves requests \| onnx in [^;|]* \|", text)
    assert re.search(r"\| runs batches \| onnx; from \d+ rows on llvm \|", text)


def test_the_card_tells_the_parity_of_every_program_that_is_in_the_bundle(bundle):
    text = render(bundle.manifest, Said.of(bundle.statements()))
    for name in ("onnx", "llvm"):
        assert f"- {name}: equal to the original within " in text


def test_show_says_which_program_answers_here_and_where_its_cost_was_measured(
    bundle, measured, monkeypatch, capsys
):
    from bascule.cli.showing import print_bundle

    measured(bundle, onnx=SLOW, llvm=QUICK, original=SLOW)
    print_bundle(bundle, None, bundle.statements(), ())
    said = capsys.readouterr().out
    assert "requests and batches: llvm\n" in said
    assert "llvm: equal to the original" in said
    assert "cost measured on Abacus 3; this machine has " in said
    assert "a batch of" in said

    monkeypatch.setattr("bascule.bundle.programs.llvm.obstacle", lambda: "pip install it")
    bundle = bascule.load(bundle.path)
    print_bundle(bundle, None, bundle.statements(), ())
    said = capsys.readouterr().out
    assert "requests and batches: onnx\n" in said
    assert "llvm cannot run here: pip install it" in said
