"""Mergeable profiles of columns in constant memory, with the same bytes for the same rows.

A profile holds per column: counts, missing values, extremes and moments, a quantile sketch, an
estimate of the distinct values, and the frequent ones. Profiles of parts merge into one of the
whole, for any split into parts.

A baseline is part of a bundle, so its bytes must not depend on chance. The quantile sketches in
common use (KLL in Apache DataSketches, whose Python package takes no seed) keep the odd or the even
half of a full buffer by a coin. Here the halves alternate, as in Manku, Rajagopalan and Lindsay
1998, which costs nothing in practice and turns a probable bound into a certain one that the sketch
carries with it. Distinct values are counted by HyperLogLog (Flajolet et al. 2007) with the
estimator of Ertl 2017, frequent ones by the mergeable form of Misra and Gries 1982 (Agarwal et al.
2012), moments by the pairwise formula of Chan, Golub and LeVeque 1983. All of it is numpy, so that
a serving worker can profile what it answers and be compared with the baseline.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import Invalid, Untrusted

Floats = NDArray[np.float64]
Value = float | str

CHUNK_ROWS = 65_536
"""Rows that are looked at together. Part of the format: other chunks give other bytes."""

LEVEL_VALUES = 512
"""Values that a quantile sketch keeps of one weight."""

REGISTERS_LOG2 = 11
"""Of 2,048 registers: the distinct values are estimated with a standard error of 2.3 %."""

MAX_FREQUENT = 64
"""Values whose counts are kept."""

_FORMAT = 1
_REGISTERS = 1 << REGISTERS_LOG2


class Quantiles:
    """A deterministic mergeable quantile sketch.

    Level h holds sorted values that stand for 2^h rows each. A level with more than
    `LEVEL_VALUES` values is halved into the next: of every two neighbours one is kept, the lower
    and the upper in turn from one time to the next.

    Attributes:
        rows: How many values it has seen.
        error: No rank that it tells is further than this many rows from the truth.
    """

    __slots__ = ("_levels", "_uppers", "error", "rows")

    def __init__(self) -> None:
        self.rows = 0
        self.error = 0
        self._levels: dict[int, Floats] = {}
        self._uppers: set[int] = set()

    def add(self, ordered: Floats) -> None:
        """Take in sorted finite values, as many as there are."""
        count = len(ordered)
        self.rows += count
        level = max(0, math.ceil(math.log2(count / LEVEL_VALUES))) if count else 0
        group = 1 << level
        whole = count - count % group
        if level:
            # The middle of a group is at most half of it away from any rank inside.
            self._join(level, ordered[group // 2 : whole : group])
            self.error += group // 2
        self._join(0, ordered[whole if level else 0 :])
        self._shrink()

    def merge(self, other: Quantiles) -> None:
        """Take in what another one has seen."""
        self.rows += other.rows
        self.error += other.error
        for level, values in other._levels.items():
            self._join(level, values)
        self._uppers ^= other._uppers
        self._shrink()

    def rank(self, value: float) -> int:
        """About how many values were not over this one."""
        return sum(
            int(np.searchsorted(values, value, side="right")) << level
            for level, values in self._levels.items()
        )

    def quantile(self, share: float) -> float:
        """The smallest kept value with at least this share of the rows not over it.

        Raises:
            Invalid: It has seen nothing, or the share is not from 0 to 1.
        """
        return float(self.quantiles([share])[0])

    def quantiles(self, shares: Sequence[float]) -> Floats:
        """The same for several shares."""
        if not self.rows:
            raise Invalid("there are no values to take a quantile of")
        if not all(0 <= share <= 1 for share in shares):
            raise Invalid(f"shares {list(shares)} are not all from 0 to 1")
        values, weights = self.weighted()
        reached = np.cumsum(weights)
        wanted = np.maximum(1, np.ceil(np.asarray(shares) * self.rows))
        found: Floats = values[np.searchsorted(reached, wanted)]
        return found

    def weighted(self) -> tuple[Floats, NDArray[np.int64]]:
        """The kept values in order, and how many rows each stands for."""
        levels = sorted(self._levels)
        values = np.concatenate([np.empty(0), *(self._levels[level] for level in levels)])
        weights = np.concatenate(
            [
                np.empty(0, np.int64),
                *(np.full(len(self._levels[level]), 1 << level, np.int64) for level in levels),
            ]
        )
        order = np.argsort(values, kind="stable")
        return values[order], weights[order]

    def mapped(self, change: Callable[[Floats], Floats]) -> Quantiles:
        """The same sketch of values that a function which keeps their order has changed."""
        made = copy(self)
        made._levels = {level: change(values) for level, values in self._levels.items()}
        return made

    def _join(self, level: int, values: Floats) -> None:
        if len(values):
            both = np.concatenate([self._levels.get(level, np.empty(0)), values])
            both.sort()
            self._levels[level] = both

    def _shrink(self) -> None:
        level = 0
        while level <= max(self._levels, default=-1):
            values = self._levels.get(level)
            if values is not None and len(values) > LEVEL_VALUES:
                even = len(values) - len(values) % 2
                self._join(level + 1, values[level in self._uppers : even : 2])
                self._uppers ^= {level}
                self.error += 1 << level
                if even < len(values):
                    self._levels[level] = values[even:]
                else:
                    del self._levels[level]
            level += 1

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "error": self.error,
            "uppers": sorted(self._uppers),
            "levels": [
                {"level": level, "values": _packed(self._levels[level], "<f8")}
                for level in sorted(self._levels)
            ],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Quantiles:
        """Raises ValueError where it is not what `to_json` writes."""
        made = cls()
        made.rows, made.error = int(value["rows"]), int(value["error"])
        made._uppers = {int(level) for level in value["uppers"]}
        for one in value["levels"]:
            level, values = int(one["level"]), _unpacked(one["values"], "<f8")
            if not 0 <= level < 63 or not np.isfinite(values).all() or (np.diff(values) < 0).any():
                raise ValueError("a level of quantiles is not in order")
            made._levels[level] = values
        if sum(len(values) << level for level, values in made._levels.items()) != made.rows:
            raise ValueError("the quantiles do not stand for all rows")
        return made


class Distinct:
    """How many different values there were: HyperLogLog with 64-bit hashes."""

    __slots__ = ("_registers",)

    def __init__(self) -> None:
        self._registers = np.zeros(_REGISTERS, np.uint8)

    def add(self, hashes: NDArray[np.uint64]) -> None:
        """Take in the hashes of some values; one twice counts once."""
        place = (hashes >> np.uint64(64 - REGISTERS_LOG2)).astype(np.int64)
        rest = hashes & np.uint64((1 << (64 - REGISTERS_LOG2)) - 1)
        # 53 bits are what a double holds exactly, and frexp tells the place of the leading one.
        leading = np.frexp(rest.astype(np.float64))[1]
        np.maximum.at(self._registers, place, (54 - leading).astype(np.uint8))

    def merge(self, other: Distinct) -> None:
        np.maximum(self._registers, other._registers, out=self._registers)

    def estimate(self) -> float:
        """The estimator of Ertl 2017, algorithm 6: unbiased from nothing to 2^60."""
        widest = 64 - REGISTERS_LOG2
        counts = np.bincount(self._registers, minlength=widest + 2).astype(float)
        total = _REGISTERS * _tau(1 - counts[widest + 1] / _REGISTERS)
        for width in range(widest, 0, -1):
            total = (total + counts[width]) / 2
        total += _REGISTERS * _sigma(counts[0] / _REGISTERS)
        return _REGISTERS**2 / (2 * math.log(2) * total) if math.isfinite(total) else 0.0

    def to_json(self) -> dict[str, Any]:
        used = np.flatnonzero(self._registers)
        if len(used) < _REGISTERS // 4:
            return {"places": _packed(used, "<u2"), "values": _packed(self._registers[used], "u1")}
        return {"places": None, "values": _packed(self._registers, "u1")}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Distinct:
        """Raises ValueError where it is not what `to_json` writes."""
        made = cls()
        values = _unpacked(value["values"], "u1")
        places = np.arange(_REGISTERS)
        if value["places"] is not None:
            places = _unpacked(value["places"], "<u2")
        if len(places) != len(values) or (places >= _REGISTERS).any() or (values > 54).any():
            raise ValueError("the registers of the distinct values are not registers")
        made._registers[places] = values
        return made


def _sigma(x: float) -> float:
    if x == 1:
        return math.inf
    y, z, before = 1.0, x, -1.0
    while z != before:
        x *= x
        before = z
        z += x * y
        y += y
    return z


def _tau(x: float) -> float:
    if x in (0, 1):
        return 0.0
    y, z, before = 1.0, 1 - x, -1.0
    while z != before:
        x = math.sqrt(x)
        before = z
        y /= 2
        z -= (1 - x) ** 2 * y
    return z / 3


class Frequent:
    """The values that came often: Misra and Gries, in the form that merges.

    Attributes:
        error: A true count is between the count that is kept and this much more; so is that of a
            value that is not kept, from 0. Never more than rows / (`MAX_FREQUENT` + 1).
    """

    __slots__ = ("counts", "error")

    def __init__(self) -> None:
        self.counts: dict[Value, int] = {}
        self.error = 0

    def add(self, values: Sequence[Value] | NDArray[Any], counts: NDArray[np.int64]) -> None:
        """Take in different values, and how often each came."""
        if len(counts) > MAX_FREQUENT:
            # What is taken from all of them at once may as well be taken before they join.
            least = int(np.partition(counts, -MAX_FREQUENT - 1)[-MAX_FREQUENT - 1])
            self.error += least
            kept = np.flatnonzero(counts > least)
            values = [values[place] for place in kept.tolist()]
            counts = counts[kept] - least
        plain = values.tolist() if isinstance(values, np.ndarray) else values
        self._join(zip(plain, counts.tolist(), strict=True))

    def merge(self, other: Frequent) -> None:
        self.error += other.error
        self._join(other.counts.items())

    def top(self) -> list[tuple[Value, int]]:
        """The most frequent first; of equal counts the smaller value."""
        return sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))

    def _join(self, items: Iterable[tuple[Value, int]]) -> None:
        for value, count in items:
            self.counts[value] = self.counts.get(value, 0) + count
        if len(self.counts) > MAX_FREQUENT:
            least = sorted(self.counts.values())[-MAX_FREQUENT - 1]
            self.error += least
            self.counts = {v: count - least for v, count in self.counts.items() if count > least}

    def to_json(self) -> dict[str, Any]:
        return {"error": self.error, "counts": [list(item) for item in self.top()]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], kind: type[Value]) -> Frequent:
        """Raises ValueError where it is not what `to_json` writes."""
        made = cls()
        made.error = int(value["error"])
        made.counts = {kind(one): int(count) for one, count in value["counts"]}
        if len(made.counts) > MAX_FREQUENT or any(count < 1 for count in made.counts.values()):
            raise ValueError("the frequent values are not counted")
        return made


@dataclass(slots=True)
class Moments:
    """Extremes, mean and variance of finite numbers; None before the first."""

    rows: int = 0
    least: float | None = None
    most: float | None = None
    mean: float | None = None
    squares: float | None = None

    def add(self, ordered: Floats) -> None:
        """Take in sorted values."""
        if len(ordered):
            with np.errstate(over="ignore", invalid="ignore"):
                mean = float(np.mean(ordered))
                squares = float(np.sum(np.square(ordered - mean)))
            self.merge(Moments(len(ordered), float(ordered[0]), float(ordered[-1]), mean, squares))

    def merge(self, other: Moments) -> None:
        """Chan, Golub and LeVeque 1983, formula 2.1."""
        if not other.rows:
            return
        rows = self.rows + other.rows
        if not self.rows:
            self.least, self.most = other.least, other.most
            self.mean, self.squares = other.mean, other.squares
        else:
            self.least = min(_known(self.least), _known(other.least))
            self.most = max(_known(self.most), _known(other.most))
            apart = _known(other.mean) - _known(self.mean)
            self.squares = (
                _known(self.squares)
                + _known(other.squares)
                + apart * apart * (self.rows * other.rows / rows)
            )
            self.mean = _known(self.mean) + apart * (other.rows / rows)
        self.rows = rows
        # Numbers of a size that leaves no room for their squares have no variance to speak of.
        self.mean = self.mean if math.isfinite(_known(self.mean)) else None
        self.squares = self.squares if math.isfinite(_known(self.squares)) else None

    def to_json(self) -> list[float | None]:
        return [self.least, self.most, self.mean, self.squares]

    @classmethod
    def from_json(cls, rows: int, value: Sequence[Any]) -> Moments:
        """Raises ValueError where it is not what `to_json` writes."""
        least, most, mean, squares = (None if one is None else float(one) for one in value)
        return cls(rows, least, most, mean, squares)


def _known(value: float | None) -> float:
    return math.nan if value is None else value


class ColumnProfile:
    """What is known of one column.

    Attributes:
        kind: `number` or `text`; a truth value is the number 0 or 1.
        rows: Of the column, with the missing ones.
        missing: Values that were not there.
        infinite: Numbers without end; nothing else counts them.
        moments: Of numbers.
        quantiles: Of numbers.
        frequent: Of both kinds.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.rows = 0
        self.missing = 0
        self.infinite = 0
        self.moments = Moments()
        self.quantiles = Quantiles()
        self.frequent = Frequent()
        self._distinct = Distinct()

    @property
    def distinct(self) -> int:
        """How many different values; see `is_distinct_exact`."""
        if not self.frequent.error:
            return len(self.frequent.counts)
        if self.is_distinct_exact:
            return len(np.unique(self.quantiles.weighted()[0]))
        return min(round(self._distinct.estimate()), self.rows - self.missing - self.infinite)

    @property
    def is_distinct_exact(self) -> bool:
        """Whether there were so few values that the count of the different ones is no estimate."""
        return not self.frequent.error or (self.kind == "number" and not self.quantiles.error)

    def add(self, values: NDArray[Any]) -> None:
        """Take in some rows: numbers with NaN, or texts with None, for what is missing.

        A row of several values, as of an image, counts as so many.
        """
        values = values.reshape(-1)
        self.rows += len(values)
        if self.kind == "text":
            self._add_texts(values)
        elif len(values) > CHUNK_ROWS:
            for start in range(0, len(values), CHUNK_ROWS):
                self._add_numbers(np.asarray(values[start : start + CHUNK_ROWS], np.float64))
        else:
            self._add_numbers(np.asarray(values, np.float64))

    def merge(self, other: ColumnProfile) -> None:
        """Take in the profile of other rows. Raises `Invalid` if it is of another kind."""
        if other.kind != self.kind:
            raise Invalid(f"a profile of {other.kind} does not merge into one of {self.kind}")
        self.rows += other.rows
        self.missing += other.missing
        self.infinite += other.infinite
        self.moments.merge(other.moments)
        self.quantiles.merge(other.quantiles)
        self.frequent.merge(other.frequent)
        self._distinct.merge(other._distinct)

    def _add_numbers(self, values: Floats) -> None:
        finite = np.isfinite(values)
        missing = int(np.isnan(values).sum())
        self.missing += missing
        self.infinite += len(values) - missing - int(finite.sum())
        ordered = np.sort(values[finite] + 0.0)  # minus nought is nought
        self.moments.add(ordered)
        self.quantiles.add(ordered)
        if len(ordered):
            starts = np.append(0, np.flatnonzero(ordered[1:] != ordered[:-1]) + 1)
            different = ordered[starts]
            self.frequent.add(different, np.diff(starts, append=len(ordered)))
            self._distinct.add(mixed(different.view(np.uint64)))

    def _add_texts(self, values: NDArray[Any]) -> None:
        counted = Counter(values.tolist())
        self.missing += counted.pop(None, 0)
        if counted:
            texts = [str(text) for text in counted]
            self.frequent.add(texts, np.fromiter(counted.values(), np.int64, len(counted)))
            self._distinct.add(_text_hashes(texts))

    def to_json(self) -> dict[str, Any]:
        made = {
            "kind": self.kind,
            "rows": self.rows,
            "missing": self.missing,
            "frequent": self.frequent.to_json(),
            "distinct": self._distinct.to_json(),
        }
        if self.kind == "number":
            made["infinite"] = self.infinite
            made["moments"] = self.moments.to_json()
            made["quantiles"] = self.quantiles.to_json()
        return made

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ColumnProfile:
        """Raises ValueError where it is not what `to_json` writes."""
        made = cls(str(value["kind"]))
        if made.kind not in ("number", "text"):
            raise ValueError(f"a column of kind {made.kind!r} is not known")
        made.rows, made.missing = int(value["rows"]), int(value["missing"])
        made.frequent = Frequent.from_json(
            value["frequent"], float if made.kind == "number" else str
        )
        made._distinct = Distinct.from_json(value["distinct"])
        if made.kind == "number":
            made.infinite = int(value["infinite"])
            made.quantiles = Quantiles.from_json(value["quantiles"])
            made.moments = Moments.from_json(made.quantiles.rows, value["moments"])
        return made


