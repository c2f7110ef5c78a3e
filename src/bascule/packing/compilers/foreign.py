"""Steps that have no compiler here: skl2onnx converts them one by one, and the graph is inlined.

Only the single step is handed over, with numbers in and numbers out, so that what is known to go
wrong there (mixed columns, texts, imputers, doubles before trees) is not.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

from bascule.core import DType, Unconvertible, library
from bascule.packing.compilers.graph import OPSET, Context
from bascule.packing.compilers.values import Value, numbers, numeric, width


def transform_by_skl2onnx(context: Context, step: Any, value: Value) -> Value:
    (tensor, *_), model = convert(context, step, value)
    shape = model.graph.output[0].type.tensor_type.shape.dim
    columns = shape[1].dim_value if len(shape) == 2 else 0
    if not columns:
        raise unconvertible(step)
    return numbers(context.graph.cast(tensor, DType.FP64), columns)


def convert(context: Context, step: Any, value: Value) -> tuple[list[str], Any]:
    """The tensors of a step's outputs, in doubles or in their own type, and its own graph."""
    convert_sklearn = library("skl2onnx", "sklearn").convert_sklearn
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    graph, tensor = numeric(context, step, value)
    kind = DoubleTensorType if context.foreign_dtype is DType.FP64 else FloatTensorType
    if context.foreign_dtype is DType.FP32:
        tensor = graph.cast(tensor, DType.FP32)
    options = {id(step): {"zipmap": False}} if hasattr(step, "predict_proba") else None
    logger = logging.getLogger("skl2onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            model = convert_sklearn(
                step,
                initial_types=[("x", kind([None, width(value)]))],
                options=options,
                target_opset={"": OPSET, "ai.onnx.ml": 3},
            )
    except Exception as problem:  # a converter fails in as many ways as there are converters
        raise unconvertible(step) from problem
    finally:
        logger.setLevel(level)
    return graph.inline(model, {"x": tensor}), model


def unconvertible(step: Any) -> Unconvertible:
    return Unconvertible(
        f"{type(step).__module__.partition('.')[0]}'s {type(step).__qualname__} has no converter "
        "to ONNX",
        estimator=type(step).__qualname__,
    )
