"""Makes up rows at which a compiled program may differ from the original, from model and rows.

Held-out rows lie where training rows lie, and say little of a value beside a threshold, of one that
is not rounded as the original rounds it, or of infinity. So some rows are altered here: to numbers
that are special in themselves, to neighbours of training rows, and to both sides of every jump that
the program's answers make. A jump is found by halving intervals until its ends are neighbours in
the column's type; so no knowledge of the model is needed, and a threshold is found behind any
preprocessing. The same rows come out every time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.flavors.probing import ordered, probe_rows, unordered
from bascule.bundle.parity import answers, sample
from bascule.bundle.tables import take
from bascule.core.errors import BasculeError
from bascule.core.fields import Columns, DType, Field
from bascule.core.programs import Program

_MOST_VALUES = 1 << 20
"""How many numbers all rows of a kind may hold: there are fewer rows of images."""
_MOST_ROWS = 512
_LEAST_ROWS = 8
_MOST_SLOTS = 32
_MOST_JUMPS = 6
_GRID = 33
_NEAR_ROWS = 32
_COMBINED_ROWS = 256
_SMOOTH = 2.0**-12
_MOST_QUESTIONS = 200

_SPECIAL = (0.0, -0.0, 5e-324, -1e-45, 1e-30, 2.0**24 + 1, 2.0**53 + 2)
_HUGE = (1e30, -1e30, 3.4028234663852886e38, 3.5e38, -1e39, 1e300, -1e300, math.inf, -math.inf)
_WHOLE = (0, 1, -1, 2**24 + 1, 2**31 - 1, 2**53 + 1, -(2**63), 2**63 - 1)


@dataclass(frozen=True, slots=True)
class Probes:
    """Made-up rows, and of which kind each of them is."""

    columns: Columns
    kinds: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.kinds)

    def counts(self) -> dict[str, int]:
        """How many rows there are of each kind."""
        return dict(sorted(Counter(self.kinds).items()))


@dataclass(frozen=True, slots=True)
class _Slot:
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
    slots = _slots(fields, rows)
    most = _most_rows(rows)
    special = {slot: _special(slot, rows, huge) for slot in slots}
    missing = probe_rows(tuple(fields), rows)
    parts = [
        ("missing or new", missing),
        ("near a row", _near(slots, sample(rows, min(most, _NEAR_ROWS)))),
        ("extreme", _one_changed(special, rows, most, random)),
        ("combined", _combined(special, rows, min(most, _COMBINED_ROWS), random)),
    ]
    return _joined(parts)


def beside_jumps(program: Program, fields: Sequence[Field], rows: Columns) -> Probes:
    """Rows on both sides of jumps in a program's answers, and a few neighbours of each.

    Args:
        program: It is asked some ten thousand times, in batches.
        fields: The inputs of the signature.
        rows: Real rows.
    """
    random = np.random.default_rng(0)
    slots = [slot for slot in _slots(fields, rows) if slot.field.dtype is not DType.BOOL]
    most = _most_rows(rows)
    slots = slots[: max(1, most // _GRID)]
    if not slots:
        return _joined([])
    base, low, high, own = _intervals(program, slots, rows, random)
    if not len(base):
        return _joined([])

    def asked(places: NDArray[np.int64]) -> NDArray[np.float64]:
        return _numbers(program, _altered(rows, slots, base, own, places))

    at_low, at_high = asked(low), asked(high)
    first = np.abs(at_high - at_low).max(axis=1)
    for _ in range(64):
        change = np.abs(at_high - at_low).max(axis=1)
        open_ = (change > first * _SMOOTH) & (change > 0)
        base, own, low, high, at_low, at_high, first = (
            each[open_] for each in (base, own, low, high, at_low, at_high, first)
        )
        middle = low // 2 + high // 2 + (low % 2 + high % 2) // 2  # their sum may be too large
        apart = middle > low
        if not apart.any():
            break
        found = asked(middle)
        left = np.abs(found - at_low).max(axis=1) >= np.abs(at_high - found).max(axis=1)
        for chosen, place, at in ((left & apart, high, at_high), (~left & apart, low, at_low)):
            place[chosen], at[chosen] = middle[chosen], found[chosen]
    made = [_altered(rows, slots, base, own, places) for places in _around(slots, own, low, high)]
    return _joined([("beside a jump", part) for part in made if len(base)])


def asked(original: Program, probes: Probes) -> tuple[Probes, Columns | None, int]:
    """The rows that the original answers, its answers, and how many it refuses.

    Rows are asked together. Where that is refused, each half is, so one row that is refused costs
    a few questions more, and no row is asked alone that need not be.
    """
    left = [np.arange(len(probes))]
    kept: list[tuple[NDArray[np.int64], Columns]] = []
    for _ in range(_MOST_QUESTIONS):
        if not left:
            break
        part = left.pop()
        if not len(part):
            continue
        try:
            kept.append((part, answers(original, take(probes.columns, part))))
        except BasculeError:
            if len(part) > 1:
                left += np.array_split(part, 2)[::-1]
    if not kept:
        return _joined([]), None, len(probes)
    order = np.concatenate([part for part, _ in kept])
    found = {name: np.concatenate([answer[name] for _, answer in kept]) for name in kept[0][1]}
    answered = Probes(take(probes.columns, order), tuple(probes.kinds[i] for i in order))
    return answered, found, len(probes) - len(order)


def _slots(fields: Sequence[Field], rows: Columns) -> list[_Slot]:
    """The numbers that a row has, or some of them, evenly spread."""
    found = [
        _Slot(field, place)
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


def _most_rows(rows: Columns) -> int:
    numbers = sum(math.prod(column.shape[1:]) for column in rows.values())
    return min(_MOST_ROWS, max(_LEAST_ROWS, _MOST_VALUES // max(1, numbers)))


def _special(slot: _Slot, rows: Columns, huge: bool) -> list[Any]:
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
    wanted += [*_HUGE, low, high] if huge else []
    with np.errstate(over="ignore"):
        made = np.array(wanted).astype(field.dtype.numpy)
    return [v for v in made if low <= v <= high]


def _near(slots: Sequence[_Slot], rows: Columns) -> Columns:
    """Some rows as they are, and moved by as little as can be, and by a little."""
    made = []
    for move in (_stay, _up, _down, _a_little):
        moved = {name: column.copy() for name, column in rows.items()}
        for field in {slot.field.name: slot.field for slot in slots}.values():
            if field.dtype.is_float:
                low, high = field.bounds or (-math.inf, math.inf)
                moved[field.name] = np.clip(move(moved[field.name]), low, high).astype(
                    field.dtype.numpy
                )
        made.append(moved)
    return {name: np.concatenate([part[name] for part in made]) for name in rows}


def _stay(values: NDArray[Any]) -> NDArray[Any]:
    return values


def _up(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.nextafter(values, values.dtype.type(np.inf)))


def _down(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.nextafter(values, values.dtype.type(-np.inf)))


def _a_little(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(values * values.dtype.type(1 + 2.0**-10))


def _one_changed(
    special: Mapping[_Slot, list[Any]], rows: Columns, most: int, random: np.random.Generator
) -> Columns:
    """Real rows with one number altered."""
    changes = [(slot, value) for slot, values in special.items() for value in values]
    if len(changes) > most:
        changes = [changes[i] for i in np.linspace(0, len(changes) - 1, most).astype(int)]
    made = take(rows, random.integers(0, _count(rows), len(changes)))
    for row, (slot, value) in enumerate(changes):
        slot.set(made, row, value)
    return made


def _combined(
    special: Mapping[_Slot, list[Any]], rows: Columns, count: int, random: np.random.Generator
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


def _intervals(
    program: Program, slots: Sequence[_Slot], rows: Columns, random: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Where the program's answers change most along each number of a row.

    Returns:
        For each interval the row that is altered, the ends as `ordered` has them, and the slot.
    """
    grids = [_grid(slot, rows) for slot in slots]
    sizes = [len(grid) for grid in grids]
    base = np.repeat(random.integers(0, _count(rows), len(slots)), sizes)
    own = np.repeat(np.arange(len(slots)), sizes)
    places = np.concatenate(grids)
    found = _numbers(program, _altered(rows, slots, base, own, places))
    change = np.abs(found[1:] - found[:-1]).max(axis=1, initial=0.0)
    change[own[1:] != own[:-1]] = 0
    best = [
        at[np.argsort(-change[at], kind="stable")][:_MOST_JUMPS]
        for at in (np.flatnonzero((own[:-1] == k) & (change > 0)) for k in range(len(slots)))
    ]
    at = np.concatenate(best).astype(np.int64)
    return base[at], places[at], places[at + 1], own[at]


