"""The frameworks that models come from. One file each, one line each in the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from bascule.bundle.disk import Manifest, OriginalEntry
from bascule.core import Invalid, Unconvertible, load_named
from bascule.packing.imported import Flavor

TABLE: dict[str, str] = {
    "derived": "bascule.packing.flavors.derived:Derived",
    "composition": "bascule.packing.flavors.composition:Compositions",
    "generation": "bascule.packing.flavors.generation:Generation",
    "retrieval": "bascule.packing.flavors.retrieval:Retrieval",
    "transformers": "bascule.packing.flavors.transformers:Transformers",
    "onnx": "bascule.packing.flavors.onnx:Onnx",
    "python": "bascule.packing.flavors.python:Python",
    "xgboost": "bascule.packing.flavors.xgboost:XGBoost",
    "lightgbm": "bascule.packing.flavors.lightgbm:LightGBM",
    "catboost": "bascule.packing.flavors.catboost:CatBoost",
    "keras": "bascule.packing.flavors.keras:Keras",
    "torch": "bascule.packing.flavors.torch:Torch",
    "sklearn": "bascule.packing.flavors.sklearn:Sklearn",
}
"""Flavors by name; imported when they are asked.

The first that recognises a model takes it. Other libraries give their estimators the protocol of
scikit-learn's, so that flavor comes last; and a Keras model may be a PyTorch module as well. A
folder is a saved model of transformers, and a file a graph.
"""

_REOPENERS = {
    "catboost-cbm": "bascule.packing.flavors.catboost:reopen",
    "composition": "bascule.packing.flavors.composition:reopen",
    "generation": "bascule.packing.flavors.generation:reopen",
    "keras": "bascule.bundle.originals.keras:reopen",
    "lightgbm-text": "bascule.packing.flavors.lightgbm:reopen",
    "onnx": "bascule.packing.flavors.onnx:reopen",
    "python": "bascule.packing.flavors.python:reopen",
    "skops": "bascule.bundle.originals.sklearn:reopen",
    "torch-aten": "bascule.packing.flavors.torch:reopen",
    "transformers": "bascule.bundle.originals.pipelines:reopen",
    "xgboost-json": "bascule.packing.flavors.xgboost:reopen",
}
"""By format: what makes the model of it again, as it is handed to `pack`."""


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
        flavor: Flavor = load_named(place)()
        if not flavor.recognises(model):
            continue
        return _with_code(flavor, model, code) if code else flavor
    kind = type(model)
    raise Invalid(
        f"{kind.__module__}.{kind.__qualname__} is not a model that Bascule knows",
        hint=f"known are {', '.join(sorted(TABLE))}: a fitted scikit-learn estimator or pipeline, "
        "a boosted model, a network of PyTorch or Keras, a text pipeline of "
        "transformers, an ONNX model (its path or bytes), or a bascule.PythonModel",
    )


def _with_code(flavor: Flavor, model: Any, code: str | Path | Iterable[str | Path]) -> Flavor:
    from bascule.packing.flavors.own_code import read_code
    from bascule.packing.flavors.sklearn import Sklearn

    own = Sklearn(read_code(code))
    if flavor.name == "python" or not own.recognises(model):
        raise Invalid(
            f"code is for estimators of scikit-learn's kind, and this is a {flavor.name} model",
            hint="leave code out",
            field="code",
        )
    return own


def reopener(original: OriginalEntry, path: Path) -> Callable[[bytes, Manifest], Any]:
    """What gives the model of a bundle as its author had it, so that it can be packed again.

    It is called with the saved original, verified against the manifest, and the manifest; files
    beside the original are at `path`, the bundle's folder. It raises `Untrusted` where the original
    was saved with another version than the one that is installed.

    Raises:
        Unconvertible: This version has no way to make a model of that format again.
    """
    place = _REOPENERS.get(original.format)
    if place is None:
        raise Unconvertible(
            f"an original in format {original.format!r} cannot be packed again",
            hint="pack the fitted model again; formats that can be rebuilt are "
            f"{', '.join(_REOPENERS)}",
        )
    reopen: Callable[..., Any] = load_named(place)
    is_in_files = original.format in ("composition", "generation")
    return partial(reopen, path=path) if is_in_files else reopen
