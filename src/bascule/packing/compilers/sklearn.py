"""The ways to compile one scikit-learn model, the best first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bascule.core import DType, Field, Signature, Unconvertible
from bascule.packing.compilers import predictors, trees
from bascule.packing.compilers.graph import MISSING_TEXT, Context, Graph
from bascule.packing.compilers.predictors import Outcome, flat
from bascule.packing.compilers.steps import transform
from bascule.packing.compilers.values import (
    DATE,
    NUMBER,
    TEXT,
    Part,
    Value,
    label_dtype,
    numbers,
)
from bascule.packing.imported import Compilation


def compilations(
    model: Any, signature: Signature, *, sparse: bool = False
) -> Iterator[Compilation]:
    """Compile `model` in one way after another; the caller takes the first that is equal.

    Args:
        model: A fitted estimator or pipeline.
        signature: What it takes.
        sparse: Whether a pipeline hands its last step a sparse matrix.

    Raises:
        Unconvertible: No way is left, and none succeeded before.
    """
    steps, last = predictors.taken_apart(model)
    made = None if steps else _float_trees(last, signature)
    if made is not None:
        yield made
    problem: Unconvertible | None = None
    count = 0
    seen: set[bytes] = set()
    for foreign in (DType.FP64, DType.FP32):
        try:
            compiled = _in_double(steps, last, signature, foreign, sparse)
        except Unconvertible as found:
            problem = problem or found
            continue
        if compiled.data not in seen:
            seen.add(compiled.data)
            count += 1
            yield compiled
    if problem is not None and not count and made is None:
        raise problem


def _in_double(
    steps: list[Any], last: Any, signature: Signature, foreign: DType, sparse: bool
) -> Compilation:
    inputs = tuple(_as_read(field) for field in signature.inputs)
    graph = Graph(inputs)
    context = Context(graph, foreign, sparse)
    value = _columns(graph, signature.inputs)
    for step in steps:
        value = transform(context, step, value)
    outcome = predictors.predict(context, last, value)
    if outcome.targets:
        outputs = declare_each(graph, signature.outputs, *_in_order(outcome, last, signature))
    else:
        outputs = declare(graph, outcome, _classes(last, signature))
    if [field.name for field in outputs] != [field.name for field in signature.outputs]:
        raise Unconvertible(
            f"the graph of {type(last).__name__} gives "
            f"{', '.join(field.name for field in outputs)} alone"
        )
    has_text = any(field.dtype is DType.BYTES for field in inputs)
    return Compilation(
        "float64" if foreign is DType.FP64 else "float64, last steps in float32",
        graph.finish(),
        inputs,
        outputs,
        MISSING_TEXT if has_text else None,
        graph.texts,
        rounding=graph.rounding,
        shares=graph.shares_of_one,
    )


def _float_trees(model: Any, signature: Signature) -> Compilation | None:
    """A bare classifier of trees on a matrix: one operator in floats, which it rounds to anyway."""
    kind = f"{type(model).__module__.split('._')[0]}.{type(model).__qualname__}"
    is_boosted = kind == "sklearn.ensemble.GradientBoostingClassifier"
    is_forest = kind in (
        "sklearn.ensemble.RandomForestClassifier",
        "sklearn.ensemble.ExtraTreesClassifier",
        "sklearn.tree.DecisionTreeClassifier",
        "sklearn.tree.ExtraTreeClassifier",
    )
    has_one_output = getattr(model, "n_outputs_", 1) == 1
    if not (signature.is_matrix and (is_boosted or is_forest) and has_one_output):
        return None
    try:
        boosted = predictors.boosted_trees(model) if is_boosted else None
    except Unconvertible:
        return None
    inputs = (replace(signature.inputs[0], dtype=DType.FP32),)
    graph = Graph(inputs)
    classes = np.asarray(model.classes_)
    by_index = classes.dtype.kind not in "iu"
    labels = list(range(len(classes))) if by_index else [int(c) for c in classes]
    tensor = inputs[0].name
    if boosted is not None:
        made, base = boosted
        post = "LOGISTIC" if len(labels) == 2 else "SOFTMAX"
        label, scores = trees.classify_in_float(
            graph, tensor, made, classes=labels, base=base, post_transform=post
        )
    else:
        # Sums of whole shares are exact, so the label of a tie is the original's. The operator's
        # own label is not: of two classes it takes the second when its score is over a half.
        made = predictors.forest_trees(model)
        _, scores = trees.classify_in_float(
            graph, tensor, made, classes=range(len(classes)), base=[], post_transform="NONE"
        )
        label = graph.add("ArgMax", scores, axis=1, keepdims=0)
        by_index = True
        if len(made) > 1:
            scores = graph.add("Div", scores, graph.constant(float(len(made)), np.float32))
    outputs = (_label_field(classes), Field("probabilities", DType.FP32, (len(classes),)))
    graph.output(_labels(graph, label, classes) if by_index else label, outputs[0])
    graph.output(scores, outputs[1])
    return Compilation("float32", graph.finish(), inputs, outputs, None)


def _classes(last: Any, signature: Signature) -> Any:
    """The labels of a classifier; for clusters, the numbers that their probabilities have."""
    shares = [field.shape[0] for field in signature.outputs if field.name == "probabilities"]
    return getattr(last, "classes_", np.arange(shares[0] if shares else 1))


def _as_read(field: Field) -> Field:
    """Numbers are computed with in doubles, so they are best parsed into doubles."""
    if field.dtype in (DType.BYTES, DType.BOOL):
        return field
    return replace(field, dtype=DType.FP64)


def _columns(graph: Graph, inputs: tuple[Field, ...]) -> Value:
    """The inputs of a signature, which are read as doubles, as the first step is given them."""
    if len(inputs) == 1 and len(inputs[0].shape) == 1:
        tensor = inputs[0].name
        if inputs[0].dtype is DType.BOOL:
            tensor = graph.cast(tensor, DType.FP64)
        return numbers(tensor, inputs[0].shape[0], single=inputs[0].dtype is DType.FP32)
    parts = []
    for field in inputs:
        tensor = field.name
        if field.dtype is DType.BOOL:
            tensor = graph.cast(tensor, DType.FP64)
        kind = TEXT if field.dtype is DType.BYTES else NUMBER
        kind = kind if field.dates is None else DATE
        part = Part(tensor, kind, flat=True, single=field.dtype is DType.FP32)
        parts.append(part)
    return tuple(parts)


def declare(
    graph: Graph,
    outcome: Outcome,
    classes: Any,
    dtype: DType = DType.FP64,
    prediction: str = "prediction",
) -> tuple[Field, ...]:
    """Make what the last step gives the outputs of the graph, numbers in `dtype`.

    `prediction` is what a number is called.
    """

    def number(tensor: str, field: Field) -> Field:
        graph.output(tensor if dtype is DType.FP64 else graph.cast(tensor, dtype), field)
        return field

    if outcome.prediction is not None:
        return (number(outcome.prediction, Field(prediction, dtype)),)
    assert outcome.index is not None
    if outcome.is_detection:
        assert outcome.decision is not None
        label = Field("label", DType.INT64)
        graph.output(graph.add("Gather", [-1, 1], outcome.index), label)
        return label, number(flat(graph, outcome.decision), Field("score", dtype))
    classes = np.asarray(classes)
    fields = [_label_field(classes)]
    graph.output(_labels(graph, outcome.index, classes), fields[0])
    if outcome.probabilities is not None:
        shares = Field("probabilities", dtype, (len(classes),))
        fields.append(number(outcome.probabilities, shares))
    return tuple(fields)


def _in_order(outcome: Outcome, last: Any, signature: Signature) -> tuple[list[Outcome], list[Any]]:
    """For each output of the signature, the target that it is of, and the classes of that."""
    kinds = [field.name.partition(".")[0] for field in signature.outputs]
    places = [kinds[:place].count(kind) for place, kind in enumerate(kinds)]
    known = last.classes_ if "label" in kinds else [()] * len(places)
    return [outcome.targets[place] for place in places], [known[place] for place in places]


def declare_each(
    graph: Graph, fields: Sequence[Field], targets: Sequence[Outcome], classes: Sequence[Any]
) -> tuple[Field, ...]:
    """Make what is given for the targets the outputs of the graph, by the names of `fields`.

    `targets` and `classes` are those of each field: `label.NAME`, `probabilities.NAME` or a number.
    """
    for field, target, labels in zip(fields, targets, classes, strict=True):
        kind = field.name.partition(".")[0]
        if kind == "label" and target.index is not None:
            graph.output(_labels(graph, target.index, np.asarray(labels)), field)
            continue
        tensor = target.probabilities if kind == "probabilities" else target.prediction
        if tensor is None:
            raise Unconvertible(f"the graph lacks {field.name}")
        tensor = tensor if field.dtype is DType.FP64 else graph.cast(tensor, field.dtype)
        graph.output(tensor, field)
    return tuple(fields)


def _label_field(classes: Any) -> Field:
    return Field("label", label_dtype(classes))


def _labels(graph: Graph, index: str, classes: Any) -> str:
    dtype = label_dtype(classes)
    if dtype is DType.INT64 and list(classes) == list(range(len(classes))):
        return index
    known = np.asarray(classes).astype(dtype.numpy)
    return graph.add("Gather", graph.constant(known, known.dtype), index)