def _grid(slot: _Slot, rows: Columns) -> NDArray[np.int64]:
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
    made = ordered(np.append(inner, np.clip(ends, low, high).astype(dtype)))
    return np.unique(made)


def _around(
    slots: Sequence[_Slot], own: NDArray[np.int64], low: NDArray[np.int64], high: NDArray[np.int64]
) -> list[NDArray[np.int64]]:
    """The ends of intervals and what is beside them, in the type of each column and as floats."""
    made = [np.tile(places, 1) for places in (low - 1, low, high, high + 1, low, low, low)]
    for k, slot in enumerate(slots):
        at, kind = np.flatnonzero(own == k), slot.field.dtype
        if kind is DType.FP64:
            as_float = unordered(low[at], kind.numpy).astype(np.float32)
            for place, side in ((4, -np.inf), (6, np.inf)):
                beside = np.nextafter(as_float, np.float32(side))
                made[place][at] = ordered(beside.astype(np.float64))
            made[5][at] = ordered(as_float.astype(np.float64))
        if slot.field.bounds is not None:
            least, most = (int(ordered(kind.numpy.type(end))) for end in slot.field.bounds)
            for places in made:
                places[at] = np.clip(places[at], least, most)
    return made


def _altered(
    rows: Columns,
    slots: Sequence[_Slot],
    base: NDArray[np.int64],
    own: NDArray[np.int64],
    places: NDArray[np.int64],
) -> Columns:
    """Real rows, each with one number altered to what `ordered` made the place of."""
    made = take(rows, base)
    for k, slot in enumerate(slots):
        at = np.flatnonzero(own == k)
        if len(at):
            slot.set(made, at, unordered(places[at], slot.field.dtype.numpy))
    return made


def _numbers(program: Program, rows: Columns) -> NDArray[np.float64]:
    """All numbers of a program's answers, shape (rows, n), but for labels."""
    found = [
        values.reshape(len(values), -1).astype(np.float64)
        for values in answers(program, rows).values()
        if values.dtype.kind == "f"
    ]
    if not found:
        return np.zeros((_count(rows), 1))
    return np.nan_to_num(np.concatenate(found, axis=1), posinf=1e300, neginf=-1e300)


def _joined(parts: Sequence[tuple[str, Columns]]) -> Probes:
    kinds = [kind for kind, columns in parts for _ in range(_count(columns))]
    columns = [columns for _, columns in parts if _count(columns)]
    if not columns:
        return Probes({}, ())
    names = columns[0]
    return Probes(
        {name: np.concatenate([part[name] for part in columns]) for name in names}, tuple(kinds)
    )


def _count(columns: Columns) -> int:
    return len(next(iter(columns.values()), ()))
