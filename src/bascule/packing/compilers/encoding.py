"""Steps that turn categories into numbers.

Texts are looked up in a hash map (LabelEncoder); numbers are compared, because the map of the
runtime does not take doubles.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import FIRST_SHARED
from bascule.core import DType, Unconvertible
from bascule.packing.compilers.graph import MISSING_TEXT, ML, Context, Graph, as_column
from bascule.packing.compilers.values import (
    NUMBER,
    TEXT,
    Part,
    Value,
    flags_to_numbers,
    matrix,
    numbers,
    select,
)

_NONE = -1
"""The code of a category that was not seen in training."""


def one_hot_encoder(context: Context, step: Any, value: Value) -> Value:
    """One column per category kept; infrequent ones share a column, dropped ones have none."""
    graph = context.graph
    parts: list[Part] = []
    for i, categories in enumerate(step.categories_):
        column = select(graph, value, [i])
        targets, unknown = _one_hot_targets(step, i, len(categories))
        codes = _codes(graph, column, categories, targets, unknown)
        count = max([*targets, unknown], default=_NONE) + 1
        if not count:
            continue
        flags = graph.add("Equal", codes, as_column(np.arange(count)))
        parts += flags_to_numbers(graph, flags, count)
    return tuple(parts)


def ordinal_encoder(context: Context, step: Any, value: Value) -> Value:
    """The place of each value among the categories, or what the encoder says of unknown ones."""
    graph = context.graph
    parts: list[Part] = []
    for i, categories in enumerate(step.categories_):
        places, infrequent = _places(step, i, len(categories))
        encoded = np.asarray(places, np.float64)
        missing = [_is_missing(category) for category in categories]
        encoded[missing] = step.encoded_missing_value
        unknown = np.nan
        if step.handle_unknown == "use_encoded_value":
            unknown = float(step.unknown_value)
        if infrequent is not None:
            raise Unconvertible(
                "OrdinalEncoder groups infrequent categories, and there is no compiler for that"
            )
        column = select(graph, value, [i])
        parts += looked_up(graph, column, categories, encoded, unknown)
    return tuple(parts)


def target_encoder(context: Context, step: Any, value: Value) -> Value:
    """The mean target of each category; of all rows where the category is unknown."""
    graph = context.graph
    many = len(step.classes_) if step.target_type_ == "multiclass" else 1
    parts: list[Part] = []
    for place, encoding in enumerate(step.encodings_):
        i, k = divmod(place, many)
        unknown = float(np.atleast_1d(step.target_mean_)[k])
        column = select(graph, value, [i])
        parts += looked_up(graph, column, step.categories_[i], encoding, unknown)
    return tuple(parts)


def _one_hot_targets(step: Any, i: int, count: int) -> tuple[list[int], int]:
    """The output column of each category, -1 for none, and that of an unknown value."""
    places, infrequent = _places(step, i, count)
    dropped = None if step.drop_idx_ is None else step.drop_idx_[i]
    if dropped is not None:
        dropped = (
            places[int(dropped)] if infrequent is None else int(step._drop_idx_after_grouping[i])
        )
        places = [_NONE if p == dropped else p - (p > dropped) for p in places]
        if infrequent is not None:
            infrequent = _NONE if infrequent == dropped else infrequent - (infrequent > dropped)
    if step.handle_unknown in ("infrequent_if_exist", "warn") and infrequent is not None:
        return places, infrequent
    return places, _NONE


def _places(step: Any, i: int, count: int) -> tuple[list[int], int | None]:
    """The place of each category after infrequent ones were grouped, and that of the group."""
    grouping = getattr(step, "_default_to_infrequent_mappings", None)
    mapping = grouping[i] if grouping and getattr(step, "_infrequent_enabled", False) else None
    if mapping is None:
        return list(range(count)), None
    return [int(place) for place in mapping], int(max(mapping))


def _codes(
    graph: Graph, column: Value, categories: NDArray[Any], codes: list[int], unknown: int
) -> str:
    """Whole numbers of shape (rows, 1): `codes[j]` for category j, else `unknown`."""
    if column[0].kind == TEXT:
        tensor = matrix(graph, column, TEXT, step="encoder")
        return graph.add(
            "LabelEncoder",
            tensor,
            domain=ML,
            keys_strings=[_as_text(category) for category in categories],
            values_int64s=codes,
            default_int64=unknown,
        )
    found = _found(graph, column, categories)
    # One more column that is always true, so that the first true one is the category, or that.
    place = _first_true(graph, found, len(categories))
    return graph.add("Gather", [*codes, unknown], place)


def looked_up(
    graph: Graph, column: Value, categories: NDArray[Any], values: NDArray[Any], unknown: float
) -> Value:
    """Numbers of shape (rows, 1): `values[j]` for category j, else `unknown`."""
    places = list(range(len(categories)))
    place = _codes(graph, column, categories, places, len(categories))
    made = graph.add("Gather", [*values, unknown], place)
    return numbers(made, 1)


def _found(graph: Graph, column: Value, categories: NDArray[Any]) -> str:
    """Flags of shape (rows, categories)."""
    tensor = matrix(graph, column, NUMBER, step="encoder")
    whole = [int(one) for one in categories if isinstance(one, int | np.integer)]
    if any(abs(one) >= FIRST_SHARED for one in whole):
        raise Unconvertible(
            "an encoder has whole numbers beyond 2**53 as categories, which the graph's doubles "
            "cannot tell from their neighbours",
            hint="turn them into text before the model is trained: df[c].astype(str)",
        )
    try:
        values = np.array([np.nan if c is None else c for c in categories], np.float64)
    except (TypeError, ValueError):
        raise Unconvertible("an encoder has texts as categories of a number column") from None
    found = graph.add("Equal", tensor, as_column(values))
    if np.isnan(values).any():
        missing = graph.add("And", graph.add("IsNaN", tensor), as_column(np.isnan(values)))
        found = graph.add("Or", found, missing)
    return found


def _first_true(graph: Graph, flags: str, count: int) -> str:
    """The place of the first true flag, or `count`. Shape (rows, 1)."""
    numbers_ = graph.cast(flags, DType.INT32)
    ranks = graph.constant(as_column(np.arange(count, 0, -1)), "int32")
    scored = graph.add("Mul", numbers_, ranks)
    best = graph.add("ReduceMax", scored, [1], keepdims=1)
    place = graph.add("Sub", graph.constant([[count]], "int32"), best)
    return graph.cast(place, DType.INT64)


def _as_text(category: Any) -> str:
    if _is_missing(category):
        return MISSING_TEXT
    if not isinstance(category, str):
        raise Unconvertible("an encoder has categories that are not texts in a text column")
    return category


def _is_missing(category: Any) -> bool:
    return category is None or bool(category != category)
