"""Small charts as inline SVG: no script, no inline style; the page's style sheet colours them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

Range = tuple[float, float]
Point = tuple[float, float]

SIZE = (340, 250)
"""Width and height in units of the `viewBox`."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 42
_TICKS = 5
_MAX_POWER = 5


class Svg(str):
    """SVG whose texts are escaped: templates and notebooks put it into a page as it is."""

    __slots__ = ()

    def __html__(self) -> str:
        return str(self)


class Chart:
    """One chart with two numeric axes, drawn back to front.

    Args:
        x: The least and the largest value on the x axis.
        y: The same on the y axis.
        labels: The names of the two axes.
        alt: What the chart shows, for screen readers.
        x_names: What the whole numbers from 0 on are called on the x axis; numbers where empty.
        size: Width and height, in units of the `viewBox`.
        powers: Whether values of the y axis are powers of ten: 3 is labelled 1,000.
        whole: Whether the x axis counts: only whole numbers are labelled.
    """

    def __init__(
        self,
        x: Range,
        y: Range,
        labels: tuple[str, str],
        alt: str,
        x_names: Sequence[str] = (),
        *,
        size: tuple[int, int] = SIZE,
        powers: bool = False,
        whole: bool = False,
    ) -> None:
        self._width, self._height = size
        self._powers, self._whole = powers, whole
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

    def svg(self) -> Svg:
        """The chart."""
        return drawing((self._width, self._height), self._alt, [self._frame(), *self._marks])

    def _frame(self) -> str:
        right, bottom = self._width - _RIGHT, self._height - _BOTTOM
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
            name = self._y_name(value)
            parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" class="end">{name}</text>')
        x_label, y_label = map(escape, self._labels)
        middle = (_TOP + bottom) / 2
        parts.append(
            f'<text x="{(_LEFT + right) / 2:g}" y="{self._height - 6}" class="mid">{x_label}</text>'
        )
        parts.append(
            f'<text x="12" y="{middle:g}" class="mid" transform="rotate(-90 12 {middle:g})">'
            f"{y_label}</text>"
        )
        return "".join(parts)

    def _x_name(self, value: float) -> str:
        if self._whole and not float(value).is_integer():
            return ""
        if not self._x_names:
            return f"{value:.4g}"
        is_named = value == int(value) and 0 <= value < len(self._x_names)
        return self._x_names[int(value)] if is_named else ""

    def _y_name(self, value: float) -> str:
        if not self._powers:
            return f"{value:.4g}"
        if not float(value).is_integer():
            return ""
        return f"{10.0**value:,g}" if abs(value) < _MAX_POWER else f"1e{value:.0f}"

    def _across(self, x: float) -> float:
        low, high = self._x
        return _LEFT + (x - low) / (high - low) * (self._width - _LEFT - _RIGHT)

    def _down(self, y: float) -> float:
        low, high = self._y
        inner = self._height - _TOP - _BOTTOM
        return self._height - _BOTTOM - (y - low) / (high - low) * inner


def drawing(size: tuple[float, float], alt: str, marks: Iterable[str], kind: str = "") -> Svg:
    """Marks as a picture; `alt` says to screen readers what it shows, `kind` is its class."""
    style = f' class="{kind}"' if kind else ""
    return Svg(
        f'<svg{style} viewBox="0 0 {size[0]:g} {size[1]:g}" width="{size[0]:g}" '
        f'height="{size[1]:g}" role="img" aria-label="{escape(alt)}">'
        f"{''.join(marks)}</svg>"
    )


def short(text: str, length: int = 10) -> str:
    """A text that has at most `length` letters, escaped."""
    return escape(text if len(text) <= length else text[: length - 1] + "…")


def grid(labels: Sequence[str], counts: Sequence[Sequence[int]], alt: str) -> Svg:
    """A square of counts with rows of the truth and columns of the answer; each row sums to 1."""
    size, left, top = 300 / max(len(labels), 1), 84, 28
    width = left + 300 + 8
    parts = [f'<text x="{left + 150}" y="12" class="mid">predicted</text>']
    for row, (label, values) in enumerate(zip(labels, counts, strict=True)):
        y = top + row * size
        parts.append(
            f'<text x="{left - 6}" y="{y + size / 2 + 4:.1f}" class="end">{short(label)}</text>'
        )
        parts.append(
            f'<text x="{left + row * size + size / 2:.1f}" y="{top - 4}" class="mid">'
            f"{short(label, 6)}</text>"
        )
        total = sum(values) or 1
        for column, count in enumerate(values):
            x, share = left + column * size, count / total
            parts.append(
                f'<rect class="cell" x="{x:.1f}" y="{y:.1f}" width="{size - 1:.1f}" '
                f'height="{size - 1:.1f}" fill-opacity="{0.06 + 0.84 * share:.2f}"/>'
            )
            style = "mid strong" if share > 0.55 else "mid"
            parts.append(
                f'<text x="{x + size / 2:.1f}" y="{y + size / 2 + 4:.1f}" class="{style}">'
                f"{count:,}</text>"
            )
    return drawing((width, top + 300 + 6), alt, parts)


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
