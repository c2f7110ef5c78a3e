"""What the code of a pipeline notes while it fits."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

_MAX_POINTS = 2_000
"""Of a curve that are kept; a longer one is thinned."""


@dataclass(slots=True)
class RunLog:
    """What the code of a pipeline notes while it fits, if it has a parameter `run`.

    Attributes:
        metrics: The latest value of each name.
        curves: Of each name, its (step, value) pairs.
        folder: Files that the code lays here are kept with the run.
        parameters: What MLflow has noted of the model; see `tracking`.
    """

    folder: Path
    parameters: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def log(self, name: str, value: float, step: float | None = None) -> None:
        """Note a figure; with further calls, a curve."""
        curve = self.curves.setdefault(name, [])
        curve.append((float(len(curve) if step is None else step), float(value)))
        self.metrics[name] = float(value)

    def thinned(self) -> dict[str, list[tuple[float, float]]]:
        """The curves, each of at most `_MAX_POINTS` points, with its last."""
        kept = {}
        for name, curve in self.curves.items():
            stride = -(-len(curve) // _MAX_POINTS)
            kept[name] = (
                curve[::stride]
                if len(curve) % stride == 1 % stride
                else [*curve[::stride], curve[-1]]
            )
        return kept
