"""Networks in fewer bits: weights of 8 or 4 bits, 8-bit arithmetic, half precision, zeros.

Each way is ONNX Runtime's own. `dynamic int8` takes the scale of a product over the whole call, so
rows of one batch change each other's answers, and `pack` refuses such graphs where it sees that.
The other ways fix scales beforehand, or take one for each row.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from bascule.bundle import for_program, take
from bascule.bundle.disk import ProgramEntry
from bascule.core import Columns, Scratch

WAYS = ("int8 weights", "int4 weights", "static int8", "dynamic int8", "float16")
FIRST: tuple[dict[str, Any], ...] = (
    {"way": "int8 weights"},
    {"way": "int4 weights", "block": 32},
    {"way": "static int8", "per_channel": True},
    {"way": "float16"},
)
"""Tried before the search draws, the surest first."""
_FEWEST_WEIGHTS = 256
"""Smaller tensors, such as biases, are neither pruned nor a reason to look for fewer bits."""
_CALIBRATION_ROWS = 256
_BATCH = 32


def applies(model: onnx.ModelProto) -> bool:
    """Whether the graph multiplies by weights in floats."""
    return next(_weights(model), None) is not None


def suggest(trial: Any, *, prunes: bool) -> dict[str, Any]:
    """A point of the space, drawn by Optuna; `prunes` where zeros are tried as well."""
    settings: dict[str, Any] = {"way": trial.suggest_categorical("way", WAYS)}
    if settings["way"] == "int4 weights":
        settings["block"] = trial.suggest_categorical("block", (32, 64, 128))
    if settings["way"] in ("static int8", "dynamic int8"):
        settings["per_channel"] = trial.suggest_categorical("per_channel", (True, False))
    if prunes:
        settings["zeros"] = trial.suggest_categorical("zeros", (0.0, 0.3, 0.5, 0.7))
    return settings


def make(
    model: onnx.ModelProto, settings: Mapping[str, Any], entry: ProgramEntry, rows: Columns
) -> bytes:
    """The graph in fewer bits; `rows`, in the signature's dtypes, are for `static int8`."""
    from onnxruntime.quantization import QuantType, quantize_static

    model, way = copy.deepcopy(model), settings["way"]
    del model.graph.value_info[:]  # shapes of tensors that ONNX Runtime turns on the way
    _prune(model, settings.get("zeros", 0.0))
    if way == "float16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        return _bytes(convert_float_to_float16(model, keep_io_types=True))
    if way in ("int8 weights", "int4 weights"):
        return _few_bits(model, 8 if way == "int8 weights" else 4, settings.get("block", 64))
    if way == "dynamic int8":
        return _bytes(_made(model, per_channel=settings["per_channel"]))
    ready = for_program(take(rows, slice(_CALIBRATION_ROWS)), entry.inputs)
    places = range(0, len(next(iter(ready.values()))), _BATCH)
    batches = (take(ready, slice(at, at + _BATCH)) for at in places)
    with Scratch("bascule-optimise-") as folder:
        quantize_static(
            model, folder / "changed.onnx", SimpleNamespace(get_next=lambda: next(batches, None)),
            per_channel=settings["per_channel"], weight_type=QuantType.QInt8,
        )  # fmt: skip
        return _bytes(onnx.load(folder / "changed.onnx"))


def _few_bits(model: onnx.ModelProto, bits: int, block: int) -> bytes:
    """Weights of products in so many bits; kernels, and tables that are looked up, in 8.

    4 spoil a table.
    """
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    _store_kernels_in_8_bits(model.graph)
    quantizer = MatMulNBitsQuantizer(
        _made(model, "Gather"), bits=bits, block_size=block, is_symmetric=True, accuracy_level=4
    )
    quantizer.process()
    return _bytes(quantizer.model.model)


def _store_kernels_in_8_bits(graph: onnx.GraphProto) -> None:
    """Convolutions stay in floats: only the file has whole numbers, with a scale for each kernel.

    ONNX Runtime has no product of such weights, so memory and latency stay as they are.
    """
    kernels = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    for tensor in [own for own in graph.initializer if own.name in kernels]:
        values = numpy_helper.to_array(tensor)
        largest = np.abs(values).max(axis=tuple(range(1, values.ndim)))
        scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        whole = np.rint(values / scale.reshape(-1, *[1] * (values.ndim - 1))).astype(np.int8)
        parts: dict[str, NDArray[Any]] = {"int8": whole, "scale": scale}
        names = [f"{tensor.name}_{part}" for part in parts]
        graph.initializer.remove(tensor)
        graph.initializer.extend(map(numpy_helper.from_array, parts.values(), names))
        graph.node.insert(0, helper.make_node("DequantizeLinear", names, [tensor.name], axis=0))


def _made(model: onnx.ModelProto, *operators: str, per_channel: bool = False) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with Scratch("bascule-optimise-") as folder:
        quantize_dynamic(
            model, folder / "changed.onnx", list(operators) or None, per_channel=per_channel,
            weight_type=QuantType.QInt8,
        )  # fmt: skip
        return onnx.load(folder / "changed.onnx")


def _weights(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for tensor in model.graph.initializer:
        is_float = tensor.data_type == onnx.TensorProto.FLOAT
        if is_float and len(tensor.dims) > 1 and np.prod(tensor.dims) >= _FEWEST_WEIGHTS:
            yield tensor


def _prune(model: onnx.ModelProto, share: float) -> None:
    """Zero the smallest weights of each tensor (Han et al. 2015).

    No file is smaller and no product faster by it: what shrinks is the compressed download.
    """
    for tensor in _weights(model) if share else ():
        values = numpy_helper.to_array(tensor)
        is_small = np.abs(values) <= np.quantile(np.abs(values), share)
        pruned = np.where(is_small, np.float32(0), values)
        tensor.CopyFrom(numpy_helper.from_array(pruned, tensor.name))


def _bytes(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))
