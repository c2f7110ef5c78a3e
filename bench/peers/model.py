"""The model as every peer holds it: scikit-learn's, or the same ONNX program, by file name.

A program that answers with numbers alone, and no label, is labelled by the largest of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAME = "gb"
Answer = tuple[NDArray[np.int64], NDArray[np.floating[Any]]]
Predict = Callable[[NDArray[Any]], Answer]


def load(path: str | None = None) -> Predict:
    """Labels and probabilities for rows; from `MODEL_PATH` unless a path is given."""
    path = path or os.environ["MODEL_PATH"]
    return _onnx(path) if path.endswith(".onnx") else _sklearn(path)


def rows_of(body: dict[str, Any]) -> NDArray[np.float64]:
    """The rows of a decoded Open Inference Protocol request."""
    tensor = body["inputs"][0]
    return np.array(tensor["data"], dtype=np.float64).reshape(tensor["shape"])


def answer_of(labels: NDArray[np.int64], probabilities: NDArray[Any]) -> dict[str, Any]:
    """An Open Inference Protocol answer: all systems write the same amount of JSON."""
    return {
        "model_name": NAME,
        "outputs": [
            {
                "name": "label",
                "datatype": "INT64",
                "shape": list(labels.shape),
                "data": labels.tolist(),
            },
            {
                "name": "probabilities",
                "datatype": "FP64" if probabilities.dtype == np.float64 else "FP32",
                "shape": list(probabilities.shape),
                "data": probabilities.ravel().tolist(),
            },
        ],
    }


def _sklearn(path: str) -> Predict:
    import joblib

    if np.__version__.startswith("1."):
        # What NumPy 2 wrote names its modules as NumPy 2 does.
        sys.modules.setdefault("numpy._core.numeric", import_module("numpy.core.numeric"))
    model = joblib.load(path)

    def predict(rows: NDArray[Any]) -> Answer:
        probabilities = model.predict_proba(rows)
        return model.classes_[probabilities.argmax(axis=1)], probabilities

    return predict


def _onnx(path: str) -> Predict:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    field = session.get_inputs()[0]
    dtype = np.float64 if "double" in field.type else np.float32

    outputs = [output.name for output in session.get_outputs()]

    def predict(rows: NDArray[Any]) -> Answer:
        given = {field.name: rows.astype(dtype, copy=False)}
        if "label" not in outputs:
            (scores,) = session.run(outputs, given)
            return scores.argmax(axis=1), scores
        label, probabilities = session.run(["label", "probabilities"], given)
        return label, probabilities

    return predict
