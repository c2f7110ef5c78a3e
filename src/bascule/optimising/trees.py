"""Sums of trees: fewer trees, smaller trees, numbers in floats.

The trees are those of the graph's one TreeEnsemble, so any library's will do. Rows say which parts
matter: two leaves become their mean where that changes the answers to the rows little (the cost of
cost-complexity pruning, Breiman et al. 1984, with the ensemble's own answers as the truth). The
leaves of the first trees are fitted again to the sum of all trees (after Ren et al. 2015, "Global
refinement of random forest"). No truth is used, so nothing is fitted to a metric.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bascule.bundle import for_program
from bascule.bundle.disk import ProgramEntry
from bascule.bundle.programs import open_kind
from bascule.core import Columns, DType, Field
from bascule.packing.compilers import TREE_NUMBERS, arrays_of, ensemble_of, rounded_down

FIRST = tuple({"trees": share, "error": 1e-5} for share in (1.0, 0.8, 0.65, 0.55, 0.5, 0.45))
"""Tried before the search draws: of boosted trees, a half with small leaves merged did best."""
_FEATURES = "features_of_trees"
_ERRORS = (0.0, 1e-6, 1e-5, 3e-5, 1e-4)
_SWEEPS = 20
_SHRINKAGE_ROWS = 5
_SAME = 1e-6
_ENDS = ("true_at", "true_is_leaf", "false_at", "false_is_leaf")
_Arrays = dict[str, NDArray[Any]]


def applies(model: onnx.ModelProto) -> bool:
    return any(node.op_type == "TreeEnsemble" for node in model.graph.node)


def suggest(trial: Any, **_options: bool) -> dict[str, Any]:
    """A point: the share of trees that is kept, and of the variance that merging may cost."""
    return {
        "trees": round(trial.suggest_float("trees", 0.1, 1.0, step=0.05), 2),
        "error": trial.suggest_categorical("error", _ERRORS),
    }


def make(
    model: onnx.ModelProto, settings: Mapping[str, Any], entry: ProgramEntry, rows: Columns
) -> bytes:
    """The graph with a smaller ensemble, in floats; `rows` are in the signature's dtypes.

    Raises `Unconvertible` where the trees are not summed as they are.
    """
    model = copy.deepcopy(model)
    ensemble = ensemble_of(list(model.graph.node))
    arrays, targets = arrays_of(ensemble)
    if not any(field.nullable for field in entry.inputs):
        arrays["missing"][:] = 0  # then it need not be written
    splits = next(own.t for own in ensemble.attribute if own.name == "nodes_splits")
    features = _features(model, ensemble.input[0], splits.data_type, entry, rows)
    leaves = _leaves(arrays, features)
    everything = _sums(arrays, leaves, targets)
    # The trees of one round are beside each other, one for each target.
    width = targets if len(leaves) % targets == 0 else 1
    arrays["roots"] = arrays["roots"][
        : max(1, round(settings["trees"] * len(leaves) / width)) * width
    ]
    variation = float(((everything - everything.mean(0)) ** 2).sum())
    arrays = _smaller(arrays, leaves, settings["error"] * variation)
    _refit(arrays, _leaves(arrays, features), everything)
    totals = everything.sum(1)
    is_share = targets > 1 and everything.min() >= 0 and np.ptp(totals) < _SAME
    _write(ensemble, arrays)
    _put_beside(model, ensemble, splits.data_type, float(totals[0]) if is_share else 0.0)
    return bytes(model.SerializeToString(deterministic=True))


def _features(
    model: onnx.ModelProto, tensor: str, kind: int, entry: ProgramEntry, rows: Columns
) -> NDArray[np.float64]:
    """What the ensemble reads of the rows, shape (rows, features); `kind` is its type in ONNX."""
    model = copy.deepcopy(model)
    model.graph.node.add(op_type="Identity", input=[tensor], output=[_FEATURES])
    model.graph.output.append(helper.make_tensor_value_info(_FEATURES, kind, [None, None]))
    dtype = DType.FP32 if kind == TensorProto.FLOAT else DType.FP64
    outputs = (Field(_FEATURES, dtype, (-1,)),)
    program = open_kind(entry, model.SerializeToString(), outputs=outputs)
    answers = program.run(for_program(rows, program.inputs), [_FEATURES])
    return np.asarray(answers[_FEATURES], np.float64)


def _leaves(arrays: _Arrays, features: NDArray[np.float64]) -> NDArray[np.int64]:
    """The leaf that each row comes to in each tree, shape (trees, rows)."""
    leaves = np.repeat(arrays["roots"].astype(np.int64)[:, None], len(features), axis=1)
    for places in leaves:
        under_way = np.arange(len(features))
        while len(under_way):
            nodes = places[under_way]
            values = features[under_way, arrays["feature"][nodes]]
            passes = values <= arrays["threshold"][nodes]
            passes |= np.isnan(values) & (arrays["missing"][nodes] == 1)
            ends = [arrays[name][nodes] for name in _ENDS]
            places[under_way] = np.where(passes, ends[0], ends[2])
            under_way = under_way[np.where(passes, ends[1], ends[3]) == 0]
    return leaves


def _sums(arrays: _Arrays, leaves: NDArray[np.int64], targets: int) -> NDArray[np.float64]:
    """What the trees add up to, shape (rows, targets)."""
    sums = np.zeros((leaves.shape[1], targets))
    for own in leaves:
        sums[np.arange(len(sums)), arrays["target"][own]] += arrays["weight"][own]
    return sums


def _smaller(arrays: _Arrays, leaves: NDArray[np.int64], limit: float) -> _Arrays:
    """What is under the roots, with two leaves made one where the squared change is within limit.

    A leaf that no row comes to costs nothing, and goes first. A root stays: the operator has no
    tree without a test.
    """
    counts = np.bincount(leaves.ravel(), minlength=len(arrays["weight"]))
    tests, kept = list[list[float]](), list[tuple[float, int, int]]()

    def lay_out(at: int, is_leaf: int, depth: int = 0) -> tuple[int, int]:
        if is_leaf:
            kept.append((arrays["weight"][at], arrays["target"][at], int(counts[at])))
            return len(kept) - 1, 1
        own = [float(arrays[name][at]) for name in ("feature", "threshold", "missing")]
        place = len(tests)
        tests.append(own)
        ends = [int(arrays[name][at]) for name in _ENDS]
        true = lay_out(ends[0], ends[1], depth + 1)
        false = lay_out(ends[2], ends[3], depth + 1)
        if depth and limit and true[1] and false[1]:
            (a, target, n), (b, _, m) = kept[-2:]
            if n * m * (a - b) ** 2 <= limit * (n + m):
                mean = np.average([a, b], weights=[n or 1e-9, m or 1e-9])
                kept[-2:] = [(float(mean), target, n + m)]
                tests.pop()
                return len(kept) - 1, 1
        own += [*true, *false]
        return place, 0

    roots = [lay_out(int(root), 0)[0] for root in arrays["roots"]]
    names = ("feature", "threshold", "missing", *_ENDS)
    columns = dict(zip(names, np.array(tests).T, strict=True))
    threshold = columns.pop("threshold")
    weight, target, _ = (np.array(column) for column in zip(*kept, strict=True))
    whole = {name: column.astype(np.int64) for name, column in columns.items()}
    ends = {"threshold": threshold, "weight": weight, "target": target, "roots": np.array(roots)}
    return {**whole, **ends}


def _refit(arrays: _Arrays, leaves: NDArray[np.int64], everything: NDArray[np.float64]) -> None:
    """Scale all leaves by least squares, then move each by what its rows lack (backfitting).

    The factor is for averaged trees, and reaches leaves that no row comes to.
    """
    sums = _sums(arrays, leaves, everything.shape[1])
    square = float((sums**2).sum())
    arrays["weight"] *= float((sums * everything).sum()) / square if square else 1.0
    lacking = everything - _sums(arrays, leaves, everything.shape[1])
    for own in [*leaves] * _SWEEPS:
        target = arrays["target"][own[0]]
        count = len(arrays["weight"])
        amount = np.bincount(own, weights=lacking[:, target], minlength=count)
        step = amount / (np.bincount(own, minlength=count) + _SHRINKAGE_ROWS)
        arrays["weight"] += step
        lacking[:, target] -= step[own]


def _write(ensemble: onnx.NodeProto, arrays: _Arrays) -> None:
    """Put the trees in place of the ensemble's own, in floats."""
    splits, weights = rounded_down(arrays["threshold"]), arrays["weight"].astype(np.float32)
    modes = np.zeros(len(splits), np.uint8)
    changed: dict[str, Any] = {
        "nodes_splits": numpy_helper.from_array(splits, "splits"),
        "nodes_modes": numpy_helper.from_array(modes, "modes"),
        "leaf_weights": numpy_helper.from_array(weights, "weights"),
    }
    for name, attribute in TREE_NUMBERS.items():
        if name != "missing" or arrays[name].any():  # it is optional, and 0 by default
            changed[attribute] = arrays[name].tolist()
    rest = [own for own in ensemble.attribute if own.name[:5] not in ("nodes", "leaf_", "tree_")]
    changes = [helper.make_attribute(name, value) for name, value in changed.items()]
    del ensemble.attribute[:]
    ensemble.attribute.extend([*rest, *changes])


def _put_beside(model: onnx.ModelProto, ensemble: onnx.NodeProto, kind: int, total: float) -> None:
    """Casts on both sides; and votes of a forest, which have a total, keep it, none below 0."""
    source, answer = ensemble.input[0], ensemble.output[0]
    ensemble.input[0], ensemble.output[0] = f"{source}_float", f"{answer}_float"
    before = helper.make_node("Cast", [source], ensemble.input, to=TensorProto.FLOAT)
    last, votes = ensemble.output[0], list[onnx.NodeProto]()
    if total:
        last, (positive, share, sum_) = f"{answer}_votes", (f"{answer}_{n}" for n in range(3))
        model.graph.initializer.append(numpy_helper.from_array(np.array([total], np.float32), sum_))
        votes = [
            helper.make_node("Relu", ensemble.output, [positive]),
            helper.make_node("LpNormalization", [positive], [share], axis=1, p=1),
            helper.make_node("Mul", [share, sum_], [last]),
        ]
    after = helper.make_node("Cast", [last], [answer], to=kind)
    nodes = list(model.graph.node)
    at = nodes.index(ensemble)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:at], before, ensemble, *votes, after, *nodes[at + 1 :]])
