"""How unlike the training rows a row is, and a conformal p-value of that.

Tables are scored by an isolation forest (Liu, Ting and Zhou 2008), texts, images and other arrays
by the distance to the nearest training rows in a few random projections. With scores of held-out
rows, p = (1 + how many of them are as large) / (rows + 1): for a row of the same law P(p <= t) <= t
at every t (Bates, Candes, Lei, Romano and Sesia 2023, section 2.1). Ties count against an outlier,
so p is conservative, and the same whenever the same row is asked.
NumPy alone; `packing.statements` fits them.
"""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import Columns
from bascule.stats.projecting import projections

Floats = NDArray[np.float64]

_FORMAT = 1
TREE_ROWS, DEPTH = 128, 7
_NEIGHBOURS, _MOST_LEVELS = 5, 1_000
_MOST_UNITS = 1e6
_CHUNK_VALUES = 1 << 21
_DIGITS = 6
"""Of scores: a program may read floats where the calibration had doubles."""
_ARRAYS = {"middle": "<f8", "scale": "<f8", "low": "<f8", "high": "<f8", "missing": "<u1",
           "feature": "<i4", "threshold": "<f4", "leaf": "<f4", "near": "<f4",
           "held_out": "<f8"}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class OutlierScorer:
    """Scores rows, and gives their p-values.

    Attributes:
        projected: The fields that are read as projections.
        levels: Of each column of texts, by value, minus the logarithm of its share in training.
        arrays: By the names of `_ARRAYS`. Numbers have `middle`, `scale`, `low` and `high`, and
            whether training rows lacked them (`missing`). The trees have `feature` and `threshold`
            (trees, 2**7 - 1) by level, and `leaf`, or else there are training rows, `near`.
            `held_out` are scores of the rows that calibrate, rising.
        source: Which rows these are: `calibration`, `test`, or `train`, set aside.
    """

    projected: tuple[str, ...]
    levels: tuple[Mapping[str | None, float], ...]
    arrays: Mapping[str, NDArray[Any]] = field(repr=False)
    source: str = ""

    @property
    def rows(self) -> int:
        """How many rows calibrate."""
        return len(self.arrays["held_out"])

    @property
    def smallest_p(self) -> float:
        """No row has a smaller one."""
        return 1 / (self.rows + 1)

    def scores(self, columns: Columns) -> Floats:
        """How unlike the training rows each row is; larger is further. Shape (rows,)."""
        numbers, texts = split(columns, self.projected)
        encoded, beyond = self.encoded(numbers, texts)
        unlike = self._isolation if self.arrays["leaf"].size else self._distance
        width = self.arrays["leaf"].shape[0] or self.arrays["near"].size
        step = max(1, _CHUNK_VALUES // width)
        parts = [unlike(encoded[at : at + step]) for at in range(0, len(encoded), step)]
        return np.round(np.concatenate([*parts, np.empty(0)]) + beyond, _DIGITS)

    def p_values(self, scores: Floats) -> Floats:
        """Of scores; in (0, 1]."""
        held_out = self.arrays["held_out"]
        as_large = len(held_out) - np.searchsorted(held_out, scores, "left")
        return np.asarray((1 + as_large) / (len(held_out) + 1), np.float64)

    def encoded(self, numbers: Floats, texts: list[NDArray[Any]]) -> tuple[Floats, Floats]:
        """Features in units of their spread, and how far outside of training each row is.

        A tree cannot tell a value just beyond all training rows from one far beyond them.
        """
        arrays = self.arrays
        gone, far = np.isnan(numbers), np.isinf(numbers)
        filled = np.where(gone, arrays["middle"], numbers)
        with np.errstate(invalid="ignore", over="ignore"):
            excess = np.maximum(arrays["low"] - filled, filled - arrays["high"]) / arrays["scale"]
            units = (filled - arrays["middle"]) / arrays["scale"]
        excess = np.where(far, _MOST_UNITS, np.clip(excess - _MOST_UNITS**-1, 0, _MOST_UNITS))
        beyond = np.log1p(excess).sum(1) + (gone & (arrays["missing"] == 0)).sum(1)
        parts = [np.clip(units, -_MOST_UNITS, _MOST_UNITS), gone[:, arrays["missing"] == 1]]
        for known, values in zip(self.levels, texts, strict=True):
            rare = np.array([known.get(value, math.inf) for value in values.tolist()], float)
            rarest = max(known.values(), default=0.0)
            beyond = beyond + np.isinf(rare)
            parts.append(np.minimum(rare, rarest + 1)[:, None])
        return np.concatenate(parts, axis=1).astype(np.float32), beyond

    def _isolation(self, encoded: Floats) -> Floats:
        feature, threshold, leaf = (self.arrays[name] for name in ("feature", "threshold", "leaf"))
        trees, rows = np.arange(len(leaf))[None], np.arange(len(encoded))[:, None]
        place = np.zeros((len(encoded), len(leaf)), np.int64)
        for level in range(DEPTH):
            node = place + (2**level - 1)
            right = encoded[rows, feature[trees, node]] > threshold[trees, node]
            place = 2 * place + right
        return np.asarray(2.0 ** -(leaf[trees, place].mean(1) / usual_depth(TREE_ROWS)))

    def _distance(self, encoded: Floats) -> Floats:
        near = self.arrays["near"]
        squares = ((encoded[:, None] - near[None]) ** 2).sum(2)
        last = min(_NEIGHBOURS, len(near)) - 1
        return np.asarray(np.sqrt(np.partition(squares, last, axis=1)[:, last]))

    def to_json(self) -> dict[str, Any]:
        packed = {
            name: [
                list(values.shape),
                base64.b64encode(values.astype(_ARRAYS[name]).tobytes()).decode(),
            ]
            for name, values in self.arrays.items()
        }
        levels = [list(known.items()) for known in self.levels]
        return {
            "format": _FORMAT, "projected": list(self.projected), "levels": levels,
            "source": self.source, "arrays": packed,
        }  # fmt: skip

    @classmethod
    def from_json(cls, value: Any) -> OutlierScorer:
        """Raises ValueError, KeyError or TypeError where it is not what `to_json` writes."""
        if value["format"] != _FORMAT:
            raise ValueError("it is of another format: update bascule")
        arrays = {
            name: np.frombuffer(base64.b64decode(value["arrays"][name][1]), kind).reshape(
                value["arrays"][name][0]
            )
            for name, kind in _ARRAYS.items()
        }
        levels = tuple({text: float(rare) for text, rare in known} for known in value["levels"])
        width = len(arrays["middle"]) + int(arrays["missing"].sum()) + len(levels)
        trees = len(arrays["leaf"])
        has_trees = (
            arrays["leaf"].shape == (trees, 2**DEPTH)
            and arrays["feature"].shape == arrays["threshold"].shape == (trees, 2**DEPTH - 1)
            and (not trees or 0 <= arrays["feature"].min() <= arrays["feature"].max() < width)
        )
        near = arrays["near"]
        if not has_trees or not (trees or len(near)) or (len(near) and near.shape[1] != width):
            raise ValueError("its arrays do not go together")
        if not len(arrays["held_out"]) or np.isnan(arrays["held_out"]).any():
            raise ValueError("no rows calibrate it")
        return cls(tuple(value["projected"]), levels, arrays, str(value["source"]))


def split(columns: Columns, fields: Collection[str]) -> tuple[Floats, list[NDArray[Any]]]:
    """All numbers as one matrix, and the columns of texts; some fields as their projections."""
    numbers: list[NDArray[Any]] = [np.empty((len(next(iter(columns.values()))), 0))]
    texts: list[NDArray[Any]] = []
    for name, values in columns.items():
        if name in fields:
            numbers += [projected[:, None] for projected in projections(name, values).values()]
        elif values.dtype == object:
            texts += list(values.reshape(len(values), -1).T)
        else:
            numbers.append(values.reshape(len(values), -1).astype(np.float64))
    return np.concatenate(numbers, axis=1), texts


def scales_of(train: Columns, projected: Collection[str]) -> OutlierScorer:
    """A scorer that encodes rows in units of the spread of `train`, and cannot score any yet.

    Args:
        train: By field; not empty.
        projected: The fields to read as projections.
    """
    numbers, texts = split(train, projected)
    finite = np.where(np.isfinite(numbers), numbers, np.nan)
    finite[:, np.isnan(finite).all(0)] = 0.0
    with np.errstate(over="ignore"):
        middle, scale = np.nanmedian(finite, 0), np.nanstd(finite, 0)
    arrays: dict[str, NDArray[Any]] = {
        "middle": middle, "low": np.nanmin(finite, 0), "high": np.nanmax(finite, 0),
        "scale": np.where(np.isfinite(scale) & (scale > 0), scale, np.maximum(1, abs(middle))),
        "missing": np.asarray(np.isnan(numbers).any(axis=0), np.uint8),
        "feature": np.empty((0, 2**DEPTH - 1), np.int32),
        "threshold": np.empty((0, 2**DEPTH - 1), np.float32),
        "leaf": np.empty((0, 2**DEPTH), np.float32), "near": np.empty((0, 0), np.float32),
        "held_out": np.empty(0),
    }  # fmt: skip
    return OutlierScorer(tuple(projected), tuple(map(_rareness, texts)), arrays)


def _rareness(values: NDArray[Any]) -> dict[str | None, float]:
    """Minus the logarithm of the share of each value, of the most frequent ones."""
    frequent = sorted(Counter(values.tolist()).items(), key=lambda item: (-item[1], str(item[0])))
    return {value: -math.log(count / len(values)) for value, count in frequent[:_MOST_LEVELS]}


def usual_depth(rows: int) -> float:
    """Of an unsuccessful search in a binary tree, as scikit-learn counts it."""
    if rows <= 2:
        return float(rows == 2)
    return 2.0 * (math.log(rows - 1.0) + np.euler_gamma) - 2.0 * (rows - 1.0) / rows
