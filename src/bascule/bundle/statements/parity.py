"""Parity: the measured difference between a program and the original, on the same rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.tables import for_program, recombined, take
from bascule.core import Columns, Program

MAX_ROWS = 20_000
USUAL = 1e-5
"""The tolerance that models are packed with unless another is given."""
_CHUNK_ROWS = 4096
_INVARIANCE_ROWS = 1000
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


@dataclass(frozen=True, slots=True)
class Parity:
    """How far a program is from the original.

    Attributes:
        program: Which one was compared.
        precision: How it computes.
        rows: How many rows were compared, with the probes.
        probes: How many of them were made up.
        max_difference: The largest one. Of probabilities: absolute. Of a regressor's numbers:
            divided by the original's number, or by the median one where that is larger. Of
            other tensors: by the number, or by the root mean square of the tensor. Infinite where
            one of the two has no number.
        label_differences: Rows with another label.
        ties: Those of them where what decides the original's label is closer than the tolerance,
            so that any rounding decides; see `compare`. 0 where they are more than one row in a
            thousand, which rounding does not explain.
        tolerance: The largest difference allowed.
        passed: Whether it is within the tolerance, and no label differs but in ties.
        reason: One sentence.
        probed: How many rows of each kind were made up; see `statements.adversarial`.
    """

    program: str
    precision: str
    rows: int
    probes: int
    max_difference: float
    label_differences: int
    ties: int
    tolerance: float
    passed: bool
    reason: str
    probed: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__slots__}
        known = self.max_difference if math.isfinite(self.max_difference) else None
        return values | {"max_difference": known, "probed": dict(self.probed)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Parity:
        known = {"probed": {}, **value}
        if known["max_difference"] is None:
            known["max_difference"] = math.inf
        return cls(**{name: known[name] for name in cls.__slots__})


def compare(
    expected: Columns,
    found: Columns,
    *,
    tolerance: float,
    program: str,
    precision: str,
    probes: int,
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
    distance, labels, close = _differences(expected, found, tolerance, probes, decision)
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


def apart(expected: Columns, found: Columns, *, tolerance: float, probes: int) -> NDArray[np.bool_]:
    """The rows that are answered otherwise, ties included."""
    distance, labels, _ = _differences(expected, found, tolerance, probes, None)
    return np.asarray((distance > tolerance) | labels)


def are_equal(expected: Columns, found: Columns) -> bool:
    """Whether answers of two versions are the same but for what programs of one may differ by."""
    return (
        all(
            name in found
            and found[name].shape == values.shape
            and found[name].dtype == values.dtype
            for name, values in expected.items()
        )
        and not apart(expected, found, tolerance=USUAL, probes=0).any()
    )


def are_finite(answered: Columns) -> NDArray[np.bool_]:
    """The rows of which all numbers are finite."""
    finite = np.ones(len(next(iter(answered.values()))), bool)
    for values in answered.values():
        if values.dtype.kind == "f":
            finite &= np.isfinite(values).reshape(len(values), -1).all(axis=1)
    return finite


def _differences(
    expected: Columns,
    found: Columns,
    tolerance: float,
    probes: int,
    decision: Callable[[], NDArray[Any] | None] | None,
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """For each row the difference of its numbers, if a label differs, and if all such are ties."""
    labels = np.zeros(len(next(iter(expected.values()))), bool)
    distance, close = np.zeros(len(labels)), ~labels
    real = slice(max(0, len(labels) - probes) or None)
    for name, values in expected.items():
        if name.partition(".")[0] == "label" or values.dtype.kind not in "f":
            different = np.asarray(values != found[name], bool)
            differ = different.reshape(len(values), -1).any(axis=1)
            labels |= differ
            if differ.any():
                close &= ~differ | _close_calls(expected, name, tolerance, real, decision)
        else:
            is_share = name.partition(".")[0] == "probabilities"
            scale = 1.0 if is_share else _scale(values, values[real])
            distance = np.maximum(distance, _largest(values, found[name], scale))
    return distance, labels, close


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
    rows = _rows_to_recombine(columns)
    parts = [np.arange(count - probes), np.arange(count - probes, count)]
    some = [sample({"row": part}, min(rows, _ALONE_ROWS) // 2)["row"] for part in parts]
    few = np.concatenate(some)
    chosen = take(columns, few)
    alone = in_batches(program, for_program(chosen, program.inputs), 1)
    each = compared(take(expected, few), alone, probes=len(some[1]), decision=decision_of(chosen))
    if not each.passed:
        return _depends_on_batch(judged, each), False
    invariant = rows >= _FEWEST_ROWS
    for alone, together in _by_company(program, real):
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
    enough = _rows_to_recombine(columns) >= _FEWEST_ROWS
    return enough and next(_by_company(program, columns), None) is None


def _rows_to_recombine(columns: Columns) -> int:
    values_of_a_row = sum(math.prod(column.shape[1:]) for column in columns.values())
    return min(_INVARIANCE_ROWS, max(_LEAST_ROWS, _INVARIANCE_VALUES // max(1, values_of_a_row)))


def _by_company(program: Program, columns: Columns) -> Iterator[tuple[Columns, Columns]]:
    """Answers to rows one by one and in batches, of each size where their bits are not the same."""
    rows = _rows_to_recombine(columns)
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


def in_batches(program: Program, columns: Columns, size: int) -> Columns:
    """A program's outputs for columns in the dtypes that it reads, `size` rows at a time."""
    count = len(next(iter(columns.values())))
    pieces = [program.run(take(columns, slice(at, at + size))) for at in range(0, count, size)]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def exact(*, rows: int, tolerance: float) -> Parity:
    """The parity of a program that is its own original."""
    return Parity(
        program="onnx",
        precision="its own",
        rows=rows,
        probes=0,
        max_difference=0.0,
        label_differences=0,
        ties=0,
        tolerance=tolerance,
        passed=True,
        reason="the program is the original itself",
    )


