"""What all systems serve: one fitted model, in the forms that they take.

100 trees of scikit-learn gradient boosting on the breast cancer data, 30 numbers a row: small
enough that what surrounds the model decides the cost.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.model_selection import train_test_split

import bascule

NAME = "gb"


@dataclass(frozen=True, slots=True)
class ImportedModel:
    """The model on disk, and rows with the probabilities that scikit-learn gives them.

    Attributes:
        bundle: The packed model.
        program: The ONNX file inside the bundle; what the bare server runs.
        pinned: The name of the bundle's program that bascule serves requests with, by the cost that
            was measured when it was packed.
        pickle: The fitted model as joblib writes it; what a server written by hand loads.
        input_name: The name of the one input tensor.
        datatype: Its type by the bundle's signature.
        rows: Rows to ask about. Shape (rows, 30).
        truth: What scikit-learn answers for them. Shape (rows, 2).
    """

    bundle: Path
    program: Path
    pinned: str
    pickle: Path
    input_name: str
    datatype: str
    rows: NDArray[np.float64]
    truth: NDArray[np.float64]


def make(folder: Path) -> ImportedModel:
    """Fit the model, and write it down in every form."""
    data: Any = load_breast_cancer()
    train, test, train_truth, test_truth = train_test_split(
        data.data, data.target, test_size=0.3, random_state=0
    )
    model = GradientBoostingClassifier(n_estimators=100, random_state=0).fit(train, train_truth)
    pickle = folder / "model.joblib"
    joblib.dump(_without_generators(model), pickle)
    path = folder / f"{NAME}.bundle"
    bundle = bascule.pack(
        model, name=NAME, train=train, test=(test, test_truth), to=path, overwrite=True
    )
    field = bundle.signature.inputs[0]
    rows = test[:100]
    return ImportedModel(
        bundle=path,
        program=path / "programs" / "onnx.onnx",
        pinned=bundle.program().name,
        pickle=pickle,
        input_name=field.name,
        datatype=field.dtype.value,
        rows=rows,
        truth=model.predict_proba(rows),
    )


def _without_generators(model: Any) -> Any:
    """A copy without the random generators of the fit, which predict nothing.

    NumPy 1, which some peers need, cannot read those of NumPy 2.
    """
    bare = copy.deepcopy(model)
    del bare._rng
    for tree in bare.estimators_.ravel():
        tree.random_state = None
    return bare
