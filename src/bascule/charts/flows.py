"""Diagrams of what flows where: shares of a plan, and the lineage of a version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from bascule.charts.frame import Svg, drawing, short

_ROW, _GAP, _LEFT, _RIGHT, _WIDTH = 46.0, 12.0, 132.0, 430.0, 720.0
_LEAST = 2.0
_BOX, _BOX_GAP = (148.0, 46.0), 44.0


@dataclass(frozen=True, slots=True)
class Route:
    """One arm of a plan.

    Attributes:
        name: Of the arm: `current`, `candidate`, `shadow`.
        version: What answers.
        share_percent: Of the requests; of a shadow, the share that is copied.
        note: More, in a few words; may be empty.
        is_copy: Whether it gets copies: drawn dashed.
    """

    name: str
    version: str
    share_percent: float
    note: str = ""
    is_copy: bool = False


@dataclass(frozen=True, slots=True)
class Node:
    """One thing of a lineage, from left to right: what it is, its name, and a detail."""

    kind: str
    name: str
    detail: str = ""


def split(name: str, routes: Sequence[Route]) -> Svg:
    """How the requests of an endpoint reach its versions; bands are as wide as shares."""
    height = len(routes) * (_ROW + _GAP) + _GAP
    middle = height / 2
    said = "; ".join(f"{one.name}: {one.version} {one.share_percent:g} %" for one in routes)
    marks = [
        f'<rect class="node" x="1" y="{middle - 24:g}" width="{_LEFT - 2:g}" height="48" rx="8"/>',
        f'<text class="strong mid" x="{_LEFT / 2:g}" y="{middle - 3:g}">{short(name, 16)}</text>',
        f'<text class="mid" x="{_LEFT / 2:g}" y="{middle + 13:g}">requests</text>',
    ]
    start = middle - _ROW / 2 + 3
    for place, one in enumerate(routes):
        top = _GAP + place * (_ROW + _GAP)
        width = 0.0 if one.is_copy else (_ROW - 6) * one.share_percent / 100
        at = middle if one.is_copy else start + width / 2
        start += width
        marks += _route(one, at, top, max(width, _LEAST), place)
    return drawing((_WIDTH, height), f"Plan of {name}: {said}", marks, "flow")


def _route(one: Route, start: float, top: float, width: float, place: int) -> list[str]:
    end, bend = top + _ROW / 2, (_LEFT + _RIGHT) / 2
    style = "copied" if one.is_copy else f"flow{place % 4}"
    note = f" · {one.note}" if one.note else ""
    percent = f"{one.share_percent:g} %" + (" copied" if one.is_copy else "")
    is_idle, left = not one.share_percent, _RIGHT + 14
    return [
        f'<path class="band-path {style}{" idle" if is_idle else ""}" stroke-width="{width:.1f}" '
        f'd="M{_LEFT:g} {start:.1f} C{bend:g} {start:.1f} {bend:g} {end:.1f} '
        f'{_RIGHT:g} {end:.1f}"/>',
        f'<rect class="node {style}" x="{_RIGHT:g}" y="{top:g}" width="{_WIDTH - _RIGHT - 1:g}" '
        f'height="{_ROW:g}" rx="8"/>',
        f'<text class="strong" x="{left:g}" y="{top + 20:g}">{short(one.version, 26)}</text>',
        f'<text x="{left:g}" y="{top + 36:g}">{short(one.name + note, 34)}</text>',
        f'<text class="strong end" x="{_WIDTH - 14:g}" y="{top + 28:g}">{percent}</text>',
    ]


def shares(parts: Sequence[tuple[str, float]], alt: str) -> Svg:
    """Percentages as one bar; names are for readers of the page's own text."""
    marks, left = [], 0.0
    for place, (name, percent) in enumerate(parts):
        width = percent * 2
        marks.append(
            f'<rect class="flow{place % 4}" x="{left:.2f}" y="0" width="{max(width - 1, 0):.2f}" '
            f'height="10" rx="2"><title>{escape(name)}: {percent:g} %</title></rect>'
        )
        left += width
    return drawing((200, 10), alt, marks, "shares")


def lineage(columns: Sequence[Sequence[Node]], alt: str) -> Svg:
    """Columns of things from left to right; each is made from all of the column before it."""
    shown = [column for column in columns if column]
    tallest = max((len(column) for column in shown), default=1)
    width, height = _BOX
    total = tallest * (height + 14) + 2
    marks: list[str] = []
    before: list[tuple[float, float]] = []
    for place, column in enumerate(shown):
        x = 1 + place * (width + _BOX_GAP)
        top = (total - len(column) * (height + 14) + 14) / 2
        here = []
        for row, node in enumerate(column):
            y = top + row * (height + 14)
            middle = y + height / 2
            marks += [_arrow(*one, x, middle) for one in before]
            marks += _node(node, x, y)
            here.append((x + width, middle))
        before = here
    return drawing((len(shown) * (width + _BOX_GAP) - _BOX_GAP + 2, total), alt, marks, "flow")


def _arrow(x: float, y: float, to_x: float, to_y: float) -> str:
    bend, tip = (x + to_x) / 2, to_x - 6
    return (
        f'<path class="arrow" d="M{x:g} {y:g} C{bend:g} {y:g} {bend:g} {to_y:g} {tip:g} {to_y:g}"/>'
        f'<path class="tip" d="M{to_x:g} {to_y:g} l-7 -4 v8 z"/>'
    )


def _node(node: Node, x: float, y: float) -> list[str]:
    width, height = _BOX
    return [
        f'<rect class="node" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8"/>',
        f'<text x="{x + 10:g}" y="{y + 18:g}">{short(node.kind, 22)}</text>',
        f'<text class="strong" x="{x + 10:g}" y="{y + 35:g}">{short(node.name, 19)}'
        f"<title>{escape(node.name)} {escape(node.detail)}</title></text>",
    ]
