"""How unlike the training rows a row is, and a conformal p-value of that.

Tables are scored by an isolation forest (Liu, Ting and Zhou 2008), texts, images and other arrays
by the distance to the nearest training rows in a few random projections. With scores of held-out
rows, p = (1 + how many of them are as large) / (rows + 1): for a row of the same law P(p <= t) <= t
at every t (Bates, Candes, Lei, Romano and Sesia 2023, section 2.1). Ties count against an outlier,
so p is conservative, and the same whenever the same row is asked. NumPy alone.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import Columns
from bascule.stats.projecting import projections

Floats = NDArray[np.float64]

_FORMAT = 1
_TREES, _TREE_ROWS, _DEPTH = 100, 128, 7
_MOST_COLUMNS, _TREES_TOGETHER = 64, 10
_NEIGHBOURS, _NEAR_ROWS = 5, 1_000
_MOST_FIT, _MOST_HELD_OUT, _MOST_LEVELS = 50_000, 5_000, 1_000
_MOST_UNITS = 1e6
_CHUNK_VALUES, _MOST_VALUES, _FEWEST_OF_WIDE = 1 << 21, 1 << 25, 1_000
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
        for level in range(_DEPTH):
            node = place + (2**level - 1)
            right = encoded[rows, feature[trees, node]] > threshold[trees, node]
            place = 2 * place + right
        return np.asarray(2.0 ** -(leaf[trees, place].mean(1) / _usual_depth(_TREE_ROWS)))

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
        return {"format": _FORMAT, "projected": list(self.projected), "levels": levels,
                "source": self.source, "arrays": packed}  # fmt: skip

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
        made = cls(tuple(value["projected"]), levels, arrays, str(value["source"]))
        width = len(arrays["middle"]) + int(arrays["missing"].sum()) + len(levels)
        trees = len(arrays["leaf"])
        has_trees = (
            arrays["leaf"].shape == (trees, 2**_DEPTH)
            and arrays["feature"].shape == arrays["threshold"].shape == (trees, 2**_DEPTH - 1)
            and (not trees or 0 <= arrays["feature"].min() <= arrays["feature"].max() < width)
        )
        near = arrays["near"]
        if not has_trees or not (trees or len(near)) or (len(near) and near.shape[1] != width):
            raise ValueError("its arrays do not go together")
        if not made.rows or np.isnan(arrays["held_out"]).any():
            raise ValueError("no rows calibrate it")
        return made


def split(columns: Columns, projected: Collection[str]) -> tuple[Floats, list[NDArray[Any]]]:
    """All numbers as one matrix, and the columns of texts; some fields as their projections."""
    numbers: list[NDArray[Any]] = [np.empty((len(next(iter(columns.values()))), 0))]
    texts: list[NDArray[Any]] = []
    for name, values in columns.items():
        if name in projected:
            numbers += [one[:, None] for one in projections(name, values).values()]
        elif values.dtype == object:
            texts += list(values.reshape(len(values), -1).T)
        else:
            numbers.append(values.reshape(len(values), -1).astype(np.float64))
    return np.concatenate(numbers, axis=1), texts


def fit_outliers(
    train: Columns, held_out: Columns, projected: Collection[str], source: str
) -> OutlierScorer:
    """A scorer of rows like `train`, calibrated on rows that are none of them.

    Args:
        train: By field; not empty. At most `_MOST_FIT` rows are read.
        held_out: The same fields; not empty. At most `_MOST_HELD_OUT`, drawn uniformly, calibrate.
        projected: The fields to read as projections: free texts, images, arrays of any length.
        source: See `OutlierScorer`.
    """
    random = np.random.default_rng(0)
    train, held_out = drawn(train, _MOST_FIT, random), drawn(held_out, _MOST_HELD_OUT, random)
    numbers, texts = split(train, projected)
    finite = np.where(np.isfinite(numbers), numbers, np.nan)
    finite[:, np.isnan(finite).all(0)] = 0.0
    with np.errstate(over="ignore"):
        middle, scale = np.nanmedian(finite, 0), np.nanstd(finite, 0)
    arrays: dict[str, NDArray[Any]] = {
        "middle": middle, "low": np.nanmin(finite, 0), "high": np.nanmax(finite, 0),
        "scale": np.where(np.isfinite(scale) & (scale > 0), scale, np.maximum(1, abs(middle))),
        "missing": np.asarray(np.isnan(numbers).any(axis=0), np.uint8),
        "feature": np.empty((0, 2**_DEPTH - 1), np.int32),
        "threshold": np.empty((0, 2**_DEPTH - 1), np.float32),
        "leaf": np.empty((0, 2**_DEPTH), np.float32), "near": np.empty((0, 0), np.float32),
        "held_out": np.empty(0),
    }  # fmt: skip
    levels = tuple(map(_rareness, texts))
    encoded, _ = OutlierScorer(tuple(projected), levels, arrays).encoded(numbers, texts)
    if set(train) <= set(projected):
        chosen = random.permutation(len(encoded))[:_NEAR_ROWS]
        arrays["near"] = encoded[chosen]
    else:
        arrays |= _forest(encoded, random)
    scorer = OutlierScorer(tuple(projected), levels, arrays, source)
    return OutlierScorer(
        scorer.projected, levels, arrays | {"held_out": np.sort(scorer.scores(held_out))}, source
    )


def drawn(columns: Columns, rows: int, random: np.random.Generator) -> Columns:
    """So many of the rows, drawn uniformly, or fewer of very wide ones; all if they are no more."""
    count = len(next(iter(columns.values())))
    width = sum(math.prod(values.shape[1:]) for values in columns.values())
    rows = min(rows, max(_FEWEST_OF_WIDE, _MOST_VALUES // width))
    if count <= rows:
        return columns
    chosen = np.sort(random.permutation(count)[:rows])
    return {name: values[chosen] for name, values in columns.items()}


def _rareness(values: NDArray[Any]) -> dict[str | None, float]:
    known: dict[str | None, int] = {}
    for value in values.tolist():
        known[value] = known.get(value, 0) + 1
    frequent = sorted(known.items(), key=lambda item: (-item[1], str(item[0])))[:_MOST_LEVELS]
    return {value: -math.log(count / len(values)) for value, count in frequent}


def _forest(encoded: Floats, random: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Trees of all columns, or of some that are drawn for every few trees."""
    width, parts = encoded.shape[1], []
    together = _TREES if width <= _MOST_COLUMNS else _TREES_TOGETHER
    for _ in range(0, _TREES, together):
        columns = random.permutation(width)[:_MOST_COLUMNS]
        feature, threshold, leaf = _trees(encoded[:, columns], together, random)
        parts.append((columns[feature].astype(np.int32), threshold, leaf))
    names = ("feature", "threshold", "leaf")
    return {name: np.concatenate([part[at] for part in parts]) for at, name in enumerate(names)}


