"""Sums of trees: fewer trees, smaller trees, numbers in floats.

The trees are those of the graph's one TreeEnsemble, so any library's will do. Rows say which parts
matter: two leaves become their mean where that changes the answers to the rows little (the cost of
cost-complexity pruning, Breiman et al. 1984, with the ensemble's own answers as the truth). The
first trees are kept, with one factor for all targets and a constant for each, by least squares
against the sum of all trees; and the leaves are fitted again to that sum (after Ren et al. 2015,
"Global refinement of random forest"). No truth is used, so a metric is not fitted to.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bascule.bundle import for_program
from bascule.bundle.disk import ProgramEntry
from bascule.bundle.programs import open_kind
from bascule.core import Columns, DType, Field
from bascule.packing.compilers import arrays_of, ensemble_of, rounded_down

_FEATURES = "features_of_trees"
_SAME = 1e-6
_SWEEPS = 20
_SHRINKAGE_ROWS = 5
_ERRORS = (0.0, 1e-7, 1e-6, 1e-5, 3e-5, 1e-4, 3e-4)


def applies(model: onnx.ModelProto) -> bool:
    return any(node.op_type == "TreeEnsemble" for node in model.graph.node)


def suggest(trial: Any, **_options: bool) -> dict[str, Any]:
    """A point of the space, drawn by Optuna."""
    return {
        "trees": round(trial.suggest_float("trees", 0.1, 1.0, step=0.05), 2),
        "error": trial.suggest_categorical("error", _ERRORS),
        "numbers": trial.suggest_categorical("numbers", ("float32", "float64")),
    }


def make(
    model: onnx.ModelProto, settings: Mapping[str, Any], entry: ProgramEntry, rows: Columns
) -> bytes:
    """The graph with a smaller ensemble.

    Args:
        model: Has one TreeEnsemble.
        settings: `trees`, the share that is kept; `error`, the share of the variance of the
            answers that merging two leaves may cost; `numbers`, in which thresholds and leaves are.
        entry: How the graph reads columns.
        rows: In the signature's dtypes; they weigh the parts of the trees.

    Raises:
        Unconvertible: The trees are not summed as they are.
    """
    model = copy.deepcopy(model)
    ensemble = ensemble_of(list(model.graph.node))
    arrays, targets = arrays_of(ensemble)
    features = _features(model, ensemble.input[0], entry, rows)
    trees = [_read(arrays, int(root), False, features) for root in arrays["roots"]]
    everything = _sums(trees, features, targets)
    trees, constants = _first(trees, settings["trees"], everything, features)
    limit = settings["error"] * float(((everything - everything.mean(0)) ** 2).sum())
    tests = _with_tests([_pruned(tree, limit) for tree in trees], constants)
    _refit(tests, everything, features)
    answer = ensemble.output[0]
    _write(model, ensemble, tests, is_float=settings["numbers"] == "float32")
    if targets > 1 and everything.min() >= 0 and np.ptp(everything.sum(1)) < _SAME:
        _as_shares(model, answer, float(everything.sum(1).mean()))
    return bytes(model.SerializeToString(deterministic=True))


def _features(
    model: onnx.ModelProto, tensor: str, entry: ProgramEntry, rows: Columns
) -> NDArray[np.float64]:
    """What the ensemble reads of the rows, shape (rows, features)."""
    asked = copy.deepcopy(model)
    asked.graph.node.add(op_type="Identity", input=[tensor], output=[_FEATURES])
    value = helper.make_tensor_value_info(_FEATURES, TensorProto.DOUBLE, [None, None])
    asked.graph.output.append(value)
    outputs = (Field(_FEATURES, DType.FP64, (-1,)),)
    program = open_kind(entry, asked.SerializeToString(), outputs=outputs)
    return np.asarray(program.run(for_program(rows, program.inputs), [_FEATURES])[_FEATURES])


@dataclass(slots=True)
class _Leaf:
    """What is added to a target, and how many rows came here."""

    weight: float
    target: int
    count: int = 0


@dataclass(slots=True)
class _Test:
    feature: int
    threshold: float
    missing: bool
    true: _Part
    false: _Part

    def passes(self, features: NDArray[np.float64]) -> NDArray[np.bool_]:
        values = features[:, self.feature]
        return (values <= self.threshold) | (np.isnan(values) & self.missing)


_Part = _Leaf | _Test


def _read(
    arrays: Mapping[str, NDArray[Any]], at: int, is_leaf: bool, features: NDArray[np.float64]
) -> _Part:
    """A node or leaf of the operator with all under it; `features` are of the rows that come."""
    if is_leaf:
        return _Leaf(float(arrays["weight"][at]), int(arrays["target"][at]), len(features))
    test = _Test(
        int(arrays["feature"][at]), float(arrays["threshold"][at]), bool(arrays["missing"][at]),
        _Leaf(0, 0), _Leaf(0, 0),
    )  # fmt: skip
    passes = test.passes(features)
    for side, rows in (("true", features[passes]), ("false", features[~passes])):
        ends = int(arrays[f"{side}_at"][at]), bool(arrays[f"{side}_is_leaf"][at])
        setattr(test, side, _read(arrays, *ends, rows))
    return test


def _leaves(part: _Part) -> list[_Leaf]:
    return [part] if isinstance(part, _Leaf) else [*_leaves(part.true), *_leaves(part.false)]


def _reached(
    part: _Part, features: NDArray[Any], rows: NDArray[Any]
) -> list[tuple[_Leaf, NDArray[Any]]]:
    """Each leaf, with the rows that come to it."""
    if isinstance(part, _Leaf):
        return [(part, rows)]
    passes = part.passes(features[rows])
    return [
        *_reached(part.true, features, rows[passes]),
        *_reached(part.false, features, rows[~passes]),
    ]


def _sums(trees: Iterable[_Part], features: NDArray[Any], targets: int) -> NDArray[np.float64]:
    """What the trees add up to, shape (rows, targets)."""
    sums = np.zeros((len(features), targets))
    for tree in trees:
        for leaf, rows in _reached(tree, features, np.arange(len(features))):
            sums[rows, leaf.target] += leaf.weight
    return sums


def _refit(trees: Sequence[_Part], everything: NDArray[Any], features: NDArray[Any]) -> None:
    """Move each leaf by the mean of what its rows lack, tree after tree (backfitting)."""
    lacking = everything - _sums(trees, features, everything.shape[1])
    reached = [_reached(tree, features, np.arange(len(features))) for tree in trees]
    for _ in range(_SWEEPS):
        for leaf, rows in itertools.chain(*reached):
            step = float(lacking[rows, leaf.target].sum()) / (len(rows) + _SHRINKAGE_ROWS)
            leaf.weight += step
            lacking[rows, leaf.target] -= step


def _first(
    trees: list[_Part], share: float, everything: NDArray[Any], features: NDArray[Any]
) -> tuple[list[_Part], NDArray[np.float64]]:
    """The first trees, scaled to be nearest to all on the rows, and a constant for each target."""
    targets = everything.shape[1]
    # The trees of one round are beside each other, one for each target.
    width = targets if len(trees) % targets == 0 else 1
    count = max(1, round(share * len(trees) / width)) * width
    if count >= len(trees):
        return trees, np.zeros(targets)
    kept = _sums(trees[:count], features, targets)
    centred = kept - kept.mean(0)
    spread = float((centred**2).sum())
    factor = float((centred * everything).sum()) / spread if spread else 1.0
    for tree in trees[:count]:
        for leaf in _leaves(tree):
            leaf.weight *= factor
    return trees[:count], everything.mean(0) - factor * kept.mean(0)


def _pruned(part: _Part, limit: float) -> _Part:
    """The part with two leaves made one where the squared change over all rows is within limit.

    A leaf that no row comes to costs nothing, and goes first; a limit of 0 keeps those as well.
    """
    if isinstance(part, _Leaf) or not limit:
        return part
    true, false = _pruned(part.true, limit), _pruned(part.false, limit)
    if isinstance(true, _Leaf) and isinstance(false, _Leaf):
        count = true.count + false.count
        cost = true.count * false.count * (true.weight - false.weight) ** 2
        if cost <= limit * count:
            mean = (true.weight * true.count + false.weight * false.count) / max(1, count)
            return _Leaf(mean if count else true.weight, true.target, count)
    return replace(part, true=true, false=false)


def _with_tests(trees: list[_Part], constants: NDArray[np.float64]) -> list[_Test]:
    """The trees that still test something; the others are constants, which a leaf takes along."""
    tests = [tree for tree in trees if isinstance(tree, _Test)]
    for tree in trees:
        if isinstance(tree, _Leaf):
            constants[tree.target] += tree.weight
    for target in np.flatnonzero(constants):
        if not any(_leaves(test)[0].target == target for test in tests):
            # The operator has no tree without a test.
            tests.append(_Test(0, 0.0, False, _Leaf(0, int(target)), _Leaf(0, int(target))))
        own = next(test for test in tests if _leaves(test)[0].target == target)
        for leaf in _leaves(own):
            leaf.weight += float(constants[target])
    return tests


def _write(
    model: onnx.ModelProto, ensemble: onnx.NodeProto, trees: list[_Test], *, is_float: bool
) -> None:
    """Put the trees in place of the ensemble's own; in floats, with casts on both sides."""
    tests, leaves, roots = list[list[Any]](), list[_Leaf](), list[int]()

    def lay_out(part: _Part) -> tuple[int, int]:
        if isinstance(part, _Leaf):
            leaves.append(part)
            return len(leaves) - 1, 1
        own = [part.feature, part.threshold, int(part.missing)]
        at = len(tests)
        tests.append(own)
        own += [*lay_out(part.true), *lay_out(part.false)]
        return at, 0

    roots = [lay_out(tree)[0] for tree in trees]
    feature, threshold, missing, *ends = (list(column) for column in zip(*tests, strict=True))
    splits, weights = np.array(threshold), np.array([leaf.weight for leaf in leaves])
    if is_float:
        splits, weights = rounded_down(splits), weights.astype(np.float32)
        _in_floats(model, ensemble)
    names = ("truenodeids", "trueleafs", "falsenodeids", "falseleafs")
    changed = {
        "nodes_featureids": feature,
        "nodes_splits": numpy_helper.from_array(splits, "splits"),
        "nodes_modes": numpy_helper.from_array(np.zeros(len(tests), np.uint8), "modes"),
        **{f"nodes_{name}": values for name, values in zip(names, ends, strict=True)},
        "nodes_missing_value_tracks_true": missing,
        "leaf_targetids": [leaf.target for leaf in leaves],
        "leaf_weights": numpy_helper.from_array(weights, "weights"),
        "tree_roots": roots,
    }
    if not any(missing):
        del changed["nodes_missing_value_tracks_true"]  # the operator's default
    rest = [
        own for own in ensemble.attribute if not own.name.startswith(("nodes_", "leaf_", "tree_"))
    ]
    made = [helper.make_attribute(name, value) for name, value in changed.items()]
    del ensemble.attribute[:]
    ensemble.attribute.extend([*rest, *made])


