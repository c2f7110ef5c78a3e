"""Finds the first method that can explain a model, checks it on real rows, and times it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from bascule.bundle import for_program, take
from bascule.bundle.explaining import (
    EXPLAINERS,
    Arrays,
    Explainer,
    Explanation,
    Measured,
    differences,
    to_files,
)
from bascule.core import BasculeError, Columns, Field, Program, Unconvertible, load_named
from bascule.packing.imported import Compilation, ImportedModel
from bascule.packing.statements import parity

MAKERS: dict[str, str] = {
    "trees": "bascule.packing.explaining.trees:make",
    "linear": "bascule.packing.explaining.linear:make",
    "gradients": "bascule.packing.explaining.gradients:make",
    "sampling": "bascule.packing.explaining.sampling:make",
}
"""What packs each method of `EXPLAINERS`, tried in this order: `module:function`, a `Maker`."""


_TIMED_ROWS = 512
_REPEATS = 3


@dataclass(frozen=True, slots=True)
class Sources:
    """What a method is made from.

    Attributes:
        subject: The model as its flavor read it, with the training rows.
        compilations: Every way in which it is compiled, the best first. May raise `Unconvertible`.
        program: What is served.
        outputs: Of the program.
        background: How many training rows should stand for "not known"; 0 for the method's usual.
        tolerance: The parity that programs are held to.
        program_bytes: The size of its graph; 0 where it has none.
    """

    subject: ImportedModel
    compilations: Callable[[], Iterator[Compilation]]
    program: Program
    outputs: tuple[Field, ...]
    background: int
    tolerance: float
    program_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Made:
    """A method for one model.

    Attributes:
        explanation: Its tolerance and link are checked afterwards.
        arrays: Its numbers.
        attribution_error: See `Measured`.
        measured_rows: The most rows that the sums are compared on; fewer where a row is costly.
    """

    explanation: Explanation
    arrays: Arrays
    attribution_error: float | None = None
    measured_rows: int | None = None


Maker = Callable[[Sources], Made]
"""Raises `Unconvertible` where the method is none for the model."""


@dataclass(frozen=True, slots=True)
class Explained:
    """What became of it: a sentence, the files of the bundle and the body of the statement."""

    told: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    statement: Mapping[str, Any] = field(default_factory=dict)


def explain(sources: Sources) -> Explained:
    """The first method that can explain the model and agrees with its answers."""
    reasons = []
    rows = sources.subject.test or sources.subject.train
    if rows is None or not len(rows):
        return _none("there are no rows to compare with")
    columns = parity.sample(rows.columns)
    for name, place in MAKERS.items():
        maker: Maker = load_named(place)
        try:
            made = maker(sources)
            explainer: Explainer = load_named(EXPLAINERS[name])(
                made.explanation, made.arrays, lambda: sources.program
            )
            measured = _measured(explainer, made, sources, columns)
        except BasculeError as problem:
            reasons.append(f"{name}: {problem.message}")
            continue
        files = to_files(made.explanation, made.arrays)
        told = _told(made, measured)
        return Explained(told, files, {"told": told, **asdict(measured)})
    return _none("; ".join(reasons) or "no method is known")


def _none(reason: str) -> Explained:
    return Explained(f"no explanations: {reason}", statement={"told": f"none: {reason}"})


def _told(made: Made, measured: Measured) -> str:
    return (
        f"explanations by {made.explanation.method}: {made.explanation.about}; they add up to the "
        f"answers within {measured.error:.2g}, and a row takes {measured.one_row_s * 1e6:,.0f} us"
    )


def _measured(explainer: Explainer, made: Made, sources: Sources, columns: Columns) -> Measured:
    """How well the sums are the answers, and what it costs. Raises `Unconvertible`."""
    explanation = made.explanation
    compared = take(columns, slice(made.measured_rows))
    read = for_program(compared, sources.program.inputs)
    answers = sources.program.run(read)[explanation.answer]
    margins = explainer.base + explainer.attributions(read).sum(axis=1)
    error = float(np.max(differences(explanation.link, margins, answers)))
    if not error <= explanation.tolerance:
        raise Unconvertible(f"its sums differ from the answers by {error:.2g}")
    one, many = take(read, slice(1)), take(read, slice(_TIMED_ROWS))
    rows = len(next(iter(many.values())))
    return Measured(
        error=error,
        rows=len(margins),
        row_cost_s=_seconds(explainer, many) / rows,
        one_row_s=_seconds(explainer, one),
        attribution_error=made.attribution_error,
    )


def _seconds(explainer: Explainer, columns: Columns) -> float:
    def once() -> float:
        start = time.perf_counter()
        explainer.attributions(columns)
        return time.perf_counter() - start

    return statistics.median(once() for _ in range(_REPEATS))
