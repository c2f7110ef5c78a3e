"""Reads the trees that LightGBM writes as text.

The layout is that of `Tree::ToString` and `Tree::NumericalDecision` (src/io/tree.cpp,
include/LightGBM/tree.h). LightGBM compares doubles: `x <= threshold` goes left. What a missing
value is depends on the node: nothing (NaN is taken for zero), zero, or NaN. And a number within
1e-35 of zero is zero, because rows are handed to the trees without their zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import Unconvertible
from bascule.packing.compilers.boosted import ZERO, Ensemble, Link, predict_ensemble
from bascule.packing.compilers.graph import Context
from bascule.packing.compilers.predictors import Outcome
from bascule.packing.compilers.steps import by_name
from bascule.packing.compilers.trees import Tree
from bascule.packing.compilers.values import Value

_CATEGORICAL = 1
_DEFAULT_LEFT = 2
_NONE, _ZERO, _NAN = 0, 1, 2
_LINKS = by_name(
    {
        Link.SIGMOID: "binary cross_entropy",
        Link.SOFTPLUS: "cross_entropy_lambda",
        Link.SOFTMAX: "multiclass",
        Link.SIGMOIDS: "multiclassova",
        Link.EXPONENTIAL: "gamma poisson tweedie",
        Link.IDENTITY: "fair huber lambdarank mape quantile rank_xendcg regression regression_l1",
    }
)


def estimator(context: Context, model: Any, value: Value) -> Outcome:
    """An estimator of LightGBM as the last step of a pipeline."""
    ensemble = read_lightgbm(model.booster_.model_to_string())
    classes = len(model.classes_) if hasattr(model, "classes_") else None
    return predict_ensemble(context, ensemble, value, classes)


def read_lightgbm(text: str) -> Ensemble:
    """The trees of one model, from its text.

    Raises:
        Unconvertible: Its leaves hold linear models, or its objective has no compiler.
    """
    head, *blocks = text.split("\nend of trees")[0].split("\nTree=")
    said = _entries(head)
    objective, _, settings = said.get("objective", "regression").partition(" ")
    if objective not in _LINKS or "sqrt" in settings:
        raise Unconvertible(
            f"there is no compiler for LightGBM's objective {objective} {settings}".rstrip()
        )
    link = _LINKS[objective]
    targets = int(said["num_tree_per_iteration"])
    # The scale of the sigmoid; other objectives name none.
    scale = next(
        (float(part.partition(":")[2]) for part in settings.split() if part.startswith("sigmoid:")),
        1.0,
    )
    if "average_output" in head.splitlines():
        scale *= targets / len(blocks)
    known = [_entries(block) for block in blocks]
    made = [_tree(tree, place % targets, scale) for place, tree in enumerate(known)]
    if not made:
        raise Unconvertible("the model has no trees")
    return Ensemble(
        trees=made,
        base=[0.0] * targets,
        link=link,
        columns=int(said["max_feature_idx"]) + 1,
        rounds=False,
        zero_is_missing=frozenset(column for tree in known for column in _zero_columns(tree)),
        categorical=frozenset(int(tree.feature[node]) for tree in made for node in tree.members),
    )


def _entries(block: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in block.splitlines() if "=" in line)


def _numbers(tree: Mapping[str, str], name: str, dtype: Any) -> NDArray[Any]:
    return np.array(tree.get(name, "").split(), dtype)


def _zero_columns(tree: Mapping[str, str]) -> list[int]:
    kinds = _numbers(tree, "decision_type", np.int64)
    is_zero = ((kinds >> 2) & 3 == _ZERO) & (kinds & _CATEGORICAL == 0)
    return [int(column) for column in _numbers(tree, "split_feature", np.int64)[is_zero]]


def _tree(tree: Mapping[str, str], target: int, scale: float) -> Tree:
    """Inner nodes keep their numbers; leaf i becomes node `inner + i`."""
    if tree.get("is_linear", "0") != "0":
        raise Unconvertible("LightGBM's leaves hold linear models (linear_tree)")
    leaves = _numbers(tree, "leaf_value", np.float64) * scale
    kinds = _numbers(tree, "decision_type", np.int64)
    inner = len(kinds) if len(leaves) > 1 else 0
    kinds = kinds[:inner]
    left = _numbers(tree, "left_child", np.int64)[:inner]
    right = _numbers(tree, "right_child", np.int64)[:inner]
    places = _numbers(tree, "threshold", np.float64)[:inner]
    threshold = _past_zero(places)
    is_set = kinds & _CATEGORICAL != 0
    missing = (kinds >> 2) & 3
    missing_left = np.where(missing == _NONE, threshold >= 0, kinds & _DEFAULT_LEFT != 0)
    none = np.full(len(leaves), -1, np.int64)
    # A child below zero is a leaf: -1 the first.
    at = [np.where(child < 0, inner - child - 1, child) for child in (left, right)]
    return Tree(
        np.concatenate([at[0], none]),
        np.concatenate([at[1], none]),
        np.concatenate([_numbers(tree, "split_feature", np.int64)[:inner], none * 0]),
        np.concatenate([np.where(is_set, 0.0, threshold), none * 0.0]),
        np.concatenate([missing_left & ~is_set, none > 0]),
        np.concatenate([np.zeros(inner), leaves]).reshape(-1, 1),
        (target,),
        {int(node): _members(tree, int(places[node])) for node in np.flatnonzero(is_set)},
        _cover(tree, inner),
    )


def _cover(tree: Mapping[str, str], inner: int) -> NDArray[np.float64] | None:
    """How many training rows came to each node; None in a file that does not say it."""
    counts = _numbers(tree, "internal_count", np.float64)[:inner]
    leaves = _numbers(tree, "leaf_count", np.float64)
    if len(counts) < inner or not len(leaves):
        return None
    return np.concatenate([counts, leaves])


def _past_zero(threshold: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same tests, for numbers near zero that have not been made zero.

    All those are on zero's side of a threshold.
    """
    below = np.nextafter(-ZERO, -np.inf)
    moved = np.where((threshold >= -ZERO) & (threshold < 0), below, threshold)
    return np.where((threshold >= 0) & (threshold < ZERO), ZERO, moved)


def _members(tree: Mapping[str, str], place: int) -> tuple[int, ...]:
    """The categories that go left: the bits of some 32-bit words."""
    bounds = _numbers(tree, "cat_boundaries", np.int64)
    words = _numbers(tree, "cat_threshold", np.uint32)[bounds[place] : bounds[place + 1]]
    bits = np.unpackbits(words.astype("<u4").view(np.uint8), bitorder="little")
    return tuple(int(category) for category in np.flatnonzero(bits))
