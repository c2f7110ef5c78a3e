"""Small charts as inline SVG: no script, no inline style; the page's style sheet colours them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

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
        return drawing(
            "chart", (self._width, self._height), self._alt, drawn=self._marks,
            labels=self._labels, left=_LEFT, right=self._width - _RIGHT, top=_TOP,
            bottom=self._height - _BOTTOM,
            x_ticks=[(self._x_name(x), self._across(x)) for x in _ticks(*self._x)],
            y_ticks=[(self._y_name(y), self._down(y)) for y in _ticks(*self._y)],
        )  # fmt: skip

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


def drawing(template: str, size: tuple[float, float], alt: str, **values: Any) -> Svg:
    """A picture from a template, where texts are escaped: there and nowhere else.

    Args:
        template: Its name.
        size: Width and height of the `viewBox`.
        alt: What it shows, for screen readers.
        **values: What the template takes; `kind` is the class of the picture.
    """
    known = {"kind": "", "size": size, "alt": alt, **values}
    return Svg(_templates().get_template(f"{template}.svg.j2").render(known))


@cache
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("bascule.charts"), autoescape=True, trim_blocks=True,
        undefined=StrictUndefined,
    )  # fmt: skip
    environment.filters |= {
        "g": "{:g}".format, "f1": "{:.1f}".format, "f2": "{:.2f}".format, "short": _short,
    }  # fmt: skip
    return environment


def _short(text: str, length: int = 10) -> str:
    """A text that has at most `length` letters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def grid(labels: Sequence[str], counts: Sequence[Sequence[int]], alt: str) -> Svg:
    """A square of counts with rows of the truth and columns of the answer; each row sums to 1."""
    left, top = 84, 28
    return drawing(
        "grid", (left + 300 + 8, top + 300 + 6), alt, left=left, top=top,
        cell=300 / max(len(labels), 1), rows=list(zip(labels, counts, strict=True)),
    )  # fmt: skip


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
