"""Takes a compiled ensemble of trees apart: what comes before the trees, the trees, what follows.

Other libraries evaluate trees faster than ONNX Runtime does, and know nothing of the preprocessing
in front of them or of labels and probabilities behind. So the graph is cut before and after its
one TreeEnsemble node: the ends stay graphs, and the trees become plain arrays.

For a few rows nothing is faster than the graph in one piece, so that is kept as well. Both ways
must answer the same bits for any order of adding the leaves up: `exactly_summed` sees to it.
"""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bascule.bundle.programs import FEATURES, SUMS, open_session
from bascule.core import DType, Field, Unconvertible
from bascule.packing.compilers.trees import rounded_down
from bascule.packing.imported import Compilation

_SUM = 1
_LEQ = 0
TREE_NUMBERS = {
    "feature": "nodes_featureids",
    "true_at": "nodes_truenodeids",
    "true_is_leaf": "nodes_trueleafs",
    "false_at": "nodes_falsenodeids",
    "false_is_leaf": "nodes_falseleafs",
    "missing": "nodes_missing_value_tracks_true",
    "target": "leaf_targetids",
    "roots": "tree_roots",
}
"""The whole numbers of an ensemble by the names of `arrays_of`, and the operator's attributes."""


@dataclass(frozen=True, slots=True)
class Apart:
    """One compilation in three parts; see `bundle.programs.trees`.

    Attributes:
        inputs: What the first part reads.
        data: All parts in one file: an uncompressed NumPy archive.
    """

    inputs: tuple[Field, ...]
    data: bytes


def take_apart(compilation: Compilation, outputs: tuple[Field, ...]) -> Apart:
    """Cut the graph of `compilation` around its trees.

    Args:
        compilation: A graph that sums trees in doubles.
        outputs: What the parts together are to give: those of the compilation, in these types.

    Raises:
        Unconvertible: There is not exactly one sum of trees in the graph, or what follows it needs
            more than the sums.
    """
    if compilation.texts is not None:
        raise Unconvertible("the graph counts words, and its trees are not taken apart")
    model = onnx.load_from_string(compilation.data)
    nodes = list(model.graph.node)
    ensemble = ensemble_of(nodes)
    fixed = {constant.name for constant in model.graph.initializer}
    after = needed(nodes, [value.name for value in model.graph.output], {ensemble.output[0]})
    names = {name for node in after for name in node.output}
    lacking = {name for node in after for name in node.input} - names - fixed
    if lacking - {"", ensemble.output[0]}:
        raise Unconvertible("what follows the trees needs more than their sums")
    arrays, targets = arrays_of(ensemble)
    weight = exactly_summed(arrays["weight"], arrays["target"], len(arrays["roots"]))
    in_one_piece = _with_weights(nodes, ensemble, weight)
    arrays["weight"] = weight
    tensor, is_float = source_of(nodes, ensemble.input[0], compilation.inputs)
    _set_thresholds(arrays, is_float)
    inputs = compilation.inputs
    if tensor == inputs[0].name and len(inputs) == 1:
        inputs = (replace(inputs[0], dtype=DType.FP32 if is_float else inputs[0].dtype),)
        columns = inputs[0].shape[0]
        takes, in_one_piece = _from_features(in_one_piece, inputs[0], columns)
    else:
        takes = list(model.graph.input)
        before = needed(nodes, [tensor], set())
        kind = TensorProto.FLOAT if is_float else TensorProto.DOUBLE
        arrays["before"] = part_of(model, before, model.graph.input, [(tensor, FEATURES, kind)])
        columns = width_of(arrays["before"].tobytes(), inputs)
    arrays["columns"] = np.array([columns], np.int32)
    gives = _declared(compilation.outputs, outputs, model)
    arrays["whole"] = part_of(model, in_one_piece, takes, gives)
    sums = helper.make_tensor_value_info(SUMS, TensorProto.DOUBLE, [None, targets])
    for node in after:
        node.input[:] = [SUMS if name == ensemble.output[0] else name for name in node.input]
    arrays["after"] = part_of(model, after, [sums], gives)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return Apart(inputs, file.getvalue())


