"""Charts: well-formed, escaped, labelled, and drawn where the numbers are."""

import math
import re
from xml.etree import ElementTree

import pytest

from bascule.charts import (
    Chart,
    Lane,
    Node,
    Route,
    Series,
    lineage,
    lines,
    ranked,
    roc,
    shares,
    sparkline,
    split,
    then_and_now,
    waterfall,
    within,
)

EVIL = "<script>\"'&"


def every_chart(name):
    """One of each, with a name in every text."""
    points = [(0.0, 1.0), (1.0, math.nan), (2.0, 3.0)]
    return [
        lines([Series(points, lower=points, upper=points)], (name, name), name, lanes=[Lane(2.0)]),
        then_and_now([0.0, 1.0, 2.0], [0.5, 0.5], [0.9, 0.1], name, name),
        then_and_now([name, "b"], [0.5, 0.5], [0.9, 0.1], name, name),
        roc([(name, [(0, 0), (1, 1)])]),
        sparkline([1, 2, math.nan], name),
        within([(name, math.inf, 1e-5)], name),
        waterfall(0.5, [(name, 0.25), ("b", -0.5)], name),
        ranked([(name, 0.25), ("b", 0.0)], name),
        split(name, [Route(name, name, 100.0, name), Route("shadow", name, 5.0, is_copy=True)]),
        shares([(name, 100.0)], name),
        lineage([[Node(name, name, name)], [], [Node("b", "c")]], name),
        Chart((0, 1), (0, 1), (name, name), name).svg(),
    ]


@pytest.mark.parametrize("place", range(len(every_chart("a"))))
def test_a_chart_is_a_picture_with_a_name_and_no_style_of_its_own(place):
    svg = every_chart(EVIL)[place]
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    assert root.get("aria-label")
    assert "style=" not in svg
    assert "<script" not in svg
    assert "nan" not in svg
    assert "inf" not in svg.replace("inf<", "")  # the text of a value
    assert svg.__html__() == svg


def test_a_line_is_interrupted_where_a_value_is_missing():
    svg = lines([Series([(0, 1), (1, 2), (2, math.nan), (3, 1), (4, 2)])], ("x", "y"), "gaps")
    assert len(re.findall(r'<polyline class="line"', svg)) == 2


def test_lines_without_a_number_are_no_chart():
    assert lines([Series([(0, math.nan)])], ("x", "y"), "none") is None
    assert lines([], ("x", "y"), "none") is None


def test_a_boundary_is_drawn_at_its_value_within_the_chart():
    svg = lines([Series([(0, 0), (1, 1)])], ("x", "y"), "a", lanes=[Lane(5.0)])
    limit = re.search(r'class="limit" points="([\d.]+),([\d.]+)', svg)
    top, bottom = 10, 260 - 42
    assert top <= float(limit[2]) < (top + bottom) / 2


def test_powers_of_ten_are_written_as_numbers():
    svg = lines([Series([(0, 0), (1, 3)])], ("x", "y"), "a", powers=True)
    assert ">1,000<" in svg


@pytest.mark.parametrize(("value", "style"), [(1e-6, "bar"), (1e-5, "bar"), (1.1e-5, "bar over")])
def test_a_value_over_its_limit_is_marked(value, style):
    assert f'<rect class="{style}" ' in within([("onnx", value, 1e-5)], "parity")


def test_the_bands_of_a_plan_are_as_wide_as_its_shares():
    svg = split("late", [Route("current", "late/1", 75.0), Route("candidate", "late/2", 25.0)])
    widths = [float(one) for one in re.findall(r'stroke-width="([\d.]+)"', svg)]
    assert widths == [30.0, 10.0]


def test_a_waterfall_ends_at_the_sum_and_adds_up_what_it_does_not_draw():
    svg = waterfall(1.0, [("small", 0.25), ("large", -2.0), ("b", 0.5), ("c", 0.25)], "w", most=2)
    said = re.findall(r">([^<>]+)</text>", svg)
    assert said == ["base", "1", "large", "-2", "b", "+0.5", "2 others", "+0.5", "answer", "0"]
