"""Finds where the answers of a program jump, and makes up rows on both sides of each place.

An interval between two values of a column is halved until its ends are neighbours in the column's
type, each time keeping the half with the larger change. So a threshold is found behind any
preprocessing, and nothing needs to be known of the model. Where the original has the same jump at
the same place, it answers the rows beside it as the program does.

Where a number is summed up before it is compared (votes, distances, projections), rounding decides
where the jump is, in the original too; `adversarial.ties` lets those rows go. But jumps along a
column that all are off by one number in one direction are none of rounding's making.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import take
from bascule.bundle.statements import Parity
from bascule.core import Columns, DType, Field, Program
from bascule.packing.probing import ordered, unordered
from bascule.packing.statements.adversarial import Probes, Slot, asked, most_rows, slots_of
from bascule.packing.statements.parity import answers

_JUMPS_OF_A_SLOT = 6
_GRID = 33
_SMOOTH = 2.0**-12
_SIDES = 7
"""Rows of a jump: its low and high end, their neighbours, and the nearest floats, three."""
_LOW, _HIGH, _BELOW, _ABOVE = 0, 1, 2, 3
_TIMES = 3


@dataclass(frozen=True, slots=True)
class Jumps:
    """Jumps, one in each place of the arrays.

    Attributes:
        program: Whose they are.
        rows: Real rows.
        slots: The numbers of a row.
        base: Which row is altered.
        own: In which slot.
        low: The last number before the jump, as `ordered` has it.
        high: The first one after it.
    """

    program: Program
    rows: Columns
    slots: Sequence[Slot]
    base: NDArray[np.int64]
    own: NDArray[np.int64]
    low: NDArray[np.int64]
    high: NDArray[np.int64]

    def altered(self, places: NDArray[np.int64]) -> Columns:
        """The row of each jump with a number in its slot."""
        made = take(self.rows, self.base)
        for k, slot in enumerate(self.slots):
            at = np.flatnonzero(self.own == k)
            if len(at):
                slot.set(made, at, unordered(places[at], slot.field.dtype.numpy))
        return made

    def beside(self) -> Probes:
        """Some rows of each jump: all first ones, then all second ones and so on."""
        made = [self.altered(places) for places in self._sides()]
        columns = {name: np.concatenate([part[name] for part in made]) for name in made[0]}
        return Probes(columns, ("beside a jump",) * (len(made) * len(self.base)))

    def judged(self, original: Program, judged: Parity) -> Parity:
        """The verdict, given whether the original's jumps are one number beside these.

        Of one or two jumps that says nothing: it may be rounding.
        """
        columns = self.beside().columns
        order, expected = asked(original, columns)
        found = _numbers(answers(self.program, columns))
        found = found.reshape(_SIDES, len(self.base), -1)
        own = np.full_like(found, np.nan)
        if len(order):
            own.reshape(-1, found.shape[2])[order] = _numbers(expected)
        whole = ~np.isnan(own).any(axis=(0, 2))  # of the others the original refuses a side
        size = np.abs(found[_HIGH] - found[_LOW]).max(axis=1)

        def same(one: int, other: int) -> NDArray[np.bool_]:
            return np.asarray(np.abs(own[one] - found[other]).max(axis=1) < 0.25 * size)

        early = same(_BELOW, _LOW) & same(_LOW, _HIGH)
        late = same(_HIGH, _LOW) & same(_ABOVE, _HIGH)
        groups = [self.own == k for k in range(len(self.slots))]
        for at in (*groups, np.ones(len(self.own), bool)):
            at = at & whole
            if at.sum() >= _TIMES and (early[at].all() or late[at].all()):
                name = self.slots[self.own[at][0]].field.name
                return replace(
                    judged,
                    passed=False,
                    max_difference=max(judged.max_difference, float(size[at].max())),
                    reason=f"{judged.program} compares {name} otherwise than the original: at "
                    f"{at.sum()} thresholds it answers as the original does one number beside",
                )
        return judged

    def _sides(self) -> list[NDArray[np.int64]]:
        low, high = self.low, self.high
        made = [places.copy() for places in (low, high, low - 1, high + 1, low, low, low)]
        for k, slot in enumerate(self.slots):
            at, kind = np.flatnonzero(self.own == k), slot.field.dtype
            if kind is DType.FP64:
                with np.errstate(over="ignore"):
                    as_float = unordered(low[at], kind.numpy).astype(np.float32)
                for side, towards in ((4, -np.inf), (6, np.inf)):
                    beside = np.nextafter(as_float, np.float32(towards))
                    made[side][at] = ordered(beside.astype(np.float64))
                made[5][at] = ordered(as_float.astype(np.float64))
            if slot.field.bounds is not None:
                least, most = (int(ordered(kind.numpy.type(end))) for end in slot.field.bounds)
                for places in made:
                    places[at] = np.clip(places[at], least, most)
        return made


def find(program: Program, fields: Sequence[Field], rows: Columns) -> Jumps | None:
    """The jumps that a program's answers make along some numbers of some rows; None if none.

    They are not looked for where a row is as large as an image.

    Args:
        program: It is asked some ten thousand rows, in batches.
        fields: The inputs of the signature.
        rows: Real rows.
    """
    slots = [slot for slot in slots_of(fields, rows) if slot.field.dtype is not DType.BOOL]
    slots = slots[: most_rows(rows) // _GRID]
    grids = [_grid(slot, rows) for slot in slots]
    if not any(map(len, grids)):
        return None
    random = np.random.default_rng(0)
    sizes = [len(grid) for grid in grids]
    have = len(next(iter(rows.values())))
    base = np.repeat(random.integers(0, have, len(slots)), sizes)
    own = np.repeat(np.arange(len(slots)), sizes)
    places = np.concatenate(grids)
    found = _asked(Jumps(program, rows, slots, base, own, places, places), places)
    change = np.abs(found[1:] - found[:-1]).max(axis=1, initial=0.0)
    change[own[1:] != own[:-1]] = 0
    best = [
        at[np.argsort(-change[at], kind="stable")][:_JUMPS_OF_A_SLOT]
        for at in (np.flatnonzero((own[:-1] == k) & (change > 0)) for k in range(len(slots)))
    ]
    at = np.concatenate(best).astype(np.int64)
    jumps = Jumps(program, rows, slots, base[at], own[at], places[at], places[at + 1])
    return _narrowed(jumps, found[at], found[at + 1])


def _narrowed(
    jumps: Jumps, at_low: NDArray[np.float64], at_high: NDArray[np.float64]
) -> Jumps | None:
    """Intervals halved until they are jumps; those in which answers change smoothly are dropped."""
    first = np.abs(at_high - at_low).max(axis=1)
    while len(first):
        change = np.abs(at_high - at_low).max(axis=1)
        kept = (change > first * _SMOOTH) & (change > 0)
        jumps = replace(
            jumps,
            base=jumps.base[kept],
            own=jumps.own[kept],
            low=jumps.low[kept],
            high=jumps.high[kept],
        )
        at_low, at_high, first = at_low[kept], at_high[kept], first[kept]
        low, high = jumps.low.copy(), jumps.high.copy()
        middle = low // 2 + high // 2 + (low % 2 + high % 2) // 2  # their sum may be too large
        apart = middle > low
        if not apart.any():
            break
        found = _asked(jumps, middle)
        left = np.abs(found - at_low).max(axis=1) >= np.abs(at_high - found).max(axis=1)
        for chosen, place, at in ((left & apart, high, at_high), (~left & apart, low, at_low)):
            place[chosen], at[chosen] = middle[chosen], found[chosen]
        jumps = replace(jumps, low=low, high=high)
    return jumps if len(jumps.base) else None


def _grid(slot: Slot, rows: Columns) -> NDArray[np.int64]:
    """Numbers between the least and the largest real one, and a little beyond, ordered."""
    known = slot.values(rows)
    dtype = slot.field.dtype.numpy
    known = np.unique(known[np.isfinite(known)]).astype(dtype)
    if not len(known):
        return np.zeros(0, np.int64)
    inner = known[np.linspace(0, len(known) - 1, min(_GRID, len(known))).astype(int)]
    span = float(known[-1]) - float(known[0])
    ends = [float(known[0]) - span, float(known[-1]) + span]
    low, high = slot.field.bounds or (-math.inf, math.inf)
    if slot.field.dtype.is_integer:
        kind = np.iinfo(dtype)
        low, high = max(low, kind.min), min(high, kind.max)
    with np.errstate(invalid="ignore"):  # the largest whole number is rounded up as a double
        outer = np.clip(ends, low, high).astype(dtype)
    return np.unique(ordered(np.append(inner, outer)))


def _asked(jumps: Jumps, places: NDArray[np.int64]) -> NDArray[np.float64]:
    return _numbers(answers(jumps.program, jumps.altered(places)))


def _numbers(answered: Columns) -> NDArray[np.float64]:
    """All numbers that are answered, shape (rows, n); numbers for labels where there is no other.

    Beside other numbers, labels jump where two classes tie.
    """
    found = [values for values in answered.values() if values.dtype.kind == "f"]
    for values in () if found else answered.values():
        if values.dtype.kind == "O":
            values = np.array([crc32(str(one).encode()) for one in values.ravel()])
        found.append(values)
    flat = [values.reshape(len(values), -1).astype(np.float64) for values in found]
    return np.nan_to_num(np.concatenate(flat, axis=1), posinf=1e300, neginf=-1e300)