def ensemble_of(nodes: list[onnx.NodeProto]) -> onnx.NodeProto:
    """The one sum of trees in doubles; raises `Unconvertible` where there is none, or another."""
    ensembles = [node for node in nodes if node.op_type.startswith("TreeEnsemble")]
    if len(ensembles) != 1 or ensembles[0].op_type != "TreeEnsemble":
        raise Unconvertible("the graph is not one sum of trees in doubles")
    return ensembles[0]


def _set_thresholds(arrays: dict[str, NDArray[np.generic]], is_float: bool) -> None:
    """Floats where those decide as the doubles do, else the doubles under another name."""
    doubles = arrays["threshold"].astype(np.float64)
    # A float is at most t exactly when it is at most the largest float that is at most t.
    floats = rounded_down(doubles)
    if is_float or (floats == doubles).all():
        arrays["threshold"] = floats
        return
    arrays["double_threshold"] = arrays.pop("threshold")


def exactly_summed(weight: NDArray[Any], target: NDArray[Any], trees: int) -> NDArray[np.float64]:
    """The weights of leaves as floats of which doubles hold every sum exactly, in any order.

    A double has 53 bits. So it holds every partial sum where all weights are multiples of one unit,
    the 2**-53th part of a power of two that no sum exceeds. Most floats are such multiples; those
    that are too small for it are rounded to one, by no more than doubles would have been off.

    Args:
        weight: One per leaf, finite.
        target: Which sum it is added to, one per leaf.
        trees: How many leaves are added up at most.

    Raises:
        Unconvertible: The sums may be larger than a double.
    """
    with np.errstate(over="ignore"):
        floats = weight.astype(np.float32).astype(np.float64)
    for one in np.unique(target):
        own = target == one
        largest = float(np.abs(floats[own]).max()) * trees
        if not largest < 2.0**1000:
            raise Unconvertible("the weights of the leaves are no sums of doubles")
        if largest > 0:
            # Twice the largest sum, for the rounding may make it larger.
            _, exponent = math.frexp(2 * largest)
            unit = math.ldexp(1.0, exponent - 53)
            floats[own] = np.round(floats[own] / unit) * unit
    return floats


def _with_weights(
    nodes: list[onnx.NodeProto], ensemble: onnx.NodeProto, weight: NDArray[np.float64]
) -> list[onnx.NodeProto]:
    """The nodes, and in place of the ensemble one with these weights."""
    copies = copy.deepcopy(nodes)
    (own,) = [node for node in copies if node.output[0] == ensemble.output[0]]
    for attribute in own.attribute:
        if attribute.name == "leaf_weights":
            attribute.t.CopyFrom(numpy_helper.from_array(weight, attribute.t.name))
    return copies


def _from_features(
    nodes: list[onnx.NodeProto], features: Field, columns: int
) -> tuple[list[onnx.ValueInfoProto], list[onnx.NodeProto]]:
    """What is left of the nodes where the trees' features are the only input, and that input."""
    (ensemble,) = [node for node in nodes if node.op_type == "TreeEnsemble"]
    kind = TensorProto.FLOAT if features.dtype is DType.FP32 else TensorProto.DOUBLE
    takes = helper.make_tensor_value_info(features.name, kind, [None, columns])
    ends = {name for node in nodes for name in node.output}
    ends -= {name for node in nodes for name in node.input}
    rest = needed(nodes, ends, {ensemble.input[0], features.name})
    if kind == TensorProto.DOUBLE:
        ensemble.input[0] = features.name
        return [takes], rest
    widened = helper.make_node(
        "Cast", [features.name], [ensemble.input[0]], name="features_widened", to=TensorProto.DOUBLE
    )
    return [takes], [widened, *rest]


def needed(
    nodes: list[onnx.NodeProto], wanted: Iterable[str], given: set[str]
) -> list[onnx.NodeProto]:
    """The nodes that compute the wanted tensors, in order, from what is given."""
    open_names = set(wanted) - given
    kept = []
    for node in reversed(nodes):
        if open_names & set(node.output):
            kept.append(node)
            open_names |= set(node.input) - given
    return kept[::-1]


