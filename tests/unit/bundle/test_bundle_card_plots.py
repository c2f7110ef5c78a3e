"""The plots of the card: what each kind of model gets, and that the page stays one safe file."""

import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression

import bascule
from bascule.bundle.card import Said, card_page
from bascule.bundle.card_plots import plots
from bascule.charts.frame import Chart, _ticks
from bascule.cli.cards import write_card
from bascule.documents import page as html_of

ROWS = 200


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    random = np.random.default_rng(0)
    table = pd.DataFrame({"wind": random.normal(size=ROWS), "gust": random.normal(size=ROWS)})
    push = table.wind + random.normal(size=ROWS) / 2

    def pack(name, model, truth, **more):
        return bascule.pack(
            model.fit(table, truth), name=name, train=(table, truth), test=(table, truth),
            to=tmp_path_factory.mktemp("packed") / name, measure=False, **more,
        )  # fmt: skip

    return {
        "two": lambda: pack("two", LogisticRegression(), (push > 0).astype(int)),
        "three": lambda: pack("three", LogisticRegression(), np.digitize(push, [-0.5, 0.5])),
        "numbers": lambda: pack("numbers", LinearRegression(), push),
        "bare": lambda: pack("bare", LinearRegression(), push, keep_test=False, baseline=False),
        "odd": lambda: pack("odd", LogisticRegression(), np.where(push > 0, "<b>&", "a\"'")),
    }


@pytest.mark.parametrize(
    ("model", "titles"),
    [
        ("two", ["ROC curve", "Reliability", "Probabilities", "Confusion", "wind", "gust"]),
        ("three", ["ROC curve", "Reliability", "Confusion", "wind", "gust"]),
        ("numbers", ["Truth and prediction", "Residuals", "Residuals by size", "wind", "gust"]),
        ("bare", []),
    ],
)
def test_each_kind_of_model_has_the_plots_that_its_data_allow(make, model, titles):
    made = plots(make[model]())
    assert [one.title for one in made] == titles
    for one in made:
        ElementTree.fromstring(one.svg)


def test_the_area_under_the_curve_is_that_of_the_card(make):
    bundle = make["two"]()
    write_card(bundle.path, None, None, None, by="ada")
    area = Said.of(bundle.statements()).quality["overall"]["auc"]
    assert f"Area under the curve: 1 {area:.3f}." in plots(bundle)[0].caption


def test_the_confusion_counts_every_held_out_row(make):
    svg = next(one.svg for one in plots(make["three"]()) if one.title == "Confusion")
    counts = re.findall(r'class="cell"[^>]*><text[^>]*>(\d+)<', svg)
    assert len(counts) == 9
    assert sum(map(int, counts)) == ROWS


def test_the_page_shows_the_plots_an_overview_and_no_script(make, tmp_path):
    bundle = make["odd"]()
    write_card(bundle.path, None, None, tmp_path / "card.html", by="ada")
    page = (tmp_path / "card.html").read_text()
    assert page.count("<figure>") == len(plots(bundle))
    overview = page[page.index('<dl class="overview">') : page.index("</dl>")]
    assert "<dt>accuracy</dt>" in overview
    assert "<dt>training rows</dt><dd>200</dd>" in overview
    assert "<b>&" not in page
    assert "<script" not in page
    assert "http" not in page


def test_short_words_of_a_table_are_not_broken(make):
    """BYTES was shown as BYTE/S."""
    bundle = make["two"]()
    page = html_of(card_page(bundle.manifest, Said()))
    assert re.search(r"th, td \{[^}]*overflow-wrap: break-word", page)
    assert f'<td class="long">{bundle.digest}</td>' in page
    assert "<td>FP64</td>" in page


@pytest.mark.parametrize("ends", [(0, 1), (-3e-9, 5e-9), (0, 1e12), (5, 5), (0.1, 0.7)])
def test_an_axis_has_round_numbers_within_its_range(ends):
    chart = ElementTree.fromstring(Chart(ends, ends, ("x", "y"), "a chart").svg())
    assert 6 <= len(chart.findall("text")) <= 18
    low, high = ends if ends[0] < ends[1] else (2.5, 7.5)
    marks = _ticks(low, high)
    assert low - 1e-9 * abs(high) <= marks[0] < marks[-1] <= high + 1e-9 * abs(high)
