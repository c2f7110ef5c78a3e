"""Diagrams of what flows where: shares of a plan, and the lineage of a version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from bascule.charts.frame import Svg, drawing

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
    start, shown = middle - _ROW / 2 + 3, []
    for place, one in enumerate(routes):
        width = 0.0 if one.is_copy else (_ROW - 6) * one.share_percent / 100
        at = middle if one.is_copy else start + width / 2
        start += width
        shown.append((one, at, _GAP + place * (_ROW + _GAP), max(width, _LEAST)))
    return drawing(
        "split", (_WIDTH, height), f"Plan of {name}: {said}", kind="flow", name=name, routes=shown,
        left=_LEFT, right=_RIGHT, row=_ROW,
    )  # fmt: skip


def shares(parts: Sequence[tuple[str, float]], alt: str) -> Svg:
    """Percentages as one bar; names are for readers of the page's own text."""
    left = accumulate((percent * 2 for _, percent in parts), initial=0.0)
    shown = [(name, percent, at) for (name, percent), at in zip(parts, left, strict=False)]
    return drawing("shares", (200, 10), alt, kind="shares", parts=shown)


def lineage(columns: Sequence[Sequence[Node]], alt: str) -> Svg:
    """Columns of things from left to right; each is made from all of the column before it."""
    shown = [column for column in columns if column]
    tallest = max((len(column) for column in shown), default=1)
    width, height = _BOX
    total = tallest * (height + 14) + 2
    nodes: list[tuple[Node, float, float, Sequence[tuple[float, float]]]] = []
    before: list[tuple[float, float]] = []
    for place, column in enumerate(shown):
        x = 1 + place * (width + _BOX_GAP)
        top = (total - len(column) * (height + 14) + 14) / 2
        tops = [top + row * (height + 14) for row in range(len(column))]
        nodes += [(node, x, y, before) for node, y in zip(column, tops, strict=True)]
        before = [(x + width, y + height / 2) for y in tops]
    size = (len(shown) * (width + _BOX_GAP) - _BOX_GAP + 2, total)
    return drawing("lineage", size, alt, kind="flow", nodes=nodes, box=_BOX)