def source_of(
    nodes: list[onnx.NodeProto], tensor: str, inputs: tuple[Field, ...]
) -> tuple[str, bool]:
    """Where the trees' features come from, and whether all that they can be is floats."""
    makers = {name: node for node in nodes for name in node.output}
    if _casts_to(makers.get(tensor), TensorProto.DOUBLE):
        rounded = makers[tensor].input[0]
        if _casts_to(makers.get(rounded), TensorProto.FLOAT):
            source = makers[rounded].input[0]
            is_matrix = len(inputs) == 1 and inputs[0].name == source and inputs[0].dtype.is_float
            return (source if is_matrix else rounded), True
        if len(inputs) == 1 and inputs[0].name == rounded and inputs[0].dtype is DType.FP32:
            return rounded, True
    return tensor, False


def _casts_to(node: onnx.NodeProto | None, kind: int) -> bool:
    return (
        node is not None
        and node.op_type == "Cast"
        and any(said.name == "to" and said.i == kind for said in node.attribute)
    )


def width_of(before: bytes, inputs: tuple[Field, ...]) -> int:
    """How many features a graph makes of a row."""
    session = open_session(before, "the part before the trees")
    read = {node.name for node in session.get_inputs()}
    row = {
        field.name: np.full(
            (1, *field.shape), "" if field.dtype is DType.BYTES else 0, field.dtype.numpy
        )
        for field in inputs
        if field.name in read
    }
    return int(session.run([FEATURES], row)[0].shape[1])


def arrays_of(ensemble: onnx.NodeProto) -> tuple[dict[str, NDArray[np.generic]], int]:
    """The tests and leaves of a sum of trees, as `bundle.programs.trees` has them, and its targets.

    Raises:
        Unconvertible: The trees are not summed, or a test is not `at most`.
    """
    said = {a.name: helper.get_attribute_value(a) for a in ensemble.attribute}
    modes = numpy_helper.to_array(said["nodes_modes"])
    said.setdefault(TREE_NUMBERS["missing"], np.zeros(len(modes), np.int32))
    if said.get("aggregate_function", _SUM) != _SUM or said.get("post_transform", 0) != 0:
        raise Unconvertible("the trees are not summed as they are")
    if (modes != _LEQ).any():
        raise Unconvertible("a test of the trees is not `at most`")
    arrays: dict[str, NDArray[np.generic]] = {
        name: np.asarray(said[attribute], np.int32) for name, attribute in TREE_NUMBERS.items()
    }
    arrays["threshold"] = numpy_helper.to_array(said["nodes_splits"]).astype(np.float64)
    arrays["weight"] = numpy_helper.to_array(said["leaf_weights"]).astype(np.float64)
    return arrays, int(said["n_targets"])


def _declared(
    made: tuple[Field, ...], wanted: tuple[Field, ...], model: onnx.ModelProto
) -> list[tuple[str, str, int]]:
    if [field.name for field in made] != [field.name for field in wanted]:
        raise Unconvertible("the graph gives other outputs")
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.output}
    declared = []
    for field, asked in zip(made, wanted, strict=True):
        kind = kinds[field.name]
        if field.dtype is not asked.dtype:
            if asked.dtype is not DType.FP32:
                raise Unconvertible("the graph gives outputs of other types")
            kind = TensorProto.FLOAT
        declared.append((field.name, field.name, kind))
    return declared


def part_of(
    model: onnx.ModelProto,
    nodes: list[onnx.NodeProto],
    inputs: Iterable[onnx.ValueInfoProto],
    outputs: list[tuple[str, str, int]],
) -> NDArray[np.uint8]:
    """A graph of its own, as bytes: outputs are (tensor, name, element type), cast as needed."""
    last = []
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.output}
    for tensor, name, kind in outputs:
        inner = f"{tensor}_as_made"
        if kinds.get(tensor, kind) == kind:
            last.append(helper.make_node("Identity", [inner], [name], name=f"{name}_last"))
        else:
            last.append(helper.make_node("Cast", [inner], [name], name=f"{name}_last", to=kind))
        for node in nodes:
            node.input[:] = [inner if used == tensor else used for used in node.input]
            node.output[:] = [inner if used == tensor else used for used in node.output]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        [*nodes, *last],
        "part",
        list(inputs),
        [helper.make_tensor_value_info(name, kind, None) for _, name, kind in outputs],
        [constant for constant in model.graph.initializer if constant.name in used],
    )
    part = helper.make_model(
        graph,
        producer_name="bascule",
        ir_version=model.ir_version,
        opset_imports=list(model.opset_import),
    )
    return np.frombuffer(part.SerializeToString(deterministic=True), np.uint8)