class Alignment:
    """Takes numbers that are nearly a frequent value or an end of a profile for that very number.

    Two programs of one model differ in the last digits. Where answers are few, every row of one
    then lies beside the value that it has in the other, and no rank is the same. Both profiles have
    to be aligned to be compared.

    Args:
        column: The profile whose values count.
        tolerance: A difference, by the number, or by the median one where that is larger; in a
            column from 0 to 1, by 1. As parity is claimed.
    """

    def __init__(self, column: ColumnProfile, tolerance: float) -> None:
        ends = [end for end in (column.moments.least, column.moments.most) if end is not None]
        frequent = column.frequent.counts if column.kind == "number" else ()
        self._anchors = np.unique(np.array([*frequent, *ends], np.float64))
        if len(self._anchors):
            is_share = self._anchors[0] >= 0 and self._anchors[-1] <= 1
            least = 1.0 if is_share else float(np.median(np.abs(column.quantiles.weighted()[0])))
            self._widths = tolerance * np.maximum(np.abs(self._anchors), least)
            self._middles = (self._anchors[1:] + self._anchors[:-1]) / 2

    def of(self, column: ColumnProfile) -> ColumnProfile:
        """The profile with such numbers replaced; itself where there are none."""
        if not len(self._anchors) or column.kind != "number":
            return column
        made = copy(column)
        made.quantiles = column.quantiles.mapped(self._snapped)
        made.frequent = Frequent()
        made.frequent.error = column.frequent.error
        values = self._snapped(np.array([*column.frequent.counts], np.float64))
        for value, count in zip(values.tolist(), column.frequent.counts.values(), strict=True):
            made.frequent.counts[value] = made.frequent.counts.get(value, 0) + count
        made.moments = copy(column.moments)
        if column.moments.least is not None and column.moments.most is not None:
            ends = np.array([column.moments.least, column.moments.most])
            made.moments.least, made.moments.most = self._snapped(ends).tolist()
        return made

    def _snapped(self, values: Floats) -> Floats:
        nearest = np.searchsorted(self._middles, values)
        anchors = self._anchors[nearest]
        return np.where(np.abs(anchors - values) <= self._widths[nearest], anchors, values)


