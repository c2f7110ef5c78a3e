"""The frameworks that models come from. One file each, one line each in the table."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
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


def flavor_of(model: Any, code: str | Path | Iterable[str | Path] = ()) -> Flavor:
    """The flavor that recognises the model.

    Args:
        model: A fitted model.
        code: The code in it that the caller names; see `own_code`. It is for estimators of
            scikit-learn's kind, and decides the flavor.

    Raises:
        Invalid: No flavor recognises the model, or `code` is not for it.
    """
    for place in TABLE.values():
        module, _, name = place.partition(":")
        flavor: Flavor = getattr(import_module(module), name)()
        if not flavor.recognises(model):
            continue
        return _with_code(flavor, model, code) if code else flavor
    kind = type(model)
    raise Invalid(
        f"{kind.__module__}.{kind.__qualname__} is not a model that Bascule knows",
        hint=f"known are {', '.join(sorted(TABLE))}: a fitted scikit-learn estimator or pipeline, "
        "a boosted model, a network of PyTorch or Keras, an ONNX model (its path or "
        "bytes), or a bascule.PythonModel",
    )


def _with_code(flavor: Flavor, model: Any, code: str | Path | Iterable[str | Path]) -> Flavor:
    from bascule.bundle.flavors.own_code import read_code
    from bascule.bundle.flavors.sklearn import Sklearn

    own = Sklearn(read_code(code))
    if flavor.name == "python" or not own.recognises(model):
        raise Invalid(
            f"code is for estimators of scikit-learn's kind, and this is a {flavor.name} model",
            hint="leave code out",
            field="code",
        )
    return own
