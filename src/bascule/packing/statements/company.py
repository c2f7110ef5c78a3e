"""Whether the answer to a row depends on its company: the rows beside it, their order and number.

A server runs the requests of several callers together, and a batch job cuts a table into chunks. So
a model that computes over all rows of a call (their mean, a softmax or ranks along them, a scale
for quantized numbers) answers one caller otherwise for what another one sends. A model that draws
numbers, counts its calls or reads the clock has no answer that could be compared.

A model is asked about the same rows together, together once more, in the reverse order, in batches
of several sizes, alone, among many others, beside rows that are altered to special numbers, and
together again at the end. What changes by the day, or for one row of a million, is not seen.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import for_program, is_missing, recombined, take
from bascule.bundle.statements import in_batches
from bascule.core import BasculeError, Columns, DType, Invalid, ModelFailed, Program, first_line
from bascule.packing.statements import parity
from bascule.packing.statements.adversarial import Probes, count, most_rows, stacked

_ROWS = 48
_ROWS_IN_SHORT = 16
_FEWEST = 8
"""With fewer real rows, altered copies of them are asked about as well."""
_ALONE = 16
_ALONE_IN_SHORT = 4
_SIZES = (2, 3, 7)
_BATCHED = 21
_MANY = (100, 500)
"""The most rows that a server puts together by default are 256."""
_OF_A_KIND = 16
_COLUMNS = 8
_TOLERANCE = 1e-5
"""Less is rounding: products of matrices depend on how many rows they have."""
_ROUNDING = {DType.FP32: 1e-3, DType.FP16: 2e-2}
"""The same of a network that answers in these: one that sums up 2,048 numbers has up to 1e-3."""
_MOST_TO_ACCEPT = 0.01
_REPEATED = 1e-6
"""Of the same call made twice: threads may add up in another order."""


@dataclass(frozen=True, slots=True)
class Dependence:
    """How answers to the same rows differed.

    Attributes:
        way: How the rows were asked when they were answered otherwise than together.
        is_repeated: Whether the two calls were the same, so that it is chance, state or time.
        by: How much the answers differed, in words.
        largest: The largest difference among real rows; infinite where a label differs.
    """

    way: str
    is_repeated: bool
    by: str
    largest: float

    @property
    def reason(self) -> str:
        """One sentence: what differed, and by how much."""
        if self.is_repeated:
            return (
                f"the model answers the same rows otherwise when it is asked {self.way}: {self.by}"
                "; it draws numbers, keeps state between calls or reads the clock"
            )
        return (
            f"the model answers a row otherwise when it is asked {self.way} than among others: "
            f"{self.by}; requests that share a batch would change each other's answers"
        )

    @property
    def hint(self) -> str:
        """What the author of the model can do."""
        if self.is_repeated:
            return (
                "take out dropout, sampling and counters, set the seed in each call, or make the "
                "noise or the time an input"
            )
        hint = "take out the step that computes over all rows at once, such as their mean"
        if self.largest <= _MOST_TO_ACCEPT:
            hint += f"; or accept the difference: tolerance={2 * self.largest:.1g}"
        return hint


def check(
    program: Program, columns: Columns, probes: Probes, *, tolerance: float, in_short: bool = False
) -> None:
    """Raise `Invalid` for a model whose answer to a row depends on its company; see `find`."""
    dependence = find(program, columns, probes, tolerance=tolerance, in_short=in_short)
    if dependence is not None:
        raise Invalid(dependence.reason, hint=dependence.hint)


def check_repeated(program: Program, rows: Columns) -> None:
    """Raise `Invalid` for a model that answers the same rows otherwise each time."""
    first, again = program.run(rows), program.run(rows)
    dependence = _compared(first, again, _REPEATED, "twice", is_repeated=True)
    if dependence is not None:
        raise Invalid(dependence.reason, hint=dependence.hint)


def find(
    program: Program, columns: Columns, probes: Probes, *, tolerance: float, in_short: bool = False
) -> Dependence | None:
    """How the answers of a program to a row depend on its company; None where they do not.

    Args:
        program: It is asked some 45 times.
        columns: Real rows, in the signature's dtypes.
        probes: Made-up rows. Kinds of them that the program refuses are left out; and all of them
            where the author accepted a difference by a tolerance, which is one of real rows.
        tolerance: The largest difference allowed, where it is more than rounding makes.
        in_short: Ask some 15 times: for an original that a program stands in for, which is
            compared with the original and asked at length itself.

    Raises:
        Invalid: The model answers the rows together, and fails for one of them alone, for example.
        ModelFailed: It fails for the rows together.
    """
    with (
        warnings.catch_warnings(action="ignore"),
        np.errstate(all="ignore"),
    ):  # of the numbers of made-up rows
        few = _telling(columns, min(_ROWS_IN_SHORT if in_short else _ROWS, most_rows(columns)))
        rows = _with_varied(program, for_program(take(columns, few), program.inputs))
        together = program.run(rows)
        dependence = _compared(together, program.run(rows), _REPEATED, "twice", is_repeated=True)
        beside = _special(program, rows, probes) if tolerance <= _TOLERANCE else ()
        tolerance = max(tolerance, *(_ROUNDING.get(f.dtype, _TOLERANCE) for f in program.outputs))
        for way, places, answered in () if dependence else _ways(program, rows, in_short):
            differs = _compared(take(together, places), answered, tolerance, way)
            if dependence is not None and differs is not None:
                dependence = replace(dependence, largest=max(dependence.largest, differs.largest))
            dependence = dependence or differs
        for way, answered in () if dependence else beside:
            differs = _compared(together, answered, tolerance, way)
            dependence = dependence or (differs and replace(differs, largest=math.inf))
        again = _compared(
            together, program.run(rows), _REPEATED, "again after other calls", is_repeated=True
        )
    # What has a state may have changed it between any two of the ways.
    is_by_chance = dependence is not None and dependence.is_repeated
    return dependence if again is None or is_by_chance else again


def _ways(
    program: Program, rows: Columns, in_short: bool
) -> Iterator[tuple[str, NDArray[np.int64], Columns]]:
    """The ways to ask: in words, the places of the rows that were asked, and their answers."""
    total = count(rows)
    every = np.arange(total)
    alone = np.unique(
        np.linspace(0, total - 1, _ALONE_IN_SHORT if in_short else _ALONE).astype(int)
    )
    yield "alone", alone, _in_batches(program, rows, alone, 1, "alone")
    way = "in another order"
    yield way, every[::-1], _in_batches(program, rows, every[::-1], total, way)
    batched = every[: _SIZES[1] ** 2 if in_short else _BATCHED]
    for size in _SIZES[1:2] if in_short else _SIZES:
        way = f"in batches of {size}"
        yield way, batched, _in_batches(program, rows, batched, size, way)
    for size in () if in_short else _MANY:
        more = min(size, most_rows(rows)) - total
        if more > 0:
            answered = _beside(program, rows, recombined(rows, more))
            if answered is not None:
                yield f"among {total + more} rows", every, answered


def _special(program: Program, rows: Columns, probes: Probes) -> Iterator[tuple[str, Columns]]:
    """In words beside which made-up rows the program was asked, and its answers to the others."""
    kinds = np.array(probes.kinds)
    for kind in dict.fromkeys(probes.kinds):
        places = np.flatnonzero(kinds == kind)
        spread = np.linspace(0, len(places) - 1, min(len(places), _OF_A_KIND)).astype(int)
        beside = for_program(take(probes.columns, places[spread]), program.inputs)
        answered = _beside(program, rows, beside)
        if answered is not None:
            yield f"beside rows that are {kind}", answered


def _beside(program: Program, rows: Columns, others: Columns) -> Columns | None:
    """The answers to some rows beside others; None where the program refuses the others."""
    try:
        answered = program.run(stacked(rows, others))
    except (BasculeError, ValueError):  # ValueError: rows of lengths that vary
        return None
    return take(answered, slice(count(rows)))


def _in_batches(
    program: Program, rows: Columns, places: NDArray[np.int64], size: int, way: str
) -> Columns:
    try:
        return in_batches(program, take(rows, places), size)
    except ModelFailed as problem:
        raise Invalid(
            f"the model answers {count(rows)} rows together, and fails when they are "
            f"asked {way}: {first_line(problem.message)}",
            hint="take out the step that computes over all rows at once, such as their deviation",
        ) from None


def _with_varied(program: Program, rows: Columns) -> Columns:
    """The rows; where there are few, also copies of them whose numbers differ by up to a half."""
    if count(rows) >= _FEWEST:
        return rows
    random = np.random.default_rng(0)
    more = take(rows, np.arange(_FEWEST) % count(rows))
    for name, values in more.items():
        if values.dtype.kind == "f":
            shares = random.uniform(0.5, 1.5, values.shape)
            more[name] = ((values + (values == 0)) * shares).astype(values.dtype)
    varied = stacked(rows, more)
    try:
        program.run(varied)
    except BasculeError:
        return rows
    return varied


def _compared(
    expected: Columns, answered: Columns, tolerance: float, way: str, *, is_repeated: bool = False
) -> Dependence | None:
    judged = parity.compare(expected, answered, tolerance=tolerance, program="original")
    rows = judged.rows
    labels, are_same = np.zeros(rows, bool), np.ones(rows, bool)
    for name, values in expected.items():
        same = np.asarray(values == answered[name], bool)
        if values.dtype.kind == "f":
            same |= np.isnan(values) & np.isnan(answered[name])
            are_same &= same.reshape(rows, -1).all(axis=1)
        else:
            labels |= ~same.reshape(rows, -1).all(axis=1)
    # Rounding decides a tie only where a number was rounded otherwise.
    differing = max(judged.label_differences - judged.ties, int((labels & are_same).sum()))
    worst = judged.max_difference
    if worst <= tolerance and not differing:
        return None
    by = [f"by up to {worst:.2g}"] if worst > 0 else []
    by += [f"with another label for {differing} of {rows} rows"] if differing else []
    return Dependence(way, is_repeated, ", and ".join(by), math.inf if differing else worst)


def _telling(columns: Columns, most: int) -> NDArray[np.int64]:
    """Some rows: evenly spread, and with the extremes and missing values of some columns."""
    total = count(columns)
    if total <= most:
        return np.arange(total)
    places = []
    for values in columns.values():
        missing = is_missing(values).reshape(total, -1)
        places += np.flatnonzero(missing.any(axis=1))[:2].tolist()
        if values.dtype.kind in "iuf":
            numbers = np.nan_to_num(values.reshape(total, -1).astype(np.float64))
            numbers = numbers[:, :: -(-numbers.shape[1] // _COLUMNS) or 1]
            places += [*numbers.argmin(axis=0).tolist(), *numbers.argmax(axis=0).tolist()]
    special = list(dict.fromkeys(places))[: most // 2]
    spread = np.linspace(0, total - 1, most - len(special)).astype(int)
    return np.unique([*special, *spread.tolist()])