def _scale(values: NDArray[Any], real: NDArray[Any]) -> NDArray[Any]:
    """The size of each number, or the median one of all real ones where that is larger.

    Of tensors the root mean square and not the median: half of what a network answers may be zeros.
    """
    finite = np.abs(real[np.isfinite(real)])
    middle = 1.0
    if len(finite) and values.ndim > 1:
        middle = math.sqrt(float(np.square(finite.astype(np.float64)).mean()))
    elif len(finite):
        middle = float(np.median(finite))
    return np.asarray(np.maximum(np.abs(values), max(middle, float(np.finfo(np.float64).tiny))))


def _largest(expected: NDArray[Any], found: NDArray[Any], scale: Any) -> NDArray[np.float64]:
    """The largest difference in each row."""
    same = (expected == found) | (np.isnan(expected) & np.isnan(found))
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(expected - found.astype(np.float64)) / scale
    difference = np.where(same, 0.0, np.where(np.isfinite(difference), difference, np.inf))
    return np.asarray(difference.reshape(len(expected), -1).max(axis=1, initial=0.0))


def _close_calls(
    expected: Columns,
    name: str,
    tolerance: float,
    real: slice,
    decision: Callable[[], NDArray[Any] | None] | None,
) -> NDArray[np.bool_]:
    """Where any rounding may change the label that is called so; see `compare`."""
    labels = expected[name]
    shares = expected.get(name.replace("label", "probabilities", 1))
    if shares is not None and (margins := _margins(labels, shares)) is not None:
        return np.asarray(margins <= 2 * tolerance)
    score = expected.get("score") if name == "label" else None
    if score is None and name == "label" and decision is not None:
        score = decision()
    if score is not None and (margins := _margins(labels, score)) is not None:
        return np.asarray(margins <= tolerance * _scale(np.zeros(1), score[real]))
    return np.zeros(len(labels), bool)


def _margins(labels: NDArray[Any], scores: NDArray[Any]) -> NDArray[np.float64] | None:
    """By how much each row's label won by the scores; None where those do not decide it.

    They do where the place of the first largest score, or the sign of the only one, tells the
    label in every row. A score of 0 may stand for either.

    Args:
        labels: Shape (rows,).
        scores: Shape (rows,) or (rows, classes).
    """
    if labels.ndim != 1 or scores.dtype.kind != "f" or scores.ndim > 2:
        return None
    if scores.ndim == 1:
        scores = scores[:, None]
    finite = np.isfinite(scores).all(axis=1)
    if scores.shape[1] == 1:
        margins, places = np.abs(scores[:, 0]), (scores[:, 0] > 0).astype(np.int64)
        is_decided = finite & (margins > 0)
    else:
        best = np.sort(scores, axis=1)
        margins, places, is_decided = best[:, -1] - best[:, -2], scores.argmax(axis=1), finite
    pairs = set(zip(places[is_decided].tolist(), labels[is_decided].tolist(), strict=True))
    if not len(pairs) == len({place for place, _ in pairs}) == len({label for _, label in pairs}):
        return None
    return np.where(finite, margins, np.inf)


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
