"""Small charts as inline SVG: no script; colours come from the variables of the page's style."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

Range = tuple[float, float]
Point = tuple[float, float]

_WIDTH, _HEIGHT = 340, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 42
_TICKS = 5


class Chart:
    """One chart with two numeric axes, drawn back to front.

    Args:
        x: The least and the largest value on the x axis.
        y: The same on the y axis.
        labels: The names of the two axes.
        alt: What the chart shows, for screen readers.
        x_names: What the whole numbers from 0 on are called on the x axis; numbers where empty.
    """

    def __init__(
        self, x: Range, y: Range, labels: tuple[str, str], alt: str, x_names: Sequence[str] = ()
    ) -> None:
        self._x, self._y = _widened(x), _widened(y)
        self._labels = labels
        self._alt = alt
        self._x_names = x_names
        self._marks: list[str] = []

    def line(self, points: Iterable[Point], style: str = "line") -> Chart:
        """A line through the points, in their order."""
        path = " ".join(f"{self._across(x):.1f},{self._down(y):.1f}" for x, y in points)
        self._marks.append(f'<polyline class="{style}" points="{path}"/>')
        return self

    def dots(self, points: Iterable[Point], style: str = "dot", radius: float = 2) -> Chart:
        """A dot at each point."""
        self._marks += [
            f'<circle class="{style}" cx="{self._across(x):.1f}" cy="{self._down(y):.1f}" '
            f'r="{radius:g}"/>'
            for x, y in points
        ]
        return self

    def bars(self, edges: Sequence[float], heights: Sequence[float], style: str = "bar") -> Chart:
        """A bar from `edges[i]` to `edges[i + 1]` for each height."""
        floor = self._down(max(self._y[0], 0.0))
        for low, high, height in zip(edges, edges[1:], heights, strict=False):
            left, top = self._across(low), self._down(height)
            width = max(self._across(high) - left - 0.5, 0.5)
            self._marks.append(
                f'<rect class="{style}" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" '
                f'height="{max(floor - top, 0):.1f}"/>'
            )
        return self

    def svg(self) -> str:
        """The chart."""
        alt = escape(self._alt)
        return (
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{alt}">'
            f"{self._frame()}{''.join(self._marks)}</svg>"
        )

    def _frame(self) -> str:
        right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
        parts = []
        for value in _ticks(*self._x):
            at = self._across(value)
            parts.append(
                f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{bottom}"/>'
            )
            name = escape(self._x_name(value))
            parts.append(f'<text x="{at:.1f}" y="{bottom + 15}" class="mid">{name}</text>')
        for value in _ticks(*self._y):
            at = self._down(value)
            parts.append(
                f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>'
            )
            parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" class="end">{value:.4g}</text>')
        x_label, y_label = map(escape, self._labels)
        middle = (_TOP + bottom) / 2
        parts.append(
            f'<text x="{(_LEFT + right) / 2:g}" y="{_HEIGHT - 6}" class="mid">{x_label}</text>'
        )
        parts.append(
            f'<text x="12" y="{middle:g}" class="mid" transform="rotate(-90 12 {middle:g})">'
            f"{y_label}</text>"
        )
        return "".join(parts)

    def _x_name(self, value: float) -> str:
        if not self._x_names:
            return f"{value:.4g}"
        is_named = value == int(value) and 0 <= value < len(self._x_names)
        return self._x_names[int(value)] if is_named else ""

    def _across(self, x: float) -> float:
        low, high = self._x
        return _LEFT + (x - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def _down(self, y: float) -> float:
        low, high = self._y
        return _HEIGHT - _BOTTOM - (y - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)


def grid(labels: Sequence[str], counts: Sequence[Sequence[int]], alt: str) -> str:
    """A square of counts with rows of the truth and columns of the answer; each row sums to 1."""
    size, left, top = 300 / max(len(labels), 1), 84, 28
    width = left + 300 + 8
    parts = [f'<text x="{left + 150}" y="12" class="mid">predicted</text>']
    for row, (label, values) in enumerate(zip(labels, counts, strict=True)):
        y = top + row * size
        parts.append(
            f'<text x="{left - 6}" y="{y + size / 2 + 4:.1f}" class="end">{_short(label)}</text>'
        )
        parts.append(
            f'<text x="{left + row * size + size / 2:.1f}" y="{top - 4}" class="mid">'
            f"{_short(label, 6)}</text>"
        )
        total = sum(values) or 1
        for column, count in enumerate(values):
            x, share = left + column * size, count / total
            parts.append(
                f'<rect class="cell" x="{x:.1f}" y="{y:.1f}" width="{size - 1:.1f}" '
                f'height="{size - 1:.1f}" style="fill-opacity:{0.06 + 0.84 * share:.2f}"/>'
            )
            style = "mid strong" if share > 0.55 else "mid"
            parts.append(
                f'<text x="{x + size / 2:.1f}" y="{y + size / 2 + 4:.1f}" class="{style}">'
                f"{count:,}</text>"
            )
    height = top + 300 + 6
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(alt)}">'
        f"{''.join(parts)}</svg>"
    )


def _short(text: str, length: int = 10) -> str:
    return escape(text if len(text) <= length else text[: length - 1] + "…")


def _widened(values: Range) -> Range:
    low, high = values
    if high > low:
        return low, high
    spread = abs(low) or 1.0
    return low - spread / 2, high + spread / 2


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers within the range: about five."""
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(one * power for one in (1, 2, 2.5, 5, 10) if one * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [count * step for count in range(first, last + 1)]
