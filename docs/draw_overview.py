"""Writes `docs/pictures/overview.svg`: `python docs/draw_overview.py`.

The picture shows the stages of a model from fit to answer, each with the command that leads to it.
A test compares the file with what this makes.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path

PICTURE = Path(__file__).parent / "pictures" / "overview.svg"

_WIDTH, _HEIGHT = 980, 250
_BOX_WIDTH, _BOX_HEIGHT, _TOP = 152, 138, 66
_GAP = (_WIDTH - 40 - 5 * _BOX_WIDTH) / 4


@dataclass(frozen=True, slots=True)
class Stage:
    """One box: a title, the lines below it, and the command on the arrow that leads to it."""

    title: str
    lines: tuple[str, ...]
    command: str = ""


STAGES = (
    Stage(
        "Fitted model",
        (
            "scikit-learn, XGBoost,",
            "LightGBM, CatBoost,",
            "PyTorch, Keras, ONNX,",
            "a Python class",
        ),
    ),
    Stage(
        "Bundle",
        (
            "compiled programs",
            "original, no pickle",
            "signature, baseline",
            "parity, cost,",
            "calibration, card",
        ),
        "pack",
    ),
    Stage(
        "Gates",
        ("roc_auc >= 0.80", "latency_p99 <= 5 ms", "parity <= 1e-6", "not worse than", "champion"),
        "check",
    ),
    Stage(
        "Registry",
        ("versions, aliases,", "history", "SQLite and files, or", "PostgreSQL and S3"),
        "push",
    ),
    Stage(
        "Server",
        (
            "Open Inference",
            "Protocol, REST, gRPC;",
            "TF Serving, MLflow,",
            "SageMaker, Vertex AI,",
            "Azure ML",
        ),
        "serve",
    ),
)


def picture() -> str:
    """The whole file."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        'font-family="system-ui, sans-serif" aria-labelledby="title">',
        '<title id="title">From a fitted model to a served one: pack, check, push, serve</title>',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" rx="8" fill="#ffffff"/>',
    ]
    for place, stage in enumerate(STAGES):
        left = 20 + place * (_BOX_WIDTH + _GAP)
        parts += _box(left, stage)
        if stage.command:
            parts += _arrow(left - _GAP, left, stage.command)
    parts.append(
        _text(
            _WIDTH / 2,
            _HEIGHT - 16,
            "One Python package, one folder. No other service.",
            "#57606a",
            13,
        )
    )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _box(left: float, stage: Stage) -> list[str]:
    middle = left + _BOX_WIDTH / 2
    return [
        f'<rect x="{left:g}" y="{_TOP}" width="{_BOX_WIDTH}" height="{_BOX_HEIGHT}" rx="8" '
        'fill="#f6f8fa" stroke="#0b5cad" stroke-width="1.5"/>',
        _text(middle, _TOP + 24, stage.title, "#0b3d70", 15, weight=600),
        *[
            _text(middle, _TOP + 47 + 18 * number, line, "#24292f", 12)
            for number, line in enumerate(stage.lines)
        ],
    ]


def _arrow(start: float, end: float, command: str) -> list[str]:
    height = _TOP + _BOX_HEIGHT / 2
    tip = end - 3
    return [
        f'<path d="M{start + 3:g} {height:g} H{tip - 7:g}" stroke="#0b5cad" stroke-width="2"/>',
        f'<path d="M{tip:g} {height:g} l-9 -5 v10 z" fill="#0b5cad"/>',
        _text((start + end) / 2, _TOP - 16, f"bascule {command}", "#0b5cad", 13, mono=True),
        f'<path d="M{(start + end) / 2:g} {_TOP - 8} V{height - 8:g}" stroke="#b6c7d9" '
        'stroke-dasharray="2 3"/>',
    ]


def _text(
    x: float, y: float, words: str, colour: str, size: int, *, weight: int = 400, mono: bool = False
) -> str:
    font = ' font-family="ui-monospace, monospace"' if mono else ""
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="middle" font-size="{size}" '
        f'font-weight="{weight}" fill="{colour}"{font}>{escape(words)}</text>'
    )


if __name__ == "__main__":
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(picture())
    sys.stdout.write(f"wrote {PICTURE}\n")