@dataclass(slots=True)
class Profile:
    """Profiles by the name of their column."""

    rows: int = 0
    columns: dict[str, ColumnProfile] = field(default_factory=dict)

    def add(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Take in rows; object arrays are texts. Memory does not grow with them.

        The same rows in the same order, from the first call on, give the same profile; rows that
        come in several calls give the same as all at once where each but the last call has a
        multiple of `CHUNK_ROWS`.
        """
        rows = len(next(iter(columns.values()), ()))
        self.rows += rows
        for name, values in columns.items():
            kind = "text" if values.dtype == object else "number"
            column = self.columns.setdefault(name, ColumnProfile(kind))
            for start in range(0, rows, CHUNK_ROWS):
                column.add(values[start : start + CHUNK_ROWS])

    def merge(self, other: Profile) -> None:
        """Take in the profile of other rows. Raises `Invalid` if the columns differ."""
        if self.columns and other.columns and self.columns.keys() != other.columns.keys():
            strange = sorted(self.columns.keys() ^ other.columns.keys())
            raise Invalid(f"the profiles differ in their columns: {', '.join(strange[:10])}")
        self.rows += other.rows
        for name, column in other.columns.items():
            self.columns.setdefault(name, ColumnProfile(column.kind)).merge(column)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "rows": self.rows,
            "columns": [
                {"name": name, **column.to_json()} for name, column in self.columns.items()
            ],
        }

    @classmethod
    def from_json(cls, value: Any) -> Profile:
        """Raises `Untrusted` where it is not what `to_json` writes, or of a newer format."""
        try:
            if value["format"] != _FORMAT:
                raise Untrusted(
                    f"the profile has format {value['format']!r}, and this bascule reads {_FORMAT}",
                    hint="update bascule",
                )
            columns = {str(one["name"]): ColumnProfile.from_json(one) for one in value["columns"]}
            return cls(int(value["rows"]), columns)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as problem:
            raise Untrusted(f"the profile cannot be read: {problem}") from None


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64 (Steele, Lea and Flood 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _text_hashes(texts: Sequence[str]) -> NDArray[np.uint64]:
    digests = b"".join(
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        for text in texts
    )
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def _packed(values: NDArray[Any], dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype).tobytes()).decode("ascii")


def _unpacked(text: Any, dtype: str) -> NDArray[Any]:
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("a list of numbers is not in base64") from None
    return np.frombuffer(data, dtype).copy()
