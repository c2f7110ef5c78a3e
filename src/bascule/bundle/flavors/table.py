"""The frameworks that models come from. One file each, one line each in the table."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from bascule.bundle.imported import Flavor
from bascule.core import Invalid

TABLE: dict[str, str] = {
    "onnx": "bascule.bundle.flavors.onnx:Onnx",
    "python": "bascule.bundle.flavors.python:Python",
    "xgboost": "bascule.bundle.flavors.xgboost:XGBoost",
    "lightgbm": "bascule.bundle.flavors.lightgbm:LightGBM",
    "catboost": "bascule.bundle.flavors.catboost:CatBoost",
    "keras": "bascule.bundle.flavors.keras:Keras",
    "torch": "bascule.bundle.flavors.torch:Torch",
    "sklearn": "bascule.bundle.flavors.sklearn:Sklearn",
}
"""Flavors by name; imported when they are asked.

The first that recognises a model takes it. Other libraries give their estimators the protocol of
scikit-learn's, so that flavor comes last; and a Keras model may be a PyTorch module as well.
"""


def flavor_of(model: Any) -> Flavor:
    """The flavor that recognises the model; raises `Invalid` when none does."""
    for place in TABLE.values():
        module, _, name = place.partition(":")
        flavor: Flavor = getattr(import_module(module), name)()
        if flavor.recognises(model):
            return flavor
    kind = type(model)
    raise Invalid(
        f"{kind.__module__}.{kind.__qualname__} is not a model that Bascule knows",
        hint=f"known are {', '.join(sorted(TABLE))}: a fitted scikit-learn estimator or pipeline, "
        "a boosted model, a network of PyTorch or Keras, an ONNX model (its path or "
        "bytes), or a bascule.PythonModel",
    )
