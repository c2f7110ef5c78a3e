"""Charts in a notebook: HTML with its own colours, without a script or a style sheet."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import NamedTuple

from bascule.charts.frame import Svg

_STYLE = """
.bascule-charts { --mark: #4c51bf; --soft: #5b6472; --line: #dfe3ea; --bad: #b3261e;
  --good: #1a7f4b; --track: #eef0f4; display: flex; flex-wrap: wrap; gap: 1rem; }
@media (prefers-color-scheme: dark) { .bascule-charts { --mark: #8f96ff; --soft: #a7b0be;
  --line: #3a414d; --bad: #ff8a80; --good: #5fd39a; --track: #2a303a; } }
.bascule-charts figure { margin: 0; flex: 1 1 20rem; max-width: 44rem; }
.bascule-charts figcaption { font-size: .85em; color: var(--soft); }
.bascule-charts svg { width: 100%; height: auto; }
.bascule-charts text { font: 11px system-ui, sans-serif; fill: var(--soft); }
.bascule-charts .mid { text-anchor: middle; } .bascule-charts .end { text-anchor: end; }
.bascule-charts .grid { stroke: var(--line); }
.bascule-charts .line { fill: none; stroke: var(--mark); stroke-width: 2; }
.bascule-charts .guide { fill: none; stroke: var(--soft); stroke-dasharray: 4 4; }
.bascule-charts .limit { fill: none; stroke: var(--bad); stroke-width: 1.5; stroke-dasharray: 6 4; }
.bascule-charts .dot, .bascule-charts .bar { fill: var(--mark); fill-opacity: .75; }
.bascule-charts .bar.other { fill: var(--soft); fill-opacity: .35; }
.bascule-charts .band { fill: var(--mark); fill-opacity: .14; stroke: none; }
.bascule-charts .alarm, .bascule-charts .bar.over { fill: var(--bad); }
.bascule-charts .track { fill: var(--track); } .bascule-charts .within .bar { fill: var(--good); }
.bascule-charts .within .bar.over { fill: var(--bad); }
""".strip()  # fmt: skip


class Figure(NamedTuple):
    """A chart with its name and its words."""

    name: str
    svg: Svg
    caption: str = ""


def notebook_html(figures: Iterable[Figure]) -> str:
    """The charts side by side; empty for none."""
    shown = [
        f"<figure>{one.svg}<figcaption><b>{escape(one.name)}.</b> {escape(one.caption)}"
        "</figcaption></figure>"
        for one in figures
    ]
    if not shown:
        return ""
    return f'<div class="bascule-charts"><style>{_STYLE}</style>{"".join(shown)}</div>'
