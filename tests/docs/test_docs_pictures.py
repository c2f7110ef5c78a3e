"""The pictures of the front page are what their sources make, and can be read without a network."""

from __future__ import annotations

import importlib.util
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from bench import chart

ROOT = Path(__file__).parents[2]
PICTURES = sorted((ROOT / "docs" / "pictures").glob("*.svg"))


def overview() -> Any:
    spec = importlib.util.spec_from_file_location("overview", ROOT / "docs" / "draw_overview.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["overview"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_overview_is_what_its_source_draws() -> None:
    drawn = overview()

    assert drawn.PICTURE.read_text() == drawn.picture(), "run: python docs/draw_overview.py"


def test_the_chart_is_what_the_table_of_peers_gives() -> None:
    drawn = chart.picture(chart.bars(chart.PAGE.read_text()))

    assert chart.PICTURE.read_text() == drawn, "run: python -m bench.chart"


def test_a_figure_of_the_chart_is_the_one_of_the_table() -> None:
    page = (
        "<!-- bench:peers -->\n| system | 1 row | 100 rows | spread |\n| --- | --- | --- | --- |\n"
        "| bascule | 0.5000 (1.0) | 1.0000 (2.0) | 1% |\n| kserve-onnx | 0.2500 (1.0) |  | 1% |\n"
        "| nginx | 0.1000 (1.0) |  | 1% |\n<!-- /bench:peers -->\n"
    )
    made = chart.bars(page)

    assert [(bar.system, bar.work, bar.cpu_s_per_1k) for bar in made] == [
        ("kserve-onnx", "1 row", 0.25), ("bascule", "1 row", 0.5), ("bascule", "100 rows", 1.0),
    ]  # fmt: skip
    widths = [
        float(width) for width in re.findall(r'<rect x=.+? width="(.+?)"', chart.picture(made))
    ]
    assert widths == pytest.approx([widths[2] / 4, widths[2] / 2, widths[2]])


def test_a_page_without_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="no table"):
        chart.bars("# Benchmarks\n")


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_a_picture_is_well_formed_and_loads_nothing(path: Path) -> None:
    text = path.read_text()

    assert ET.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "<title" in text
