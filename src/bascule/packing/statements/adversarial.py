"""Makes up rows at which a compiled program may differ from the original, from model and rows.

Held-out rows lie where training rows lie, and say little of a value beside a threshold, of one that
is not rounded as the original rounds it, or of infinity. So some rows are altered here: to numbers
that are special in themselves and to neighbours of training rows; `jumps` has those beside
thresholds. The same rows come out every time.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import for_program, take
from bascule.bundle.statements import apart, in_batches
from bascule.core import BasculeError, Columns, DType, Field, Program
from bascule.packing.probing import probe_rows
from bascule.packing.statements.parity import answers, are_finite, sample

MISSING, NEAR, EXTREME, COMBINED = "missing or new", "near a row", "extreme", "combined"
_MOST_VALUES = 1 << 20
"""How many numbers all rows of a kind may hold: there are fewer rows of images."""
_MOST_ROWS = 512
_LEAST_ROWS = 8
_MOST_SLOTS = 32
_NEAR_ROWS = 32
_COMBINED_ROWS = 256
_MOST_QUESTIONS = 200
_COPIES = 6
_MOVED = 2.0**-36

_SPECIAL = (0.0, -0.0, 5e-324, -1e-45, 1e-30, 2.0**24 + 1, 2.0**53 + 2)
_HUGE = (1e30, -1e30, 3.4028234663852886e38, 3.5e38, -1e39, 1e300, -1e300, math.inf, -math.inf)
_LARGEST = 1e300
"""Beyond it sums overflow, in one order of the parts and not in another."""
_WHOLE = (0, 1, -1, 2**24 + 1, 2**31 - 1, 2**53 + 1, -(2**63), 2**63 - 1)


@dataclass(frozen=True, slots=True)
class Probes:
    """Made-up rows, and of which kind each of them is."""

    columns: Columns
    kinds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Slot:
    """One number of a row: a column, and the place inside it."""

    field: Field
    place: tuple[int, ...]

    def set(self, columns: Columns, row: Any, value: Any) -> None:
        columns[self.field.name][(row, *self.place)] = value

    def values(self, columns: Columns) -> NDArray[Any]:
        place: Any = (slice(None), *self.place)
        return np.asarray(columns[self.field.name][place])


def made_up(fields: Sequence[Field], rows: Columns, *, huge: bool) -> Probes:
    """Rows that no compiled program has to be asked to find.

    Args:
        fields: The inputs of the signature. No row holds what they exclude.
        rows: Real rows, training rows if there are any.
        huge: Whether numbers are made up that are much larger than the real ones.
    """
    random = np.random.default_rng(0)
    slots = slots_of(fields, rows)
    most = most_rows(rows)
    special = {slot: _special(slot, rows, huge) for slot in slots}
    parts = [
        (MISSING, probe_rows(tuple(fields), rows)),
        (NEAR, _near(fields, sample(rows, max(1, min(most // 5, _NEAR_ROWS))))),
        (EXTREME, _one_changed(special, rows, most, random)),
        (COMBINED, _combined(special, rows, min(most, _COMBINED_ROWS), random)),
    ]
    return joined(parts)


def asked(original: Program, columns: Columns) -> tuple[NDArray[np.int64], Columns]:
    """The places of the rows that the original answers, in order, and its answers to them.

    Rows are asked together. Where that is refused, each half is, so one row that is refused costs
    a few questions more, and no row is asked alone that need not be.
    """
    left = [np.arange(count(columns))]
    kept: list[tuple[NDArray[np.int64], Columns]] = []
    for _ in range(_MOST_QUESTIONS):
        if not left:
            break
        part = left.pop()
        try:
            if len(part):
                with (
                    warnings.catch_warnings(action="ignore"),
                    np.errstate(all="ignore"),
                ):  # of overflow, for example
                    kept.append((part, answers(original, take(columns, part))))
        except BasculeError:
            if len(part) > 1:
                left += np.array_split(part, 2)[::-1]
    if not kept:
        return np.zeros(0, np.int64), {}
    found = {name: np.concatenate([answer[name] for _, answer in kept]) for name in kept[0][1]}
    return np.concatenate([part for part, _ in kept]), found


def ties(
    original: Program,
    columns: Columns,
    expected: Columns,
    which: NDArray[np.bool_],
    tolerance: float,
) -> NDArray[np.bool_]:
    """Which of some rows the original answers otherwise when their doubles change by 2**-36.

    Where it does, rounding decides: a sum of many doubles is hardly more precise. Zeros, floats
    and texts do not change, so what is compared with one of those is no tie.

    Args:
        original: It is asked about six copies of each row.
        columns: All rows.
        expected: What it answers to them.
        which: The rows that are looked at.
        tolerance: What counts as another answer.
    """
    places = np.flatnonzero(which)
    random = np.random.default_rng(0)
    copied = np.repeat(places, _COPIES)
    made = take(columns, copied)
    for name, values in made.items():
        if values.dtype.kind == "f":
            with np.errstate(over="ignore", invalid="ignore"):
                sides = random.choice((-1.0, 1.0), values.shape)
                sides[1::2] = -sides[::2]  # of two opposite ways, one crosses a threshold
                moved = values * (1 + _MOVED * sides)
            made[name] = np.where(np.isfinite(moved), moved, values).astype(values.dtype)
    order, found = asked(original, made)
    tied = np.zeros(len(which), bool)
    if len(order):
        own = take(expected, copied[order])
        apart_ = apart(own, found, tolerance=tolerance, probes=0)
        tied[copied[order][apart_]] = True
    return tied


@dataclass(frozen=True, slots=True)
class ComparedRows:
    """The rows that programs are compared on, and what the original answers to them.

    Attributes:
        rows: Real ones, and behind them those that are made up.
        expected: The answers.
        kinds: Of what kind each made-up row is.
        left_out: How many more were made up, by why they are left out.
    """

    rows: Columns
    expected: Columns
    kinds: tuple[str, ...] = ()
    left_out: Mapping[str, int] = dataclasses.field(default_factory=Counter)

    @property
    def probed(self) -> dict[str, int]:
        """How many rows of each kind were made up, and how many are left out for each reason."""
        return dict(sorted((Counter(self.kinds) + Counter(self.left_out)).items()))

    def joined(self, original: Program, probes: Probes) -> ComparedRows:
        """And rows that are made up, but for those that the original refuses."""
        order, expected = asked(original, probes.columns)
        refused = len(probes.kinds) - len(order)
        left_out = Counter(self.left_out) + Counter({"refused": refused})
        if not expected:
            return replace(self, left_out=left_out)
        return ComparedRows(
            stacked(self.rows, take(probes.columns, order)),
            stacked(self.expected, expected),
            (*self.kinds, *(probes.kinds[place] for place in order)),
            left_out,
        )

    def without_ties(
        self, original: Program, program: Program, tolerance: float, *, looks_at_all: bool
    ) -> ComparedRows:
        """But for made-up rows where rounding decides; see `ties`.

        They are looked for among the rows that are answered otherwise, or among all: where
        rounding depends on the size of the batch, others come up every time.
        """
        probes, total = len(self.kinds), count(self.rows)
        differs = np.zeros(total, bool)
        made_up = for_program(take(self.rows, slice(total - probes, None)), program.inputs)
        for size in (1, probes):
            found = in_batches(program, made_up, size)
            whole = {
                name: np.concatenate([values[: total - probes], found[name]])
                for name, values in self.expected.items()
            }
            differs |= apart(self.expected, whole, tolerance=tolerance, probes=probes)
        far = np.isin(self.kinds, [EXTREME, COMBINED])
        overflows = differs & ~are_finite(self.expected)
        overflows[total - probes :] &= far
        if looks_at_all:
            differs[total - probes :] = True
        tied = ties(original, self.rows, self.expected, differs, tolerance)
        tied &= ~overflows
        out = tied | overflows
        kept = np.flatnonzero(~out)
        return ComparedRows(
            take(self.rows, kept),
            take(self.expected, kept),
            tuple(kind for kind, gone in zip(self.kinds, out[-probes:], strict=True) if not gone),
            Counter(self.left_out)
            + Counter({"tied by rounding": int(tied.sum()), "overflow": int(overflows.sum())}),
        )


def stacked(one: Columns, other: Columns) -> Columns:
    """The rows of both, one behind the other."""
    return {name: np.concatenate([one[name], other[name]]) for name in one}


def slots_of(fields: Sequence[Field], rows: Columns) -> list[Slot]:
    """The numbers that a row has, or some of them, evenly spread."""
    found = [
        Slot(field, place)
        for field in fields
        if field.dtype is not DType.BYTES and field.categories is None
        for place in _places(rows[field.name].shape[1:])
    ]
    if len(found) <= _MOST_SLOTS:
        return found
    return [found[i] for i in np.linspace(0, len(found) - 1, _MOST_SLOTS).astype(int)]


def _places(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    count = math.prod(shape)
    for flat in np.unique(np.linspace(0, max(0, count - 1), min(count, 4 * _MOST_SLOTS))):
        yield tuple(int(i) for i in np.unravel_index(int(flat), shape)) if shape else ()


def most_rows(rows: Columns) -> int:
    numbers = sum(math.prod(column.shape[1:]) for column in rows.values())
    return min(_MOST_ROWS, max(_LEAST_ROWS, _MOST_VALUES // max(1, numbers)))


def _special(slot: Slot, rows: Columns, huge: bool) -> list[Any]:
    """Numbers that a column may hold and that are special, in its type."""
    field, known = slot.field, slot.values(rows)
    if field.dtype is DType.BOOL:
        return [False, True]
    low, high = field.bounds or (-math.inf, math.inf)
    if field.dtype.is_integer:
        ends = np.iinfo(field.dtype.numpy)
        whole = [*_WHOLE, int(known.min()) - 1, int(known.max()) + 1]
        return [v for v in whole if max(low, ends.min) <= v <= min(high, ends.max)]
    finite = known[np.isfinite(known)].astype(np.float64)
    least, most = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    wanted = [*_SPECIAL[: None if huge else 5], 10 * least, 10 * most, least - 1, most + 1]
    if huge:
        # At the very ends, the next sum may overflow.
        wanted += [*_HUGE, *(end if abs(end) < 1e30 else end / 16 for end in (low, high))]
    with np.errstate(over="ignore"):
        made = np.array(wanted).astype(field.dtype.numpy)
    return [v for v in made if low <= float(v) <= high and not _LARGEST < abs(float(v)) < math.inf]


def _near(fields: Sequence[Field], rows: Columns) -> Columns:
    """Some rows as they are, moved by as little as can be, and by shares of what columns spread."""
    random = np.random.default_rng(0)
    share = 10.0 ** random.integers(-9, 1, count(rows))
    made = {name: np.concatenate([column] * 5) for name, column in rows.items()}
    for field in fields:
        if not field.dtype.is_float or field.categories is not None:
            continue
        values, kind = rows[field.name], field.dtype.numpy.type
        with (
            np.errstate(all="ignore"),
            warnings.catch_warnings(action="ignore"),
        ):  # of columns that are missing as a whole
            spread = np.nan_to_num(np.nanstd(values.astype(np.float64), axis=0))
            moved = (spread * random.normal(size=values.shape)).T * share
            parts = [values, values * kind(1 + 2.0**-10), values + moved.T]
            parts += [np.nextafter(values, kind(end)) for end in (np.inf, -np.inf)]
            low, high = field.bounds or (-math.inf, math.inf)
            made[field.name] = np.clip(np.concatenate(parts), low, high).astype(kind)
    return made


def _one_changed(
    special: Mapping[Slot, list[Any]], rows: Columns, most: int, random: np.random.Generator
) -> Columns:
    """Real rows with one number altered."""
    changes = [(slot, value) for slot, values in special.items() for value in values]
    if len(changes) > most:
        changes = [changes[i] for i in np.linspace(0, len(changes) - 1, most).astype(int)]
    made = take(rows, random.integers(0, count(rows), len(changes)))
    for row, (slot, value) in enumerate(changes):
        slot.set(made, row, value)
    return made


def _combined(
    special: Mapping[Slot, list[Any]], rows: Columns, count: int, random: np.random.Generator
) -> Columns:
    """Rows of which some numbers are special, and all others those of some real row."""
    made = {
        name: column[random.integers(0, len(column), count)].copy() for name, column in rows.items()
    }
    for slot, values in special.items():
        if not values:
            continue
        chosen = np.flatnonzero(random.random(count) < 0.3)
        for row, which in zip(chosen, random.integers(0, len(values), len(chosen)), strict=True):
            slot.set(made, int(row), values[which])
    return made


def joined(parts: Sequence[tuple[str, Columns]]) -> Probes:
    kinds = [kind for kind, columns in parts for _ in range(count(columns))]
    columns = [columns for _, columns in parts if count(columns)]
    if not columns:
        return Probes({}, ())
    names = columns[0]
    return Probes(
        {name: np.concatenate([part[name] for part in columns]) for name in names}, tuple(kinds)
    )


def count(columns: Columns) -> int:
    return len(next(iter(columns.values()), ()))
