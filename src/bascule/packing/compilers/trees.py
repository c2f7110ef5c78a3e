"""Ensembles of decision trees.

scikit-learn's trees compare a float input with a double threshold, and add doubles up. The
TreeEnsemble operator in doubles does the same when its input was rounded to float first. The
operator in floats needs thresholds that are rounded *down*: a float is at most t exactly when it
is at most the largest float that is at most t.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import DType
from bascule.packing.compilers.graph import ML, Graph

_LEQ = 0
_SUM = 1
_NO_POST_TRANSFORM = 0


@dataclass(frozen=True, slots=True)
class Tree:
    """One tree, its nodes in arrays; node 0 is the root.

    Attributes:
        left: Where a node leads when its test holds; -1 in a leaf.
        right: Where it leads otherwise.
        feature: The column that is tested.
        threshold: The test is `x <= threshold`.
        missing_left: Whether a missing value passes the test.
        values: What a leaf adds to each target, shape (nodes, targets).
        members: For a node that tests a category: the ones that pass. By node.
        targets: Which targets the columns of `values` are.
        cover: How much of the training rows came to each node, shape (nodes,); None if not known.
    """

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    missing_left: NDArray[np.bool_]
    values: NDArray[np.float64]
    targets: tuple[int, ...]
    members: dict[int, tuple[int, ...]] = field(default_factory=dict)
    cover: NDArray[np.float64] | None = None


def of_sklearn(tree: Any, *, values: NDArray[np.float64], targets: tuple[int, ...]) -> Tree:
    """A tree of `sklearn.tree`."""
    left = tree.children_left.astype(np.int64)
    missing = getattr(tree, "missing_go_to_left", np.zeros(len(left)))
    return Tree(
        left,
        tree.children_right.astype(np.int64),
        np.maximum(tree.feature, 0).astype(np.int64),
        tree.threshold.astype(np.float64),
        missing.astype(bool),
        values,
        targets,
        cover=np.asarray(tree.weighted_n_node_samples, np.float64),
    )


def of_histogram(predictor: Any, target: int) -> Tree:
    """A tree of `sklearn.ensemble.HistGradientBoosting*`; its leaves add to `target`."""
    nodes = predictor.nodes
    leaf = nodes["is_leaf"].astype(bool)
    members = {}
    for i in np.flatnonzero(nodes["is_categorical"].astype(bool) & ~leaf):
        bits = predictor.raw_left_cat_bitsets[nodes["bitset_idx"][i]]
        members[int(i)] = tuple(c for c in range(256) if bits[c // 32] >> np.uint32(c % 32) & 1)
    return Tree(
        np.where(leaf, -1, nodes["left"].astype(np.int64)),
        np.where(leaf, -1, nodes["right"].astype(np.int64)),
        np.where(leaf, 0, nodes["feature_idx"].astype(np.int64)),
        nodes["num_threshold"].astype(np.float64),
        nodes["missing_go_to_left"].astype(bool),
        nodes["value"].astype(np.float64).reshape(-1, 1),
        (target,),
        members,
        nodes["count"].astype(np.float64),
    )


def without_members(
    graph: Graph, tensor: str, trees: Sequence[Tree], columns: int
) -> tuple[str, list[Tree]]:
    """The same ensemble with every test of a set of categories made a test of a number.

    For each set that is tested there is a new column: 0 where the category is in the set, 1 where
    it is not, NaN where it is missing. They are rows of one table per feature, looked up by
    category. (The operator has a mode for sets; ONNX Runtime 1.28 crashes on some of them.)

    Args:
        graph: Where to put the nodes.
        tensor: The matrix of doubles that the trees read; categories are whole numbers from 0.
        trees: The ensemble.
        columns: How many columns `tensor` has.
    """
    places: dict[int, dict[tuple[int, ...], int]] = {}
    for tree in trees:
        for node, members in tree.members.items():
            sets = places.setdefault(int(tree.feature[node]), {})
            sets.setdefault(members, len(sets))
    first: dict[int, int] = {}
    wide = [tensor]
    for feature in sorted(places):
        first[feature] = columns
        columns += len(places[feature])
        wide.append(_set_flags(graph, tensor, feature, list(places[feature])))
    if len(wide) > 1:
        tensor = graph.add("Concat", *wide, axis=1)
    return tensor, [_tests_flags(tree, first, places) for tree in trees]


def _set_flags(graph: Graph, tensor: str, feature: int, sets: list[tuple[int, ...]]) -> str:
    count = 1 + max((category for members in sets for category in members), default=0)
    # Two rows more: for a category in no set at all, and for a missing one.
    table = np.ones((count + 2, len(sets)))
    for column, members in enumerate(sets):
        table[list(members), column] = 0
    table[-1] = np.nan
    column_of = graph.add("Gather", tensor, feature, axis=1)
    listed = graph.add("Min", column_of, float(count))
    missing = graph.add("IsNaN", column_of)
    row = graph.add("Where", missing, float(count + 1), listed)
    return graph.add("Gather", graph.constant(table), graph.cast(row, DType.INT64))


def _tests_flags(
    tree: Tree, first: dict[int, int], places: dict[int, dict[tuple[int, ...], int]]
) -> Tree:
    if not tree.members:
        return tree
    feature, threshold = tree.feature.copy(), tree.threshold.copy()
    for node, members in tree.members.items():
        tested = int(tree.feature[node])
        feature[node] = first[tested] + places[tested][members]
        threshold[node] = 0.5
    return replace(tree, feature=feature, threshold=threshold, members={})


def sums_in_double(graph: Graph, tensor: str, trees: Sequence[Tree], targets: int) -> str:
    """What the leaves of all trees add up to, shape (rows, targets), in doubles."""
    arrays = _Operator(trees)
    graph.shares.append(arrays.shares)
    graph.ml_opset = max(graph.ml_opset, 5)
    return graph.add(
        "TreeEnsemble",
        tensor,
        domain=ML,
        aggregate_function=_SUM,
        post_transform=_NO_POST_TRANSFORM,
        n_targets=targets,
        nodes_featureids=arrays.feature.tolist(),
        nodes_splits=graph.tensor(arrays.threshold, np.float64),
        nodes_modes=graph.tensor(np.full(len(arrays.feature), _LEQ), np.uint8),
        nodes_truenodeids=arrays.true_at.tolist(),
        nodes_trueleafs=arrays.true_is_leaf.tolist(),
        nodes_falsenodeids=arrays.false_at.tolist(),
        nodes_falseleafs=arrays.false_is_leaf.tolist(),
        nodes_missing_value_tracks_true=arrays.missing.tolist(),
        leaf_targetids=arrays.leaf_targets.tolist(),
        leaf_weights=graph.tensor(arrays.leaf_weights, np.float64),
        tree_roots=arrays.roots,
    )


def classify_in_float(
    graph: Graph,
    tensor: str,
    trees: Sequence[Tree],
    *,
    classes: Sequence[int],
    base: Sequence[float],
    post_transform: str,
) -> tuple[str, str]:
    """Labels and scores of a float matrix by the one operator that gives both."""
    sizes = [len(tree.left) for tree in trees]
    ids = np.repeat(np.arange(len(trees)), sizes)
    numbers = np.concatenate([np.arange(size) for size in sizes])
    left = np.concatenate([tree.left for tree in trees])
    right = np.concatenate([tree.right for tree in trees])
    leaf = left < 0
    threshold = np.concatenate([tree.threshold for tree in trees])
    weights = np.concatenate([tree.values[tree.left < 0].ravel() for tree in trees])
    per_leaf = np.concatenate(
        [np.full(int((tree.left < 0).sum()), len(tree.targets)) for tree in trees]
    )
    targets = np.concatenate([np.tile(tree.targets, int((tree.left < 0).sum())) for tree in trees])
    label, scores = graph.add_many(
        "TreeEnsembleClassifier",
        (tensor,),
        2,
        domain=ML,
        nodes_treeids=ids.tolist(),
        nodes_nodeids=numbers.tolist(),
        nodes_featureids=np.concatenate([tree.feature for tree in trees]).tolist(),
        nodes_values=np.where(leaf, 0, rounded_down(threshold)).astype(np.float32).tolist(),
        nodes_modes=np.where(leaf, "LEAF", "BRANCH_LEQ").tolist(),
        nodes_truenodeids=np.where(leaf, 0, left).tolist(),
        nodes_falsenodeids=np.where(leaf, 0, right).tolist(),
        nodes_missing_value_tracks_true=np.concatenate([tree.missing_left for tree in trees])
        .astype(int)
        .tolist(),
        class_treeids=np.repeat(ids[leaf], per_leaf).tolist(),
        class_nodeids=np.repeat(numbers[leaf], per_leaf).tolist(),
        class_ids=targets.tolist(),
        class_weights=weights.astype(np.float32).tolist(),
        classlabels_int64s=list(classes),
        post_transform=post_transform,
        **({"base_values": [float(value) for value in base]} if len(base) else {}),
    )
    return label, scores


class _Operator:
    """The arrays of the TreeEnsemble operator, where leaves and inner nodes are apart.

    Every target of a leaf is a leaf of its own there, so a tree with several targets per leaf
    becomes that many trees.
    """

    def __init__(self, trees: Sequence[Tree]) -> None:
        self.roots: list[int] = []
        parts: list[tuple[NDArray[Any], ...]] = []
        inner_count = leaf_count = 0
        for tree in map(_with_a_test, trees):
            for column, target in enumerate(tree.targets):
                part = self._lay_out(tree, column, target, inner_count, leaf_count)
                self.roots.append(inner_count)
                inner_count += len(part[0])
                leaf_count += len(part[-1])
                parts.append(part)
        (
            self.feature,
            self.threshold,
            self.missing,
            self.true_at,
            self.true_is_leaf,
            self.false_at,
            self.false_is_leaf,
            self.leaf_targets,
            self.leaf_weights,
        ) = (np.concatenate(column) for column in zip(*parts, strict=True))
        self.shares = _shares(list(map(_with_a_test, trees)))

    def _lay_out(
        self, tree: Tree, column: int, target: int, inner_count: int, leaf_count: int
    ) -> tuple[NDArray[Any], ...]:
        leaf = tree.left < 0
        at = np.where(leaf, np.cumsum(leaf) - 1 + leaf_count, np.cumsum(~leaf) - 1 + inner_count)
        inner = np.flatnonzero(~leaf)
        true, false = tree.left[inner], tree.right[inner]
        return (
            tree.feature[inner],
            tree.threshold[inner],
            tree.missing_left[inner].astype(np.int64),
            at[true],
            leaf[true].astype(np.int64),
            at[false],
            leaf[false].astype(np.int64),
            np.full(int(leaf.sum()), target),
            tree.values[leaf, column],
        )


def _shares(trees: Sequence[Tree]) -> NDArray[np.float64] | None:
    """By test, in the order of the operator: the share of the training rows that passed it.

    A half where no rows came, so that the two shares of a test always add up to 1.
    """
    parts = []
    for tree in trees:
        if tree.cover is None:
            return None
        inner = np.flatnonzero(tree.left >= 0)
        passed, failed = tree.cover[tree.left[inner]], tree.cover[tree.right[inner]]
        both = passed + failed
        share = np.divide(passed, both, out=np.full(len(inner), 0.5), where=both > 0)
        parts += [share] * len(tree.targets)
    return np.concatenate(parts)


def _with_a_test(tree: Tree) -> Tree:
    """The tree itself, or in place of a single leaf a test with two leaves that are equal to it.

    TreeEnsemble has no tree without a test. With both branches of a test at one leaf, ONNX Runtime
    (1.28) takes the leaf of another tree where other trees come before.
    """
    if tree.left[0] >= 0:
        return tree
    return Tree(
        np.array([1, -1, -1]),
        np.array([2, -1, -1]),
        np.zeros(3, np.int64),
        np.zeros(3),
        np.zeros(3, bool),
        np.repeat(tree.values[:1], 3, axis=0),
        tree.targets,
        cover=np.ones(3),
    )


def rounded_down(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest float that is at most each double."""
    with np.errstate(over="ignore"):
        near = values.astype(np.float32)
        below = np.nextafter(near, np.float32(-np.inf))
    return np.where(near > values, below, near)
