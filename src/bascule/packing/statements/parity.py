"""Measures parity: asks a program and the original about the same rows, and judges."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import for_program, recombined, take
from bascule.bundle.programs import TokenizedProgram
from bascule.bundle.statements import Parity, in_batches, row_differences
from bascule.core import Columns, Program

MAX_ROWS = 20_000
_CHUNK_ROWS = 4096
INVARIANCE_ROWS = 1000
_FEWEST_ROWS = 100
_ALONE_ROWS = 256
_LEAST_ROWS = 4
_INVARIANCE_VALUES = 1 << 18
"""A thousand rows of 262 numbers, or a hundred of 2,600: seconds for a network of that input."""
_MOST_TIED = 0.001
"""Of likely rows, one in ten thousand has two classes within the default tolerance. Where a label
differs in more, it is not rounding that decides."""

Decide = Callable[[Columns], NDArray[Any] | None]
"""Asks the original for its `decision_function` of rows, shape (rows,) or (rows, classes), of what
decides its labels; None where it has none."""


def compare(
    expected: Columns,
    found: Columns,
    *,
    tolerance: float,
    program: str,
    precision: str = "",
    probes: int = 0,
    decision: Callable[[], NDArray[Any] | None] | None = None,
) -> Parity:
    """Judge one program's answers by the original's. Pure but for `decision`.

    Another label is a tie where the numbers that decide the original's label are closer than the
    tolerance. Those are its score, its probabilities or its decision function: the first of them
    whose largest number, or sign, tells the label of every row. Probabilities often do not: they
    are clipped or saturated where the decision function is not, or cut at a threshold.

    Args:
        expected: The original's outputs.
        found: The program's, for the same rows.
        tolerance: The largest difference allowed.
        program: What it is called.
        precision: How it computes.
        probes: How many of the rows were made up: the last ones. The size of an output's numbers
            is that of the others.
        decision: Gives the original's decision function of the rows. Asked only where a label
            differs and the other numbers do not tell why.
    """
    distance, labels, close = row_differences(expected, found, tolerance, probes, decision)
    worst = float(distance.max(initial=0.0))
    differing = int(labels.sum())
    ties = int((labels & close).sum())
    if ties > max(1, _MOST_TIED * len(labels)):
        ties = 0
    passed = worst <= tolerance and differing == ties
    return Parity(
        program=program,
        precision=precision,
        rows=len(labels),
        probes=probes,
        max_difference=worst,
        label_differences=differing,
        ties=ties,
        tolerance=tolerance,
        passed=passed,
        reason=_reason(program, worst, differing, ties, len(labels), tolerance),
    )


def are_finite(answered: Columns) -> NDArray[np.bool_]:
    """The rows of which all numbers are finite."""
    finite = np.ones(len(next(iter(answered.values()))), bool)
    for values in answered.values():
        if values.dtype.kind == "f":
            finite &= np.isfinite(values).reshape(len(values), -1).all(axis=1)
    return finite


def sample(columns: Columns, limit: int = MAX_ROWS) -> Columns:
    """At most `limit` rows, evenly spread; the same ones every time."""
    count = len(next(iter(columns.values())))
    if count <= limit:
        return columns
    return take(columns, np.unique(np.linspace(0, count - 1, limit).astype(np.int64)))


def answers(program: Program, columns: Columns) -> Columns:
    """A program's outputs for any number of rows in the signature's dtypes, piece by piece."""
    return in_batches(program, for_program(columns, program.inputs), _CHUNK_ROWS)


def judge(
    program: Program,
    columns: Columns,
    expected: Columns,
    *,
    tolerance: float,
    precision: str,
    probes: int,
    decide: Decide | None = None,
    behind: tuple[Program, Columns] | None = None,
) -> tuple[Parity, bool]:
    """The parity of a program, and whether rows have the same bits alone and in any batch.

    The rows are asked in bulk, and some of them one by one, and compared with the original both
    ways. Then rows put together from the values of real ones are asked one by one and in batches
    of several sizes. A program whose answers change with the batch by more than the tolerance does
    not pass, even without a difference from the original on the compared rows.

    Args:
        program: What is compared.
        columns: The rows, in the signature's dtypes.
        expected: The original's answers to them.
        tolerance: The largest difference allowed.
        precision: How the program computes.
        probes: How many of the rows were made up: the last ones.
        decide: Asks the original for its decision function.
        behind: The part of the program that is to be asked in every company, and its rows: own
            code in front of it takes milliseconds a call, and thousands of calls are made.
    """
    compared = partial(compare, tolerance=tolerance, program=program.name, precision=precision)

    def decision_of(rows: Columns) -> Callable[[], NDArray[Any] | None] | None:
        return None if decide is None else partial(decide, rows)

    answered = answers(program, columns)
    judged = compared(expected, answered, probes=probes, decision=decision_of(columns))
    if not judged.passed:
        return judged, False
    count = len(next(iter(columns.values())))
    real = take(columns, slice(count - probes))
    rows = _rows_to_recombine(program, columns)
    parts = [np.arange(count - probes), np.arange(count - probes, count)]
    some = [sample({"row": part}, min(rows, _ALONE_ROWS) // 2)["row"] for part in parts]
    few = np.concatenate(some)
    chosen = take(columns, few)
    alone = in_batches(program, for_program(chosen, program.inputs), 1)
    each = compared(take(expected, few), alone, probes=len(some[1]), decision=decision_of(chosen))
    if not each.passed:
        return _depends_on_batch(judged, each), False
    invariant = rows >= _FEWEST_ROWS
    for alone, together in _by_company(*behind or (program, real)):
        each = compared(alone, together, probes=0)
        if not each.passed:
            return _depends_on_batch(judged, each), False
        invariant = False
    return judged, invariant


def is_batch_invariant(program: Program, columns: Columns) -> bool:
    """Whether rows have the same bits alone and in any batch.

    A thousand rows are asked one by one, and again in batches of several sizes. They are put
    together from the values of real rows, each column on its own, so that they are all different:
    a last bit may change in one row of a hundred. There are fewer where a row holds many numbers;
    where it is an image, so few could be asked that it is taken not to hold. (Bounded by numbers
    and not by time, for the verdict is part of what the bundle is.)
    """
    enough = _rows_to_recombine(program, columns) >= _FEWEST_ROWS
    return enough and next(_by_company(program, columns), None) is None


def _rows_to_recombine(program: Program, columns: Columns) -> int:
    if isinstance(program, TokenizedProgram):  # padding changes last bits, and a row takes long
        return _LEAST_ROWS
    values_of_a_row = sum(math.prod(column.shape[1:]) for column in columns.values())
    return min(INVARIANCE_ROWS, max(_LEAST_ROWS, _INVARIANCE_VALUES // max(1, values_of_a_row)))


def _by_company(program: Program, columns: Columns) -> Iterator[tuple[Columns, Columns]]:
    """Answers to rows one by one and in batches, of each size where their bits are not the same."""
    rows = _rows_to_recombine(program, columns)
    many = for_program(recombined(columns, rows), program.inputs)
    alone = in_batches(program, many, 1)
    for size in (2, 3, 7, 64, 100, rows):
        if size <= rows:
            together = in_batches(program, many, size)
            if not are_same_bits(alone, together):
                yield alone, together


def _depends_on_batch(judged: Parity, each: Parity) -> Parity:
    worst, labels = each.max_difference, each.label_differences - each.ties
    return replace(
        judged,
        max_difference=max(judged.max_difference, worst),
        passed=False,
        reason=f"{judged.program} answers a few rows otherwise than many: by up to {worst:.2g}, "
        f"and with another label for {labels} of {each.rows} rows",
    )


def exact(*, rows: int, tolerance: float) -> Parity:
    """The parity of a program that is its own original."""
    return Parity(
        program="onnx",
        precision="its own",
        rows=rows,
        tolerance=tolerance,
        passed=True,
        reason="the program is the original itself",
    )


def are_same_bits(expected: Columns, found: Columns) -> bool:
    """Whether two answers of the same outputs are the same to the last bit."""
    return all(
        bool((values == found[name]).all())
        if values.dtype.kind == "O"
        else values.tobytes() == found[name].tobytes()
        for name, values in expected.items()
    )


def _reason(
    program: str, worst: float, differing: int, ties: int, rows: int, tolerance: float
) -> str:
    if worst > tolerance:
        return (
            f"{program} differs from the original by up to {worst:.2g} on {rows} rows, more than "
            f"{tolerance:g}"
        )
    if differing > ties:
        return (
            f"{program} gives another label than the original for {differing - ties} of {rows} rows"
        )
    tied = f"; {ties} labels differ where two classes tie" if ties else ""
    return f"equal to the original within {worst:.2g} on {rows} rows{tied}"
