"""Rows of the sweep's own choosing, made from real ones and from what the original answers.

Nothing here reads a model's parts or shares code with how `pack` finds its rows: an edge is found
by bisection between two rows that the original answers differently.

Rows are what a user holds: a NumPy array, a pandas or polars table, or a list of texts. A change
puts one value into one column of one row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

Answer = Callable[[Any], np.ndarray]
"""Asks the original: numbers of shape (rows, outputs); raises where it refuses."""
Change = tuple[int, int, Any]
"""Base row, column, value."""

HUGE = (1e9, -1e9, 3.5e38, -3.5e38, 1e300, -1e300, np.inf, -np.inf)
TINY = (0.0, -0.0, 5e-324, -5e-324, 1e-40, -1e-40, 1e-8)
INTEGERS = (0, -1, 2**31, -(2**31), 2**53 + 1, -(2**53) - 1, 2**63 - 1)
TEXTS = (
    "",
    " ",
    "never seen",
    "\U0001f600",
    "nan",
    "None",
    "\ufdd0missing",
    "a\x00b",
    "STRASSE \u00df",
)
_COLUMNS = 6
"""Of wide rows, so many columns are changed, evenly spread."""
_GRID = 16
_EDGES = 40


def count(rows: Any) -> int:
    return len(rows)


def take(rows: Any, places: Any) -> Any:
    """Some of the rows, in the same container."""
    if isinstance(rows, pd.DataFrame):
        return rows.iloc[places].reset_index(drop=True)
    if isinstance(rows, list):
        return [rows[place] for place in places]
    return rows[places]


def groups(
    real: Any, train: Any, answer: Answer, *, other_types: bool = True, seed: int = 0
) -> Iterator[tuple[str, Any]]:
    """Named groups of rows; those that a container cannot hold are left out.

    Args:
        real: Rows that neither the model nor `pack` has seen.
        train: Rows that the model was trained on.
        answer: Asks the original.
    """
    random = np.random.default_rng(seed)
    yield "fresh", real
    yield "trained", take(train, random.permutation(count(train))[:100])
    if isinstance(real, list):
        yield (
            "texts",
            [*TEXTS, *(text.upper() for text in real[:20]), *(t[::-1] for t in real[:20])],
        )
        return
    if isinstance(real, np.ndarray) and real.ndim != 2:
        yield "scaled", np.concatenate([real * 0, real[:20] * 100, -real[:20]])
        return
    yield "recombined", recombined(real, 200, random)
    if is_matrix(real) and other_types:
        yield from _of_other_types(real, random)
    spans = list(_spans(train))
    edges = list(_edges(real, spans, answer, random))
    if edges:
        yield "edges", changed(real, edges)
        if is_matrix(real) and real.dtype == np.float64:
            yield "edges as float32", changed(real, edges).astype(np.float32)
    yield from _odd(real, spans)


def is_matrix(rows: Any) -> bool:
    return isinstance(rows, np.ndarray)


def recombined(rows: Any, size: int, random: np.random.Generator) -> Any:
    """Rows whose every value is that of some real row."""
    if is_matrix(rows):
        picked = random.integers(0, len(rows), (size, rows.shape[1]))
        return np.take_along_axis(rows, picked, axis=0)
    picks = [random.integers(0, len(rows), size) for _ in rows.columns]
    columns = {
        name: rows[name].iloc[picked].reset_index(drop=True)
        for name, picked in zip(rows.columns, picks, strict=True)
    }
    return pd.DataFrame(columns)


def _of_other_types(real: np.ndarray, random: np.random.Generator) -> Iterator[tuple[str, Any]]:
    for dtype in (np.float32, np.float64, np.int64):
        if real.dtype != dtype:
            with np.errstate(all="ignore"):
                yield np.dtype(dtype).name, np.nan_to_num(real).astype(dtype)
    if real.dtype == np.int64:
        yield "halves", real + random.choice([-0.5, 1e-9, 0.5], real.shape)


def column(rows: Any, place: int) -> Any:
    return rows[:, place] if is_matrix(rows) else rows.iloc[:, place]


def _width(rows: Any) -> int:
    return int(rows.shape[1])


def _numeric(rows: Any, place: int) -> bool:
    dtype = column(rows, place).dtype
    return getattr(dtype, "kind", "O") in "iuf" and not hasattr(dtype, "categories")


def _spans(train: Any) -> Iterator[tuple[int, float, float]]:
    """The numeric columns that are looked at, and what they range over."""
    width = _width(train)
    chosen = np.unique(np.linspace(0, width - 1, min(width, _COLUMNS)).astype(int))
    for place in chosen.tolist():
        if _numeric(train, place):
            values = np.asarray(column(train, place), dtype=np.float64)
            if np.isfinite(values).any():
                yield place, float(np.nanmin(values)), float(np.nanmax(values))


def changed(rows: Any, changes: list[Change]) -> Any:
    """One row per change: a copy of its base row with the value in its column."""
    made = take(rows, [row for row, _, _ in changes])
    if is_matrix(made):
        kinds = {type(value) for _, _, value in changes}
        if made.dtype.kind in "iu" and kinds - {int}:
            made = made.astype(np.float64)
        with np.errstate(over="ignore"):
            for at, (_, place, value) in enumerate(changes):
                made[at, place] = value
        return made
    for place in sorted({place for _, place, _ in changes}):
        name = made.columns[place]
        values = made[name].astype(object)
        for at, (_, changing, value) in enumerate(changes):
            if changing == place:
                values.iat[at] = value
        made[name] = _as_before(values, rows[name].dtype)
    return made


def _as_before(values: pd.Series, dtype: Any) -> Any:
    if hasattr(dtype, "categories"):
        fresh = [v for v in pd.unique(values) if not pd.isna(v) and v not in dtype.categories]
        known = pd.CategoricalDtype([*dtype.categories, *fresh], dtype.ordered)
        return values.where(values.notna(), None).astype(known)
    for wanted in (dtype, np.float64):
        try:
            made = values.astype(wanted)
        except (TypeError, ValueError, OverflowError):
            continue
        if bool((made.isna() == values.isna()).all()):
            return made
    return values


def _edges(
    real: Any, spans: list[tuple[int, float, float]], answer: Answer, random: np.random.Generator
) -> Iterator[Change]:
    """Values on both sides of where the original's answer jumps, found by bisection.

    A grid is laid over each column's range, in several real rows; where the answers of two
    neighbours differ, the middle is asked until no number lies between.
    """
    bases = random.permutation(count(real))[:3].tolist()
    asked: list[Change] = []
    for place, low, high in spans:
        wide = (high - low) * 0.05 or 1.0
        grid = np.linspace(low - wide, high + wide, _GRID)
        for row in bases:
            asked += [(row, place, _native(real, place, value)) for value in grid]
    if not asked:
        return
    try:
        answers = answer(changed(real, asked))
    except Exception:  # the original has its own errors: there is nothing to find an edge of
        return
    jumps = []
    for at in range(len(asked) - 1):
        (row, place, low), (next_row, next_place, high) = asked[at], asked[at + 1]
        is_step = (row, place) == (next_row, next_place) and low < high
        if is_step and _distance(answers[at], answers[at + 1]):
            jumps.append(_Jump(row, place, low, high, answers[at], answers[at + 1]))
    random.shuffle(jumps)
    jumps = jumps[:_EDGES]
    for _ in range(64):
        open_ = [jump for jump in jumps if jump.low < jump.middle(real) < jump.high]
        if not open_:
            break
        middles = [jump.middle(real) for jump in open_]
        at_middles = [
            (jump.row, jump.place, _native(real, jump.place, middle))
            for jump, middle in zip(open_, middles, strict=True)
        ]
        for jump, middle, found in zip(
            open_, middles, answer(changed(real, at_middles)), strict=True
        ):
            jump.narrow(middle, found)
    for jump in jumps:
        for value in sorted(_beside(jump.low, jump.high, _kind(real, jump.place))):
            yield jump.row, jump.place, _native(real, jump.place, value)


@dataclass(slots=True)
class _Jump:
    """Two values of one column between which the original's answer changes."""

    row: int
    place: int
    low: float
    high: float
    at_low: np.ndarray
    at_high: np.ndarray

    def middle(self, rows: Any) -> float:
        return _middle(self.low, self.high, _kind(rows, self.place))

    def narrow(self, middle: float, found: np.ndarray) -> None:
        """Keep the half in which the answer changes more: a step outweighs a slope."""
        if _distance(self.at_low, found) > _distance(found, self.at_high):
            self.high, self.at_high = middle, found
        else:
            self.low, self.at_low = middle, found


