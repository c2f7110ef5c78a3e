"""Reads the trees that XGBoost writes as JSON.

The layout is that of its "Introduction to Model IO" and of `src/tree/io_utils.h`. XGBoost rounds
its input to floats and goes left where `x < split_condition`. For floats that is the same as
`x <= the float before it`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import Unconvertible
from bascule.packing.compilers.boosted import Ensemble, Link, predict_ensemble
from bascule.packing.compilers.graph import Context
from bascule.packing.compilers.predictors import Outcome
from bascule.packing.compilers.steps import by_name
from bascule.packing.compilers.trees import Tree
from bascule.packing.compilers.values import NUMBER, Value, matrix, numbers, width

_LINKS = by_name(
    {
        Link.HINGE: "binary:hinge",
        Link.SIGMOID: "binary:logistic reg:logistic",
        Link.MARGIN: "binary:logitraw",
        Link.SOFTMAX: "multi:softmax multi:softprob",
        Link.EXPONENTIAL: "count:poisson reg:gamma reg:tweedie survival:aft survival:cox",
        Link.IDENTITY: "reg:absoluteerror reg:pseudohubererror reg:quantileerror reg:squarederror "
        "reg:squaredlogerror rank:map rank:ndcg rank:pairwise",
    }
)


def estimator(context: Context, model: Any, value: Value) -> Outcome:
    """An estimator of XGBoost as the last step of a pipeline."""
    if model.missing is not None and not math.isnan(model.missing):
        raise Unconvertible(
            f"XGBoost takes {model.missing} for a missing value, and there is no compiler for that"
        )
    if context.sparse:
        value = _without_zeros(context, value)
    ensemble = read_xgboost(json.loads(bytes(booster_of(model).save_raw("json"))))
    classes = len(model.classes_) if hasattr(model, "classes_") else None
    return predict_ensemble(context, ensemble, value, classes)


def _without_zeros(context: Context, value: Value) -> Value:
    """What a sparse matrix leaves out is zero to scikit-learn, and missing to XGBoost."""
    graph = context.graph
    tensor = matrix(graph, value, NUMBER, step="boosted trees")
    is_zero = graph.add("Equal", tensor, 0.0)
    return numbers(graph.add("Where", is_zero, np.nan, tensor), width(value))


def booster_of(model: Any) -> Any:
    """The native booster of an estimator, without the rounds that `predict` leaves out.

    Those after the best one, wherever its number comes from: early stopping by a parameter or a
    callback, or an attribute that was set.
    """
    booster = model.get_booster()
    best = getattr(model, "best_iteration", None)
    return booster if best is None or model.booster == "gblinear" else booster[: best + 1]


def read_xgboost(model: Mapping[str, Any]) -> Ensemble:
    """The trees of one model, parsed from its JSON form.

    Raises:
        Unconvertible: It holds something else than trees with numbers in their leaves.
    """
    learner = model["learner"]
    objective = learner["objective"]["name"]
    if objective not in _LINKS:
        raise Unconvertible(f"there is no compiler for XGBoost's objective {objective}")
    link = _LINKS[objective]
    known = learner["learner_model_param"]
    booster = learner["gradient_booster"]
    weights = booster.get("weight_drop")
    booster = booster.get("gbtree", booster)
    if "model" not in booster or "trees" not in booster["model"]:
        raise Unconvertible("XGBoost's linear booster holds no trees")
    forest = booster["model"]
    weights = forest.get("weight_drop", weights)  # where it is since XGBoost 3.4
    several = int(known["num_target"]) > 1
    targets = max(int(known["num_class"]), int(known["num_target"]), 1)
    made = [
        _tree(tree, target, 1.0 if weights is None else float(weights[place]))
        for place, (tree, target) in enumerate(
            zip(forest["trees"], forest["tree_info"], strict=True)
        )
    ]
    if not made:
        raise Unconvertible("the model has no trees")
    categorical = {int(tree.feature[node]) for tree in made for node in tree.members}
    return Ensemble(
        trees=made,
        base=_base(known["base_score"], link, targets),
        link=link,
        columns=int(known["num_feature"]),
        rounds=True,
        several=several,
        categorical=frozenset(categorical),
    )


def _base(text: str, link: Link, targets: int) -> list[float]:
    """Where the sums start: `base_score` is on the scale of the answers, sums are before the link.

    Computed in floats, as XGBoost does.
    """
    scores = np.array([float(part) for part in text.strip("[]").split(",")], np.float32)
    if link is Link.SIGMOID:
        scores = -np.log(np.float32(1) / scores - np.float32(1))
    elif link is Link.EXPONENTIAL:
        scores = np.log(scores)
    return [float(score) for score in np.broadcast_to(scores, targets)]


def _tree(tree: Mapping[str, Any], target: int, weight: float) -> Tree:
    width = int(tree["tree_param"]["size_leaf_vector"])
    left = np.asarray(tree["left_children"], np.int64)
    right = np.asarray(tree["right_children"], np.int64)
    condition = np.asarray(tree["split_conditions"], np.float64).astype(np.float32)
    missing_left = np.asarray(tree["default_left"], np.int64).astype(bool)
    members = _members(tree)
    leaf = left < 0
    values = _leaf_values(tree, leaf, condition, width) * weight
    swapped = np.array(sorted(members), np.int64)
    # In the set of a node are the categories that go right.
    left[swapped], right[swapped] = right[swapped], left[swapped]
    missing_left[swapped] = ~missing_left[swapped]
    return Tree(
        left,
        np.where(leaf, -1, right),
        np.where(leaf, 0, np.asarray(tree["split_indices"], np.int64)),
        np.where(leaf, 0, np.nextafter(condition, np.float32(-np.inf)).astype(np.float64)),
        missing_left,
        values,
        (target,) if width < 2 else tuple(range(width)),
        members,
        np.asarray(tree["sum_hessian"], np.float64) if "sum_hessian" in tree else None,
    )


def _leaf_values(
    tree: Mapping[str, Any], leaf: NDArray[np.bool_], condition: NDArray[np.float32], width: int
) -> NDArray[np.float64]:
    """What each node adds to the sums, shape (nodes, sums); 0 where it is no leaf.

    Of several numbers in a leaf, its right child is the number of its row in `leaf_weights`; before
    XGBoost 3.2 every node has a row in `base_weights`.
    """
    if width < 2:
        values = condition.astype(np.float64).reshape(-1, 1)
    elif tree.get("leaf_weights"):
        rows = np.where(leaf, np.asarray(tree["right_children"], np.int64), 0)
        values = np.asarray(tree["leaf_weights"], np.float64).reshape(-1, width)[rows]
    else:
        values = np.asarray(tree["base_weights"], np.float64).reshape(-1, width)
    return np.where(leaf[:, None], values, 0.0)


def _members(tree: Mapping[str, Any]) -> dict[int, tuple[int, ...]]:
    made = {}
    kinds = ("categories_nodes", "categories_segments", "categories_sizes")
    for node, start, size in zip(*(tree.get(kind, ()) for kind in kinds), strict=True):
        made[int(node)] = tuple(int(c) for c in tree["categories"][start : start + size])
    return made
