"""CatBoost's categories as columns of numbers: what its trees compare in place of texts.

CatBoost knows a category by a 32-bit hash of its text. A tree asks whether a column holds one
category, or compares a CTR: a number that a table holds for a category, or for a combination of
categories and of answers to other tests. The tables are keyed by hashes. The categories are those
of the training rows, so every key is known, and the graph looks numbers up by place. A category
that is not among them has no place in any table, and so no counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bascule.core import DType, Unconvertible
from bascule.packing.compilers.encoding import looked_up
from bascule.packing.compilers.graph import Graph, as_column
from bascule.packing.compilers.values import (
    NUMBER,
    Value,
    flags_to_numbers,
    matrix,
    numbers,
    select,
)

_MULTIPLIER = np.uint64(0x4906BA494954CB65)
_NO_KEY = 2**64 - 1
"""A free place of a hash table."""
_MOST_COMBINATIONS = 1 << 18
_STEP = "CatBoost"
_SERVE = "pass serve_original=True (--serve-original) to serve the original, slower"
_RATIOS = ("Counter", "FeatureFreq")
_MEANS = ("BinarizedTargetMeanValue", "FloatTargetMeanValue")

Prepare = Callable[[Graph, Value], Value]
"""From the columns of the model to those that the trees read."""


@dataclass(frozen=True, slots=True)
class Test:
    """One test of the trees: `column > border`, of the columns that `Prepare` makes."""

    column: int
    border: float


@dataclass(frozen=True, slots=True)
class _Listed:
    """The categories of one column, in order, and where it is.

    Attributes:
        place: Among the columns of the model.
        values: As the column holds them.
        hashes: CatBoost's hash of each, as it is mixed with others.
    """

    place: int
    values: NDArray[Any]
    hashes: NDArray[np.uint64]


def tests_of(features: Mapping[str, Any]) -> list[Test]:
    """All tests, by the number that the trees call them by: of numbers, of categories, of CTRs."""
    made, column = [], 0
    floats = features.get("float_features", ())
    for known in floats:
        made += [Test(column, border) for border in known["borders"] or ()]
        column += 1
    for known in features.get("categorical_features", ()):
        for _ in known.get("values", ()):
            made.append(Test(column, 0.5))
            column += 1
    for ctr in features.get("ctrs", ()):
        made += [Test(column, border) for border in ctr["borders"]]
        column += 1
    return made


def preparation(model: Mapping[str, Any], columns: Sequence[NDArray[Any]]) -> Prepare:
    """What makes the columns that the trees read: numbers, then flags of categories, then CTRs.

    Args:
        model: As CatBoost writes it as JSON, with the hashes of a pool of the categories.
        columns: The training rows, by column.

    Raises:
        Unconvertible: A category of the model is not in the training rows, or the categories have
            too many combinations.
    """
    features = model["features_info"]
    hashes = {str(one["value"]): int(one["hash"]) for one in features["cat_features_hash"]}
    listed = {
        int(known["feature_index"]): _listed(known, columns, hashes)
        for known in features["categorical_features"]
    }
    flags = [
        _Category(int(known["feature_index"]), int(value))
        for known in features["categorical_features"]
        for value in known.get("values", ())
    ]
    floats = [int(known["flat_feature_index"]) for known in features.get("float_features", ())]
    ctrs = features.get("ctrs", ())
    tables = [_ctr(ctr, model["ctr_data"], listed) for ctr in ctrs]

    def prepare(graph: Graph, value: Value) -> Value:
        made = _Columns(graph, value, listed, features.get("float_features", ()))
        parts = list(select(graph, value, floats)) if floats else []
        if flags:
            parts += flags_to_numbers(graph, made.flags(flags), len(flags))
        if ctrs:
            parts += numbers(made.ctrs(ctrs, tables), len(ctrs))
        return tuple(parts)

    return prepare


class _Category(NamedTuple):
    """Whether column `column` holds the category with this hash."""

    column: int
    hash: int


class _Number(NamedTuple):
    """Whether a number is above a border, among the columns of numbers."""

    column: int
    border: float


class _Columns:
    """Makes columns of flags and of CTRs: few nodes, for each column and row costs little beside.

    A place in a table is a sum of products, `(code0 * size1 + code1) * size2...`. So one product of
    matrices makes the places in all tables. They are whole numbers below 2**18: exact in floats.
    """

    def __init__(
        self,
        graph: Graph,
        value: Value,
        listed: Mapping[int, _Listed],
        floats: Sequence[Mapping[str, Any]],
    ) -> None:
        self._graph, self._value, self._listed, self._floats = graph, value, listed, floats
        self._indices = list(listed)
        codes = [_coded(graph, value[one.place], one) for one in listed.values()]
        joined = matrix(graph, tuple(part for code in codes for part in code), NUMBER, step=_STEP)
        self._codes = graph.cast(joined, DType.FP32)

    def flags(self, categories: Sequence[_Category]) -> str:
        """Whether each row has each category, shape (rows, categories)."""
        places = [_place_of(self._listed[one.column], one.hash) for one in categories]
        at = [self._indices.index(one.column) for one in categories]
        codes = self._graph.add("Gather", self._codes, self._graph.constant(at, "int64"), axis=1)
        return self._graph.add("Equal", codes, self._row(places))

    def ctrs(
        self,
        ctrs: Sequence[Mapping[str, Any]],
        tables: Sequence[tuple[Sequence[int], NDArray[np.float64]]],
    ) -> str:
        """What the table of each CTR holds for each row: doubles of shape (rows, CTRs)."""
        graph = self._graph
        elements = [[_element(one) for one in ctr["elements"]] for ctr in ctrs]
        every = dict.fromkeys(one for own in elements for one in own)
        categories = [one for one in every if isinstance(one, _Category)]
        borders = [one for one in every if isinstance(one, _Number)]
        parts = [self._codes]
        if categories:
            parts.append(graph.cast(self.flags(categories), DType.FP32))
        if borders:
            parts.append(graph.cast(self._above(borders), DType.FP32))
        row_of = {one: row for row, one in enumerate([*self._indices, *categories, *borders])}
        factors = np.zeros((len(row_of), len(ctrs)), np.float32)
        for column, (own, (sizes, _)) in enumerate(zip(elements, tables, strict=True)):
            for place, one in enumerate(own):
                factors[row_of[one], column] += math.prod(sizes[place + 1 :])
        digits = graph.add("Concat", *parts, axis=1) if len(parts) > 1 else self._codes
        places = graph.add("MatMul", digits, graph.constant(factors, np.float32))
        starts = np.cumsum([0, *(len(values) for _, values in tables)])[:-1]
        first = graph.constant(as_column(starts), np.int64)
        at = graph.add("Add", graph.cast(places, DType.INT64), first)
        flat = np.concatenate([values for _, values in tables], dtype=np.float64)
        return graph.add("Gather", flat, at)

    def _above(self, borders: Sequence[_Number]) -> str:
        graph = self._graph
        known = [self._floats[one.column] for one in borders]
        columns = select(graph, self._value, [int(one["flat_feature_index"]) for one in known])
        rounded = graph.cast(matrix(graph, columns, NUMBER, step=_STEP), DType.FP32)
        above = graph.add("Greater", rounded, self._row([one.border for one in borders]))
        goes_right = np.array([one["nan_value_treatment"] == "AsTrue" for one in known])
        if goes_right.any():
            right = graph.constant(as_column(goes_right), np.bool_)
            missing = graph.add("And", graph.add("IsNaN", rounded), right)
            above = graph.add("Or", above, missing)
        return above

    def _row(self, values: Sequence[float]) -> str:
        return self._graph.constant(as_column(np.asarray(values)), np.float32)


def _element(element: Mapping[str, Any]) -> int | _Category | _Number:
    """A part of a combination: a column of categories, or the answer to a test."""
    kind = element["combination_element"]
    if kind == "float_feature":
        return _Number(int(element["float_feature_index"]), float(element["border"]))
    if kind == "cat_feature_exact_value":
        return _Category(int(element["cat_feature_index"]), int(element["value"]))
    return int(element["cat_feature_index"])


def _listed(
    known: Mapping[str, Any], columns: Sequence[NDArray[Any]], hashes: Mapping[str, int]
) -> _Listed:
    place = int(known["flat_feature_index"])
    values = list(dict.fromkeys(columns[place].tolist()))
    return _Listed(
        place, np.asarray(values, object), _mixed_in([hashes[str(value)] for value in values])
    )


def _place_of(listed: _Listed, value: int) -> int:
    found = np.flatnonzero(listed.hashes == _mixed_in([value]))
    if not len(found):
        raise _unknown()
    return int(found[0])


def _mixed_in(hashes: Sequence[int]) -> NDArray[np.uint64]:
    """Hashes of 32 bits, which CatBoost extends by their sign."""
    return np.array(hashes, np.int64).astype(np.int32).astype(np.int64).view(np.uint64)


def _unknown() -> Unconvertible:
    return Unconvertible(
        "CatBoost's model knows categories that the training rows do not have",
        hint="pass train with all rows that the model was fitted on; or " + _SERVE[5:],
    )


def _coded(graph: Graph, part: Any, listed: _Listed) -> Value:
    """The place of the category, or their number for another one."""
    places = np.arange(len(listed.values), dtype=np.float64)
    return looked_up(graph, (part,), listed.values, places, float(len(places)))


def _ctr(
    ctr: Mapping[str, Any], data: Mapping[str, Any], listed: Mapping[int, _Listed]
) -> tuple[list[int], NDArray[np.float64]]:
    """How many values each part of a combination has, and the CTR of each combination, flat."""
    sizes = [
        len(listed[one["cat_feature_index"]].values) + 1
        if one["combination_element"] == "cat_feature_value"
        else 2
        for one in ctr["elements"]
    ]
    if math.prod(sizes) > _MOST_COMBINATIONS:
        raise Unconvertible(
            f"CatBoost combines categories in {math.prod(sizes):,} ways, and at most "
            f"{_MOST_COMBINATIONS:,} are compiled",
            hint="train with max_ctr_complexity=1; or " + _SERVE[5:],
        )
    mixed, is_known = np.zeros(1, np.uint64), np.ones(1, bool)
    for one, size in zip(ctr["elements"], sizes, strict=True):
        if one["combination_element"] == "cat_feature_value":
            own = np.append(listed[one["cat_feature_index"]].hashes, np.uint64(0))
            known = np.arange(size) < size - 1
        else:
            own, known = np.arange(2, dtype=np.uint64), np.ones(2, bool)
        mixed = _MULTIPLIER * (mixed[:, None] + _MULTIPLIER * own[None, :])
        mixed, is_known = mixed.ravel(), (is_known[:, None] & known[None, :]).ravel()
    counts, found, denominator = _counts(data[ctr["identifier"]], mixed, is_known)
    return sizes, _values(ctr, counts, found, denominator)


def _counts(
    table: Mapping[str, Any], mixed: NDArray[np.uint64], is_known: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], float]:
    """The counts of each combination, which of them has any, and the divisor of counters."""
    stride = int(table["hash_stride"])
    raw = table["hash_map"]
    keys = {int(raw[at]): raw[at + 1 : at + stride] for at in range(0, len(raw), stride)}
    keys.pop(_NO_KEY, None)
    counts, found = np.zeros((len(mixed), stride - 1)), np.zeros(len(mixed), bool)
    places = {int(mixed[at]): at for at in np.flatnonzero(is_known).tolist()}
    for key, values in keys.items():
        if key not in places:
            raise _unknown()
        counts[places[key]] = [float(value) for value in values]
        found[places[key]] = True
    return counts, found, float(table["counter_denominator"])


def _values(
    ctr: Mapping[str, Any],
    counts: NDArray[np.float64],
    found: NDArray[np.bool_],
    denominator: float,
) -> NDArray[np.float64]:
    """The numbers that are compared, computed in floats as CatBoost does."""
    kind, border = ctr["ctr_type"], int(ctr["target_border_idx"])
    if kind in _MEANS:
        good, total = counts[:, 0], counts[:, 1]
    elif kind in _RATIOS:
        good, total = counts[:, 0], np.full(len(found), denominator)
    elif kind in ("Borders", "Buckets"):
        good = counts[:, border] if kind == "Buckets" else counts[:, border + 1 :].sum(axis=1)
        total = counts.sum(axis=1)
    else:
        raise Unconvertible(f"there is no compiler for CatBoost's CTR {kind}", hint=_SERVE)
    number = np.float32
    prior, weight = number(ctr["prior_numerator"]), number(ctr["prior_denomerator"])
    ratio = (good.astype(number) + prior) / (total.astype(number) + weight)
    return np.asarray((ratio + number(ctr["shift"])) * number(ctr["scale"]), np.float64)


def known_categories(model: Any, columns: Mapping[str, NDArray[Any]]) -> Any:
    """A pool of rows that hold every category of the training rows, to write their hashes."""
    import catboost
    import pandas

    names = list(columns)
    which = [int(place) for place in model.get_cat_feature_indices()]
    values = {place: list(dict.fromkeys(columns[names[place]].tolist())) for place in which}
    rows = max(map(len, values.values()))
    table = {
        str(model.feature_names_[place]): np.zeros(rows)
        if place not in values
        else [*values[place], *values[place][:1] * (rows - len(values[place]))]
        for place in range(len(names))
    }
    return catboost.Pool(pandas.DataFrame(table), cat_features=which)
