"""Charts of series and distributions: arrays in, SVG out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import le

from bascule.charts.frame import Chart, Point, Range, Svg, drawing

WIDE = (720, 260)
_SPARK = (160.0, 36.0)
_MAX_BARS = 24
_LIMIT_LEFT, _LIMIT_WIDTH, _LIMIT_ROW = 120.0, 320.0, 30.0
_FALL_LEFT, _FALL_RIGHT, _FALL_WIDTH, _FALL_ROW = 136.0, 278.0, 344.0, 24.0


@dataclass(frozen=True, slots=True)
class Series:
    """A line of a chart.

    Attributes:
        points: x and y; a y that is not finite leaves a gap.
        style: Class of the line: `line`, `line c1` to `line c5`, `guide`, `limit`.
        lower: The lower edge of a band around it; empty for no band.
        upper: The upper edge.
    """

    points: Sequence[Point]
    style: str = "line"
    lower: Sequence[Point] = ()
    upper: Sequence[Point] = ()


@dataclass(frozen=True, slots=True)
class Lane:
    """A horizontal line over the whole width: a boundary, a margin, a baseline.

    Attributes:
        y: Where.
        style: Class: `limit` for a boundary, `guide` for a reference.
    """

    y: float
    style: str = "limit"


def non_dominated(losses: Sequence[Sequence[float]]) -> list[int]:
    """The places of the points that no other one equals in all losses and beats in one."""

    def is_beaten(own: Sequence[float]) -> bool:
        no_worse = (all(map(le, other, own)) and other != own for other in losses)
        return any(no_worse)

    return [place for place, own in enumerate(losses) if not is_beaten(own)]


def lines(
    series: Sequence[Series],
    labels: tuple[str, str],
    alt: str,
    *,
    lanes: Sequence[Lane] = (),
    marks: Sequence[Point] = (),
    y: Range | None = None,
    size: tuple[int, int] = WIDE,
    x_names: Sequence[str] = (),
    powers: bool = False,
    whole: bool = False,
) -> Svg | None:
    """Lines with bands and boundaries; None without a finite point.

    Args:
        series: Drawn in order.
        labels: Names of the axes.
        alt: What the chart shows, with its numbers.
        lanes: Boundaries.
        marks: Points that stand out, as alarms do.
        y: Range of the y axis; that of everything drawn if None.
        size: In units of the `viewBox`.
        x_names: What the whole numbers from 0 on are called on the x axis.
        powers: Whether values of y are powers of ten.
        whole: Whether x counts something.
    """
    every = [p for one in series for p in (*one.points, *one.lower, *one.upper)]
    known = [(across, up) for across, up in every if math.isfinite(up)]
    if not known:
        return None
    levels = [up for _, up in known] + [lane.y for lane in lanes]
    room = (max(levels) - min(levels)) * 0.06
    span = y or (min(levels) - room, max(levels) + room)
    ends = (min(across for across, _ in known), max(across for across, _ in known))
    if ends[0] == ends[1]:
        ends = (ends[0], ends[0] + 1.0)
    chart = Chart(ends, span, labels, alt, x_names, size=size, powers=powers, whole=whole)
    for one in series:
        if one.lower and one.upper:
            edge = [p for p in (*one.lower, *reversed(one.upper)) if math.isfinite(p[1])]
            style = "band" if len(edge) > 2 else "whisker"
            chart.line(((a, _clipped(b, span)) for a, b in edge), style)
    for lane in lanes:
        chart.line([(ends[0], lane.y), (ends[1], lane.y)], lane.style)
    for one in series:
        for part in _without_gaps(one.points):
            shown = [(a, _clipped(b, span)) for a, b in part]
            chart.line(shown, one.style)
            if len(shown) == 1:
                chart.dots(shown, "dot", 3)
    return chart.dots(marks, "alarm", 4).svg()


def histogram(
    edges: Sequence[float],
    heights: Sequence[float],
    labels: tuple[str, str],
    alt: str,
    *,
    behind: Sequence[float] = (),
    x_names: Sequence[str] = (),
) -> Svg:
    """A bar from each edge to the next; `behind` them, pale, others on the same edges."""
    most = max([*heights, *behind, 0.0]) * 1.05 or 1.0
    chart = Chart((edges[0], edges[-1]), (0, most), labels, alt, x_names)
    return chart.bars(edges, behind, "bar other").bars(edges, heights).svg()


def then_and_now(
    edges: Sequence[float] | Sequence[str],
    then: Sequence[float],
    now: Sequence[float],
    name: str,
    alt: str,
) -> Svg:
    """Two distributions: pale the earlier one, strong the later one.

    Args:
        edges: Edges of bins, one more than shares; or names of categories, as many as shares.
        then: The share of each bin in the earlier rows, 0 to 1.
        now: The share of each bin in the later rows.
        name: Of the column.
        alt: What the chart shows.
    """
    numbers = [one for one in edges if not isinstance(one, str)]
    if len(numbers) == len(edges) and len(edges) == len(then) + 1:
        return histogram(numbers, now, (name, "share"), alt, behind=then)
    names = [str(one) for one in edges][:_MAX_BARS]
    shown = [one if len(one) < 8 else f"{one[:6]}…" for one in names]
    most = max([*then, *now, 0.0]) * 1.05 or 1.0
    chart = Chart((-0.5, len(names) - 0.5), (0, most), (name, "share"), alt, shown)
    for place, (before, after) in enumerate(zip(then, now, strict=True)):
        chart.bars([place - 0.42, place], [before], "bar other")
        chart.bars([place, place + 0.42], [after])
    return chart.svg()


def roc(curves: Sequence[tuple[str, Sequence[Point]]]) -> Svg:
    """ROC curves: by class, the false and the true positive rates."""
    named = ", ".join(name for name, _ in curves)
    chart = Chart(
        (0, 1), (0, 1), ("false positive rate", "true positive rate"), f"ROC curve of {named}"
    )
    chart.line([(0, 0), (1, 1)], "guide")
    for place, (_, points) in enumerate(curves):
        chart.line(points, f"line c{place % 6}")
    return chart.svg()


def sparkline(values: Iterable[float], alt: str, *, most: float | None = None) -> Svg:
    """A small line without axes, from 0 up to `most` or the largest value; the latest is a dot."""
    shown = [value if math.isfinite(value) else 0.0 for value in values] or [0.0]
    width, height = _SPARK
    top = max(most or 0.0, *shown, 1e-12)
    step = (width - 6) / max(1, len(shown) - 1)
    points = [(3 + step * at, height - 3 - (height - 6) * v / top) for at, v in enumerate(shown)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return drawing("spark", _SPARK, alt, kind="spark", points=points, path=path)


def within(rows: Sequence[tuple[str, float, float]], alt: str) -> Svg:
    """How far values stay below their limits, on a scale of powers of ten.

    Args:
        rows: A name, its value and its limit, both >= 0; a value that is not finite fills the row.
        alt: What the chart shows.
    """
    shown = [
        (name, value, limit, max(_log_share(value) * _LIMIT_WIDTH, 2),
         _LIMIT_LEFT + _log_share(limit) * _LIMIT_WIDTH)
        for name, value, limit in rows
    ]  # fmt: skip
    size = (_LIMIT_LEFT + _LIMIT_WIDTH + 80, max(1, len(rows)) * _LIMIT_ROW)
    return drawing(
        "within", size, alt, kind="within", rows=shown, left=_LIMIT_LEFT, full=_LIMIT_WIDTH,
        row=_LIMIT_ROW,
    )  # fmt: skip


def waterfall(
    base: float,
    steps: Sequence[tuple[str, float]],
    alt: str,
    *,
    most: int = 10,
    end: str = "answer",
) -> Svg:
    """How contributions lead from a base to an answer, the largest first.

    Args:
        base: Where the steps begin: the mean answer, for example.
        steps: A name and its contribution; their sum and `base` are the answer.
        alt: What the chart shows.
        most: Steps that are drawn; the sum of the others is the last one.
        end: What the sum is called.
    """
    ordered = sorted(steps, key=lambda step: -abs(step[1]))
    shown, others = ordered[:most], ordered[most:]
    if others:
        shown.append((f"{len(others)} others", sum(value for _, value in others)))
    levels = [base]
    for _, value in shown:
        levels.append(levels[-1] + value)
    low, high = min(levels), max(levels)
    scale = (_FALL_RIGHT - _FALL_LEFT) / ((high - low) or 1.0)
    places = [_FALL_LEFT + (level - low) * scale for level in levels]
    rows = [("base", places[0], places[0], f"{base:.4g}", "level")]
    rows += [
        (name, places[at], places[at + 1], f"{value:+.3g}", "up" if value >= 0 else "down")
        for at, (name, value) in enumerate(shown)
    ]
    rows.append((end, places[-1], places[-1], f"{levels[-1]:.4g}", "level"))
    return _bars_of_names(rows, alt, is_falling=True)


def ranked(values: Sequence[tuple[str, float]], alt: str) -> Svg:
    """Numbers >= 0 as bars, each beside its name, in the order that they come in."""
    scale = (_FALL_RIGHT - _FALL_LEFT) / (max((value for _, value in values), default=0.0) or 1.0)
    rows = [
        (name, _FALL_LEFT, _FALL_LEFT + value * scale, f"{value:.3g}", "up")
        for name, value in values
    ]
    return _bars_of_names(rows, alt, is_falling=False)


def _bars_of_names(
    rows: Sequence[tuple[str, float, float, str, str]], alt: str, *, is_falling: bool
) -> Svg:
    """A row: its name, from where to where across, its value as text, and its style."""
    size = (_FALL_WIDTH, max(1, len(rows)) * _FALL_ROW + 4)
    return drawing(
        "waterfall", size, alt, kind="waterfall", rows=rows, left=_FALL_LEFT, right=_FALL_RIGHT,
        row=_FALL_ROW, is_falling=is_falling,
    )  # fmt: skip


def _log_share(value: float) -> float:
    """Where a value is between 1e-16 and 1, by powers of ten."""
    if not math.isfinite(value) or value >= 1:
        return 1.0
    return max(0.0, 1 + math.log10(max(value, 1e-16)) / 16)


def _without_gaps(points: Sequence[Point]) -> list[list[Point]]:
    """The runs of points whose y is finite."""
    runs: list[list[Point]] = [[]]
    for across, up in points:
        if math.isfinite(up):
            runs[-1].append((across, up))
        elif runs[-1]:
            runs.append([])
    return [one for one in runs if one]


def _clipped(value: float, span: Range) -> float:
    return min(max(value, span[0]), span[1])