def _kind(rows: Any, place: int) -> str:
    dtype = np.dtype(getattr(column(rows, place).dtype, "numpy_dtype", column(rows, place).dtype))
    return "int" if dtype.kind in "iu" else dtype.name


def _native(rows: Any, place: int, value: float) -> Any:
    return int(value) if _kind(rows, place) == "int" else float(value)


def _middle(low: float, high: float, kind: str) -> float:
    """The number in the middle of the order of the numbers of this kind."""
    if kind == "int":
        return float((int(low) + int(high)) // 2)
    bits, whole = (np.float32, np.int32) if kind == "float32" else (np.float64, np.int64)
    places = [_order(bits(value), whole) for value in (low, high)]
    middle = sum(places) // 2
    sign = np.iinfo(whole).min
    return float(np.array([middle if middle >= 0 else sign - middle], whole).view(bits)[0])


def _order(value: Any, whole: Any) -> int:
    place = int(np.array([value]).view(whole)[0])
    return place if place >= 0 else int(np.iinfo(whole).min) - place


def _beside(low: float, high: float, kind: str) -> set[float]:
    if kind == "int":
        return {low, high}
    made = {low, high}
    for value in (low, high):
        near = np.float32(value)
        steps = {
            near,
            np.nextafter(near, np.float32(np.inf)),
            np.nextafter(near, np.float32(-np.inf)),
        }
        made |= {float(step) for step in steps}
        if kind == "float64":
            made |= {float(np.nextafter(value, np.inf)), float(np.nextafter(value, -np.inf))}
    return made


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    apart = np.where(same, 0.0, np.abs(one - other))
    return float(np.where(np.isnan(apart), np.inf, apart).max(initial=0.0))


def moved(rows: Any, share: float, random: np.random.Generator) -> Any:
    """The rows with every double larger or smaller by a share of itself, each at random."""
    return _each_double(rows, lambda v: v * (1 + share * random.choice((-1.0, 1.0), v.shape)))


def beside(rows: Any, towards: float) -> Any:
    """The rows with every double replaced by the next one."""
    return _each_double(rows, lambda v: np.nextafter(v, towards))


def _each_double(rows: Any, change: Callable[[np.ndarray], np.ndarray]) -> Any:
    if is_matrix(rows):
        return change(rows) if rows.dtype == np.float64 else rows
    if isinstance(rows, list):
        return rows
    doubles = rows.select_dtypes("float64")
    return rows.assign(**{name: change(doubles[name].to_numpy()) for name in doubles.columns})


def _odd(real: Any, spans: list[tuple[int, float, float]]) -> Iterator[tuple[str, Any]]:
    last = count(real) - 1
    rows = (0, last // 2)
    ends: list[Change] = []
    huge: list[Change] = []
    tiny: list[Change] = []
    holes: list[Change] = []
    whole_holes: list[Change] = []
    for at, (place, low, high) in enumerate(spans):
        kind = _kind(real, place)
        row = rows[at % 2]
        if kind == "int":
            limits = np.iinfo(
                np.dtype(
                    getattr(column(real, place).dtype, "numpy_dtype", column(real, place).dtype)
                )
            )
            huge += [(row, place, v) for v in INTEGERS if limits.min <= v <= limits.max]
            ends += [
                (row, place, int(v))
                for v in (low - 1, low, high, high + 1)
                if limits.min <= v <= limits.max
            ]
            whole_holes.append((row, place, np.nan))
            continue
        beside = [np.nextafter(v, to) for v in (low, high) for to in (-np.inf, np.inf)]
        ends += [(row, place, float(v)) for v in (low, high, low - (high - low), high * 2, *beside)]
        huge += [(row, place, v) for v in HUGE[at % 2 :: 2]]
        tiny += [(row, place, v) for v in TINY[at % 2 :: 2]]
        holes.append((row, place, np.nan))
    yield from _each("ends", real, ends)
    yield from _each("huge", real, huge)
    yield from _each("tiny", real, tiny)
    yield from _each("missing", real, holes)
    yield from _each("missing integers", real, whole_holes)
    if is_matrix(real):
        return
    for kind, value in {"None": None, "NaN": np.nan, "NA": pd.NA}.items():
        yield from _each(f"missing {kind}", real, [(0, p, value) for p in _texts(real)])
    unseen: list[Change] = []
    for place in _texts(real):
        first = next(v for v in real.iloc[:, place] if not pd.isna(v))
        values = TEXTS if isinstance(first, str) else (*INTEGERS, int(first) + 1, int(first) - 1)
        if isinstance(first, str):
            values = (*values, first.upper(), first + " ", first[:-1])
        unseen += [(row, place, value) for row in rows for value in values]
    yield from _each("unseen", real, unseen)


def _texts(rows: Any) -> list[int]:
    return [place for place in range(_width(rows)) if not _numeric(rows, place)]


def _each(name: str, real: Any, changes: list[Change]) -> Iterator[tuple[str, Any]]:
    if changes:
        yield name, changed(real, changes)
