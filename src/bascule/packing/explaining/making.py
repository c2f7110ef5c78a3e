"""Finds the first method that can explain a model, checks it on real rows, and times it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

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


class NotExplained(Unconvertible):
    """Why a method is none for a model. Packing says it, and goes on."""


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


class Method(NamedTuple):
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


Maker = Callable[[Sources], Method]
"""`make` in the module here that is named as the method.

Raises `Unconvertible` where the method is none for the model.
"""


class Explained(NamedTuple):
    """What became of it: a sentence, the files of the bundle and the body of the statement."""

    told: str
    files: Mapping[str, bytes] = {}
    statement: Mapping[str, Any] = {}


def explain(sources: Sources) -> Explained:
    """The first method that can explain the model and agrees with its answers."""
    reasons = []
    rows = sources.subject.test or sources.subject.train
    columns = parity.sample(rows.columns) if rows else {}
    for name, place in EXPLAINERS.items() if columns else ():
        maker: Maker = load_named(f"bascule.packing.explaining.{name}:make")
        try:
            method = maker(sources)
            explainer: Explainer = load_named(place)(
                method.explanation, method.arrays, lambda: sources.program
            )
            measured = _measured(explainer, method, sources, columns)
        except BasculeError as problem:
            reasons.append(f"{name}: {problem.message}")
            continue
        told = (
            f"explanations by {name}: {method.explanation.about}; they add up to the answers "
            f"within {measured.error:.2g}, and a row takes {measured.one_row_s * 1e6:,.0f} us"
        )
        files = to_files(method.explanation, method.arrays)
        return Explained(told, files, {"told": told, **asdict(measured)})
    reason = "; ".join(reasons) or "there are no rows to compare with"
    return Explained(f"no explanations: {reason}", statement={"told": f"none: {reason}"})


def _measured(explainer: Explainer, method: Method, sources: Sources, columns: Columns) -> Measured:
    """How well the sums are the answers, and what it costs. Raises `Unconvertible`."""
    explanation = method.explanation
    read = for_program(take(columns, slice(method.measured_rows)), sources.program.inputs)
    answers = sources.program.run(read)[explanation.answer]
    margins = explainer.base + explainer.attributions(read).sum(axis=1)
    error = float(np.max(differences(explanation.link, margins, answers)))
    if not error <= explanation.tolerance:
        raise NotExplained(f"its sums differ from the answers by {error:.2g}")
    many, one = (_seconds(explainer, take(read, slice(rows))) for rows in (_TIMED_ROWS, 1))
    row_cost_s = many / min(_TIMED_ROWS, len(margins))
    return Measured(error, len(margins), row_cost_s, one, method.attribution_error)


def _seconds(explainer: Explainer, columns: Columns) -> float:
    def once() -> float:
        start = time.perf_counter()
        explainer.attributions(columns)
        return time.perf_counter() - start

    return statistics.median(once() for _ in range(_REPEATS))
