"""Looks at the trees of a graph before ONNX Runtime builds them: it does not look at all of it.

Of the numbers in a tree operator the runtime compares some, and believes the others. With 1.28, a
child beyond the last node ends the process; one that leads back to its parent lets a request run
for ever; a tree that is deep enough, or whose branches share their nodes, uses the stack or the
memory up. So the arrays have to be as many as each other, every number has to lead to something,
and every branch has to end.

The operators are `TreeEnsemble` (ai.onnx.ml 5), `TreeEnsembleRegressor` and
`TreeEnsembleClassifier` (ai.onnx.ml 1 and 3); see "Operators-ml" of the ONNX documentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.disk import MAX_TREE_DEPTH
from bascule.bundle.programs.wire import (
    BYTES,
    FIXED32,
    RUN,
    VARINT,
    Damaged,
    integers,
    numbers,
    records,
    signed,
)

OPERATORS = frozenset({"TreeEnsemble", "TreeEnsembleRegressor", "TreeEnsembleClassifier"})

_LEAF = b"LEAF"
_SETS = 6
"""BRANCH_MEMBER of `TreeEnsemble`."""
_UINT8 = 2

Whole = NDArray[np.int64]


@dataclass(slots=True)
class Attribute:
    """One attribute of an operator, as far as trees need it.

    Attributes:
        number: Where it is one whole number.
        whole: Where it is a list of them.
        floats: How many it lists.
        texts: Where it is a list of texts.
        elements: Of its tensor.
        octets: Of its tensor, where that holds bytes.
    """

    number: int = 0
    whole: Whole = field(default_factory=lambda: np.empty(0, np.int64))
    floats: int = 0
    texts: list[bytes] = field(default_factory=list)
    elements: int = 0
    octets: Whole = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def count(self) -> int:
        """How many values it lists, of any kind."""
        return max(len(self.whole), self.floats, len(self.texts), self.elements)


def read_attribute(data: bytes, start: int, end: int) -> tuple[str, Attribute]:
    """The attribute between `start` and `end`, and its name. Raises `Damaged`."""
    name, made = "", Attribute()
    lists: list[Whole] = []
    for record in records(data, start, end, keep_runs=True):
        number, kind, begin, stop = record
        if number == 1 and kind == BYTES:
            name = data[begin:stop].decode()
        elif number == 3 and kind == VARINT:
            made.number = signed(begin)
        elif number == 5 and kind == BYTES:
            made.elements, made.octets = _tensor(data, begin, stop)
        elif number == 7:
            made.floats += _floats(kind, begin, stop)
        elif number == 8:
            lists.append(integers(data, record))
        elif number == 9 and kind == BYTES:
            made.texts.append(data[begin:stop])
    if lists:
        made.whole = np.concatenate(lists)
    return name, made


def _floats(kind: int, begin: int, stop: int) -> int:
    if kind == RUN:
        return (stop - begin) // 5  # each with its tag
    if kind == FIXED32:
        return 1
    return (stop - begin) // 4 if kind == BYTES else 0


def _tensor(data: bytes, start: int, end: int) -> tuple[int, Whole]:
    dims: list[int] = []
    kind_of_data = 0
    octets = np.empty(0, np.int64)
    listed: list[int] = []
    for record in records(data, start, end):
        number, kind, begin, stop = record
        if number == 1:
            dims += numbers(data, record)
        elif number == 2 and kind == VARINT:
            kind_of_data = begin
        elif number == 5 and kind in (BYTES, VARINT):
            listed += numbers(data, record)
        elif number == 9 and kind == BYTES:
            octets = np.frombuffer(data, np.uint8, stop - begin, begin).astype(np.int64)
    if len(dims) > 1 or min(dims, default=0) < 0:
        raise Damaged("a list of a tree operator is no list")
    if kind_of_data != _UINT8:
        octets = np.empty(0, np.int64)
    elif listed:
        octets = np.array(listed, np.int64)
    return (dims[0] if dims else 0), octets


def fault(operator: str, attributes: Mapping[str, Attribute]) -> str:
    """What is wrong with the trees, in a few words; nothing where the runtime can have them.

    Args:
        operator: One of `OPERATORS`.
        attributes: Of the node, by name.
    """
    if operator == "TreeEnsemble":
        return _fault_apart(attributes)
    return _fault_together(attributes, "class" if operator.endswith("Classifier") else "target")


def _fault_apart(known: Mapping[str, Attribute]) -> str:
    """Of the operator that lists tests and leaves apart, and numbers each list through."""

    def whole(name: str) -> Whole:
        return known.get(name, Attribute()).whole

    tests, leaves = len(whole("nodes_featureids")), len(whole("leaf_targetids"))
    listed = {
        name: known[name].count
        for name in ("nodes_hitrates", "nodes_missing_value_tracks_true")
        if name in known
    }
    for name in ("splits", "truenodeids", "falsenodeids", "trueleafs", "falseleafs", "modes"):
        listed[f"nodes_{name}"] = known.get(f"nodes_{name}", Attribute()).count
    if not tests or any(count != tests for name, count in listed.items()):
        return "lists of nodes that differ in length"
    if not leaves or known.get("leaf_weights", Attribute()).elements != leaves:
        return "lists of leaves that differ in length"
    modes = known["nodes_modes"].octets
    if len(modes) != tests or not _within(modes, _SETS):
        return "a test that ONNX Runtime is not sure to survive"
    if not _within(whole("leaf_targetids"), known.get("n_targets", Attribute()).number):
        return "a leaf for a target that is not there"
    roots = whole("tree_roots")
    sides = []
    for side in ("true", "false"):
        at, is_leaf = whole(f"nodes_{side}nodeids"), whole(f"nodes_{side}leafs") != 0
        if len(at) != tests or len(is_leaf) != tests:
            return "lists of nodes that differ in length"
        if not _within(at[is_leaf], leaves) or not _within(at[~is_leaf], tests):
            return "a branch that leads nowhere"
        sides.append(np.where(is_leaf, -1, at))
    if not len(roots) or not _within(roots, tests):
        return "a branch that leads nowhere"
    # The runtime copies what is reached twice, and that twice over at every level.
    reached = np.concatenate([roots, *(side[side >= 0] for side in sides)])
    if len(np.unique(reached)) != len(reached):
        return "branches that grow together"
    return _fault_of_shape(whole("nodes_featureids"), roots, sides)


def _fault_together(known: Mapping[str, Attribute], votes: str) -> str:
    """Of the operators that list tests and leaves together, and number the nodes of each tree."""

    def whole(name: str) -> Whole:
        return known.get(name, Attribute()).whole

    def count(name: str) -> int:
        return known.get(name, Attribute()).count

    tree, node = whole("nodes_treeids"), whole("nodes_nodeids")
    nodes = len(node)
    lists = ("treeids", "featureids", "truenodeids", "falsenodeids")
    modes = known.get("nodes_modes", Attribute()).texts
    values = count("nodes_values") + count("nodes_values_as_tensor")
    if (
        not nodes
        or any(len(whole(f"nodes_{name}")) != nodes for name in lists)
        or len(modes) != nodes
        or values != nodes
    ):
        return "lists of nodes that differ in length"
    weights = count(f"{votes}_weights") + count(f"{votes}_weights_as_tensor")
    ids = whole(f"{votes}_ids")
    if any(len(whole(f"{votes}_{name}")) != len(ids) for name in ("treeids", "nodeids")) or (
        weights != len(ids)
    ):
        return "lists of leaves that differ in length"
    targets = known.get("n_targets", Attribute()).number
    if votes == "class":
        targets = count("classlabels_strings") + count("classlabels_int64s")
    if not _within(ids, targets):
        return "a leaf for a target that is not there"
    # The runtime holds both as 32 bits.
    if not _within(tree, 1 << 31) or not _within(node, nodes):
        return "a node whose number is none"
    keys = tree * nodes + node
    order = np.argsort(keys, kind="stable")
    if (np.diff(keys[order]) == 0).any():
        return "two nodes of one number"
    is_leaf = np.array([mode == _LEAF for mode in modes])
    sides = []
    for side in ("true", "false"):
        wanted = tree * nodes + whole(f"nodes_{side}nodeids")
        there = _within(whole(f"nodes_{side}nodeids")[~is_leaf], nodes)
        place = order[np.searchsorted(keys[order], wanted).clip(0, nodes - 1)]
        if not there or (keys[place] != wanted)[~is_leaf].any():
            return "a branch that leads nowhere"
        sides.append(np.where(is_leaf, -1, place))
    # Two branches may share a node here: that is how LightGBM's converter writes sets.
    return _fault_of_shape(whole("nodes_featureids"), np.arange(nodes), sides)


def _fault_of_shape(features: Whole, roots: Whole, sides: list[Whole]) -> str:
    if not _within(features, 1 << 31):
        return "a test of a column that is none"
    level = np.unique(roots)
    for _ in range(MAX_TREE_DEPTH):
        below = np.concatenate([side[level] for side in sides])
        level = np.unique(below[below >= 0])
        if not len(level):
            return ""
    return f"a branch that does not end within {MAX_TREE_DEPTH:,} tests"


def _within(values: Whole, end: int) -> bool:
    return not len(values) or (int(values.min()) >= 0 and int(values.max()) < end)
