"""Networks in fewer bits: weights of 8 or 4 bits, 8-bit arithmetic, half precision, zeros.

Each way is ONNX Runtime's own. `dynamic` measures the scale of each product over the whole call,
so that rows of one batch change each other's answers; `pack` refuses such graphs where it sees
that. The other ways fix all scales beforehand, or take one for each row.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from bascule.bundle import for_program
from bascule.bundle.disk import ProgramEntry
from bascule.core import Columns, Scratch

WAYS = ("int8 weights", "int4 weights", "static int8", "dynamic int8", "float16")
_FEWEST_WEIGHTS = 256
"""Smaller tensors, such as biases, are neither pruned nor a reason to look for fewer bits."""
_CALIBRATION_ROWS = 256
_BATCH = 32


def applies(model: onnx.ModelProto) -> bool:
    """Whether the graph multiplies by weights in floats."""
    return any(True for _ in _weights(model))


def suggest(trial: Any, *, prunes: bool) -> dict[str, Any]:
    """A point of the space, drawn by Optuna; `prunes` where zeros could meet the budget."""
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
    """The graph in fewer bits; `rows`, in the signature's dtypes, are for ways that calibrate."""
    model, rows = copy.deepcopy(model), for_program(rows, entry.inputs)
    if share := settings.get("zeros"):
        _prune(model, share)
    with _quiet():
        return _MAKERS[settings["way"]](model, settings, rows)


def _weights(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for tensor in model.graph.initializer:
        is_float = tensor.data_type == onnx.TensorProto.FLOAT
        if is_float and len(tensor.dims) > 1 and np.prod(tensor.dims) >= _FEWEST_WEIGHTS:
            yield tensor


def _prune(model: onnx.ModelProto, share: float) -> None:
    """Zero the smallest weights of each tensor (Han et al. 2015).

    No file is smaller and no product faster by it: what shrinks is the compressed download.
    """
    for tensor in _weights(model):
        values = numpy_helper.to_array(tensor)
        least = np.quantile(np.abs(values), share)
        zeroed = np.where(np.abs(values) <= least, np.float32(0), values)
        tensor.CopyFrom(numpy_helper.from_array(zeroed, tensor.name))


def _fewer_bits(bits: int) -> Callable[[onnx.ModelProto, Mapping[str, Any], Columns], bytes]:
    def make(model: onnx.ModelProto, settings: Mapping[str, Any], _rows: Columns) -> bytes:
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        quantizer = MatMulNBitsQuantizer(
            model, bits=bits, block_size=settings.get("block", 64), is_symmetric=True,
            accuracy_level=4, op_types_to_quantize=("MatMul", "Gather"),
        )  # fmt: skip
        quantizer.process()
        return _bytes(quantizer.model.model)

    return make


def _dynamic(model: onnx.ModelProto, settings: Mapping[str, Any], _rows: Columns) -> bytes:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with Scratch("bascule-optimise-") as folder:
        quantize_dynamic(
            model, folder / "made.onnx", per_channel=settings["per_channel"],
            weight_type=QuantType.QInt8,
        )  # fmt: skip
        return _bytes(onnx.load(folder / "made.onnx"))


def _static(model: onnx.ModelProto, settings: Mapping[str, Any], rows: Columns) -> bytes:
    from onnxruntime.quantization import QuantType, quantize_static

    with Scratch("bascule-optimise-") as folder:
        quantize_static(
            model, folder / "made.onnx", _Batches(rows), per_channel=settings["per_channel"],
            weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8,
        )  # fmt: skip
        return _bytes(onnx.load(folder / "made.onnx"))


def _half(model: onnx.ModelProto, _settings: Mapping[str, Any], _rows: Columns) -> bytes:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return _bytes(convert_float_to_float16(model, keep_io_types=True))


_MAKERS = {
    "int8 weights": _fewer_bits(8),
    "int4 weights": _fewer_bits(4),
    "static int8": _static,
    "dynamic int8": _dynamic,
    "float16": _half,
}


class _Batches:
    """Rows for `quantize_static`, which asks for one batch after the other."""

    def __init__(self, rows: Columns) -> None:
        count = min(_CALIBRATION_ROWS, len(next(iter(rows.values()))))
        self._batches = iter(
            [
                {name: values[at : at + _BATCH] for name, values in rows.items()}
                for at in range(0, count, _BATCH)
            ]
        )

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._batches, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantisers advise on the root logger in the middle of a search."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _bytes(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))