def _trees(
    encoded: Floats, trees: int, random: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """All at once, level by level. A node that cannot be split sends its rows left."""
    rows = min(_TREE_ROWS, len(encoded))
    chosen = np.array([random.permutation(len(encoded))[:rows] for _ in range(trees)])
    sample = encoded[chosen].reshape(trees * rows, -1)
    place = np.repeat(np.arange(trees), rows)
    depth = np.zeros(trees)
    features, thresholds = [], []
    for level in range(_DEPTH):
        nodes = trees << level
        low = np.full((nodes, sample.shape[1]), np.inf, np.float32)
        high = -low
        np.minimum.at(low, place, sample)
        np.maximum.at(high, place, sample)
        spread = high > low
        feature = (random.random(spread.shape) * spread).argmax(1)
        at, splits = np.arange(nodes), spread.any(1)
        share = random.random(nodes).astype(np.float32)
        first, width = low[at, feature], np.where(splits, high[at, feature] - low[at, feature], 0)
        cut = np.where(splits, first + share * width, np.inf).astype(np.float32)
        features.append(feature.reshape(trees, -1))
        thresholds.append(cut.reshape(trees, -1))
        right = sample[np.arange(len(sample)), feature[place]] > cut[place]
        place, depth = 2 * place + right, np.repeat(depth + splits, 2)
    left = np.bincount(place, minlength=trees << _DEPTH)
    leaf = depth + np.array([_usual_depth(count) for count in range(rows + 1)])[left]
    return (
        np.concatenate(features, axis=1),
        np.concatenate(thresholds, axis=1),
        leaf.reshape(trees, -1).astype(np.float32),
    )


def _usual_depth(rows: int) -> float:
    """Of an unsuccessful search in a binary tree: what splitting on would have added."""
    if rows <= 1:
        return 0.0
    return 2.0 * (math.log(rows - 1.0) + np.euler_gamma) - 2.0 * (rows - 1.0) / rows
