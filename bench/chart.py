"""The chart on the front page, from the table of peers in `docs/benchmarks.md`.

`python -m bench.chart` writes `docs/pictures/peers.svg`; so does `make bench-peers
ARGS=--markdown`, after it has written the table. The table is the only source of the figures.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path

from bench.report import marks

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
PICTURE = ROOT / "docs" / "pictures" / "peers.svg"
WORKS = ("1 row", "100 rows")
LABELS = {
    "bascule": "Bascule",
    "bare": "by hand: uvloop, ONNX Runtime",
    "mlserver-onnx": "MLServer, ONNX Runtime",
    "kserve-onnx": "KServe, ONNX Runtime",
    "fastapi": "FastAPI, scikit-learn",
    "litserve-onnx": "LitServe, ONNX Runtime",
    "bentoml-onnx": "BentoML, ONNX Runtime",
}
"""The systems on the chart: of each peer the faster of its two forms."""

_WIDTH, _LEFT, _LINE, _BARS = 900, 300, 24, 500


@dataclass(frozen=True, slots=True)
class Bar:
    """Processor seconds that a system took for a thousand requests of one work."""

    system: str
    work: str
    cpu_s_per_1k: float


def bars(page: str) -> list[Bar]:
    """The bars of the chart, work by work, the least first; without peers that were left out.

    Raises:
        ValueError: The page has no table of peers.
    """
    opening, closing = marks("peers")
    if opening not in page or closing not in page:
        raise ValueError(f"the page has no table between {opening} and {closing}")
    part = page.partition(opening)[2].partition(closing)[0]
    table = part[part.index("| system ") :].partition("\n\n")[0]
    head, _, *lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    chosen = [
        Bar(line[0], work, float(figure.partition(" ")[0]))
        for line in lines
        if line[0] in LABELS
        for work, figure in zip(head, line, strict=True)
        if work in WORKS and figure.strip() and "void" not in figure
    ]
    return sorted(chosen, key=lambda bar: (WORKS.index(bar.work), bar.cpu_s_per_1k))


def picture(made: list[Bar]) -> str:
    """The chart as SVG: one group of bars a work, all on one scale that begins at 0."""
    scale = _BARS / max(bar.cpu_s_per_1k for bar in made)
    height = 64 + len(WORKS) * 34 + len(made) * _LINE
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" role="img" aria-labelledby="title" '
        'font-family="system-ui, sans-serif" font-size="13">',
        '<title id="title">Processor seconds per 1,000 requests; less is better</title>',
        f'<rect width="{_WIDTH}" height="{height}" rx="8" fill="#ffffff"/>',
        _text(20, 30, "Processor seconds per 1,000 requests; less is better", "#0b3d70", "600"),
    ]
    y, work = 38, ""
    for bar in made:
        if bar.work != work:
            work, y = bar.work, y + 34
            parts.append(_text(20, y - 8, f"{work} per request, JSON", "#57606a", "600"))
        parts += _bar(bar, y, scale)
        y += _LINE
    return "\n".join([*parts, "</svg>"]) + "\n"


def write(page: Path = PAGE, to: Path = PICTURE) -> None:
    to.parent.mkdir(exist_ok=True)
    to.write_text(picture(bars(page.read_text())))


def _bar(bar: Bar, y: int, scale: float) -> list[str]:
    width = max(2.0, bar.cpu_s_per_1k * scale)
    own = bar.system == "bascule"
    colour, weight = ("#0b5cad", "600") if own else ("#8fa3b8", "400")
    return [
        _text(_LEFT - 10, y + 13, LABELS[bar.system], "#24292f", weight, anchor="end"),
        f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_LINE - 7}" fill="{colour}"/>',
        _text(_LEFT + width + 8, y + 13, f"{bar.cpu_s_per_1k:.3g}", "#24292f", weight),
    ]


def _text(x: float, y: float, words: str, colour: str, weight: str, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:g}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="{colour}">{escape(words)}</text>'
    )


if __name__ == "__main__":
    write()
    sys.stdout.write(f"wrote {PICTURE.relative_to(ROOT)}\n")