def _in_floats(model: onnx.ModelProto, ensemble: onnx.NodeProto) -> None:
    source, answer = ensemble.input[0], ensemble.output[0]
    ensemble.input[0], ensemble.output[0] = f"{source}_float", f"{answer}_float"
    casts = [
        helper.make_node("Cast", [source], [f"{source}_float"], to=TensorProto.FLOAT),
        helper.make_node("Cast", [f"{answer}_float"], [answer], to=TensorProto.DOUBLE),
    ]
    at = list(model.graph.node).index(ensemble)
    model.graph.node.insert(at, casts[0])
    model.graph.node.insert(at + 2, casts[1])


def _as_shares(model: onnx.ModelProto, answer: str, total: float) -> None:
    """Sums that are shares of a total, as the means of a forest, stay such: none below 0."""
    maker = next(node for node in model.graph.node if answer in node.output)
    maker.output[0] = f"{answer}_as_made"
    at = list(model.graph.node).index(maker) + 1
    constants = {"axis": np.array([1]), "total": np.array([total])}
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(value, f"{answer}_{name}"))
    for place, (kind, inputs, output) in enumerate(
        (
            ("Relu", ["as_made"], "_positive"),
            ("ReduceSum", ["positive", "axis"], "_sum"),
            ("Div", ["positive", "sum"], "_share"),
            ("Mul", ["share", "total"], ""),
        )
    ):
        names = [f"{answer}_{name}" for name in inputs]
        model.graph.node.insert(at + place, helper.make_node(kind, names, [answer + output]))
