"""XGBoost: estimators and native boosters, saved as JSON.

Of its two formats this is the one that can be parsed here before XGBoost sees it. Its own reader of
the binary one (UBJSON) ends the process on some damaged files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from bascule.bundle import MATRIX, read_table
from bascule.bundle.disk import RANKING, SURVIVAL, Manifest
from bascule.bundle.originals import distribution_of, is_of, own_methods
from bascule.core import DType, Invalid, library
from bascule.packing.compilers import booster_of, compile_ensemble, read_xgboost
from bascule.packing.flavors.boosting import (
    Boosted,
    ask_estimator,
    categories_of,
    classes_of,
    of_numbers,
    of_quantiles,
    read_boosted,
    with_classes,
)
from bascule.packing.flavors.tabular import parameters_of, plain_label
from bascule.packing.imported import Compilation, ImportedModel

_CLASSIFIES = ("binary:logistic", "multi:softprob", "multi:softmax")
_TASKS = {
    **dict.fromkeys(("rank:map", "rank:ndcg", "rank:pairwise"), (RANKING, ())),
    "survival:aft": (SURVIVAL, ("time",)),
    "survival:cox": (SURVIVAL, ("risk",)),
}
"""By objective: the task, and what the number is called where it is no plain prediction."""


class XGBoost:
    """See `packing.imported.Flavor`."""

    name = "xgboost"

    def recognises(self, model: Any) -> bool:
        return is_of(model, "xgboost") and hasattr(model, "save_model")

    def read(self, model: Any, train: Any, test: Any) -> ImportedModel:
        return read_boosted(_read(model), _with_missing(train), _with_missing(test))

    def compilations(self, _model: Any, subject: ImportedModel) -> Iterator[Compilation]:
        yield compile_ensemble(
            read_xgboost(json.loads(subject.saved)),
            subject.signature,
            classes_of(subject),
            categories_of(subject.frame),
            reads_floats=True,
            answers=DType.FP32,
            numbers=subject.frame.get("numbers", ()),
        )


def _with_missing(data: Any) -> Any:
    """X, or (X, y), as they are, but for a sparse X: what it leaves out is missing to XGBoost."""
    rows, *truth = data if isinstance(data, tuple) else (data,)
    if not hasattr(rows, "tocoo"):
        return data
    cells, left_out = rows.tocoo(), np.ones(rows.shape, bool)
    left_out[cells.row, cells.col] = False
    filled = np.where(left_out, np.nan, read_table(rows).columns[MATRIX])
    return (filled, *truth) if truth else filled


def reopen(data: bytes, manifest: Manifest) -> Any:
    """The booster, which knows its classes as the estimator did."""
    booster = library("xgboost", "xgboost").Booster()
    booster.load_model(bytearray(data))
    booster.takes_infinity = all(read.bounds is None for read in manifest.signature.inputs)
    return with_classes(booster, manifest)


def _read(model: Any) -> Boosted:
    xgboost = library("xgboost", "xgboost")
    is_native = isinstance(model, xgboost.Booster)
    booster = model if is_native else booster_of(_checked(model))
    known = json.loads(bytes(booster.save_raw("json")))["learner"]
    objective = known["objective"]["name"]
    several = max(int(known["learner_model_param"]["num_class"]), 0)
    answers = int(known["learner_model_param"]["num_target"])
    task, parts = _TASKS.get(objective, ("", ()))
    if objective == "reg:quantileerror" and answers > 1:
        alphas = json.loads(known["objective"]["quantile_loss_param"]["quantile_alpha"])
        answers, (task, parts) = 1, of_quantiles([float(alpha) for alpha in alphas])
    classes: tuple[str | int | float | bool, ...] | None = None
    if answers > 1:
        classes = (0, 1) if objective == "binary:logistic" else None
    elif hasattr(model, "classes_"):
        classes = tuple(plain_label(label) for label in model.classes_)
    elif is_native and objective in _CLASSIFIES:
        classes = tuple(range(max(several, 2)))
    parameters = {"objective": repr(objective)} if is_native else parameters_of(model)
    return Boosted(
        kind=type(model).__name__,
        library=distribution_of("xgboost"),
        classes=classes,
        names=booster.feature_names,
        count=int(booster.num_features()),
        saved=bytes(booster.save_raw("json")),
        saved_file="original/model.json",
        saved_format="xgboost-json",
        number=DType.FP32,
        handed_over=lambda _: "float32",
        parameters=parameters,
        own=partial(_ask_native, model, classes, objective)
        if is_native
        else partial(ask_estimator, model, classes is not None),
        overrides=own_methods(model, ("xgboost", "sklearn")),
        extra={"classifies": True}
        if classes is not None and objective != "binary:logistic"
        else {},
        task=task,
        answers=answers,
        parts=parts,
        refuses_unseen=True,
        # xgboost.DMatrix does. A rebuilt booster may have been an estimator's.
        refuses_infinite=is_native and not getattr(model, "takes_infinity", False),
    )


def _ask_native(
    booster: Any, classes: tuple[Any, ...] | None, objective: str, rows: Any
) -> Mapping[str, Any]:
    xgboost = library("xgboost", "xgboost")
    made = np.asarray(booster.predict(xgboost.DMatrix(rows, enable_categorical=True)))
    if objective == "multi:softmax":
        return {"label": made}  # and nothing else
    if classes is not None and objective == "binary:logistic" and made.ndim == 2:
        return {"label": made > 0.5, "probabilities": made}
    return of_numbers(made, classes, made.ndim == 1)


def _checked(model: Any) -> Any:
    if not hasattr(model, "_Booster"):
        raise Invalid(
            f"{type(model).__name__} is not fitted", hint="call model.fit(X, y) before it is packed"
        )
    if model.missing is not None and not math.isnan(model.missing):
        raise Invalid(
            f"the model takes {model.missing} for a missing value, and a bundle takes NaN",
            hint="replace it by NaN in the rows and train with missing=nan",
        )
    return model
