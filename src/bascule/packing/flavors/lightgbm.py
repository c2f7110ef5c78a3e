"""LightGBM: estimators and native boosters, saved as text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from bascule.bundle import MATRIX, Table
from bascule.bundle.disk import RANKING, Manifest
from bascule.bundle.originals import is_of, lightgbm_objective, own_methods
from bascule.core import DType, Invalid, library
from bascule.packing.compilers import compile_ensemble, read_lightgbm
from bascule.packing.flavors.boosting import (
    Boosted,
    ask_estimator,
    categories_of,
    of_numbers,
    read_boosted,
    reads_floats,
    rounds_whole,
    with_classes,
)
from bascule.packing.flavors.tabular import parameters_of, plain_label
from bascule.packing.imported import Compilation, ImportedModel


class LightGBM:
    """See `packing.imported.Flavor`."""

    name = "lightgbm"

    def recognises(self, model: Any) -> bool:
        return is_of(model, "lightgbm") and hasattr(model, "predict")

    def read(self, model: Any, train: Any, test: Any) -> ImportedModel:
        return read_boosted(_read(model), train, test)

    def compilations(self, _model: Any, subject: ImportedModel) -> Iterator[Compilation]:
        categories = categories_of(subject.frame)
        _check_categories(subject.saved, categories)
        ensemble = read_lightgbm(subject.saved.decode())
        yield compile_ensemble(
            replace(ensemble, rounds_whole=rounds_whole(subject.frame)),
            subject.signature,
            subject.classes,
            categories,
            reads_floats=reads_floats(subject.frame),
            answers=DType.FP64,
        )


def reopen(data: bytes, manifest: Manifest) -> Any:
    """The booster, which knows its classes as the estimator did."""
    booster = library("lightgbm", "lightgbm").Booster(model_str=data.decode())
    return with_classes(booster, manifest)


def _read(model: Any) -> Boosted:
    lightgbm = library("lightgbm", "lightgbm")
    is_native = isinstance(model, lightgbm.Booster)
    if not is_native and not hasattr(model, "_Booster"):
        raise Invalid(
            f"{type(model).__name__} is not a model of LightGBM",
            hint="pass an estimator of lightgbm.sklearn, or a lightgbm.Booster",
        )
    if not is_native and model._Booster is None:
        raise Invalid(
            f"{type(model).__name__} is not fitted", hint="call model.fit(X, y) before it is packed"
        )
    booster = model if is_native else model.booster_
    # After early stopping, the text holds the rounds up to the best one, as predict uses them.
    text = booster.model_to_string()
    objective = lightgbm_objective(text)
    kind = objective.partition(" ")[0]
    classes: tuple[str | int | float | bool, ...] | None = None
    if callable(getattr(model, "objective", None)):
        pass  # of an objective of the caller's own, LightGBM answers the sums, also as a classifier
    elif hasattr(model, "classes_"):
        classes = tuple(plain_label(label) for label in model.classes_)
    elif kind == "binary":
        classes = (0, 1)
    elif kind.startswith("multiclass"):
        classes = tuple(range(booster.num_model_per_iteration()))
    names = booster.feature_name()
    unnamed = names == [f"Column_{place}" for place in range(len(names))]
    own = partial(ask_estimator, model, classes is not None)
    if is_native:
        own = partial(_ask_native, model, classes, kind == "binary")
    return Boosted(
        kind=type(model).__name__,
        library="lightgbm",
        classes=classes,
        names=None if unnamed else names,
        count=len(names),
        saved=text.encode(),
        saved_file="original/model.txt",
        saved_format="lightgbm-text",
        number=DType.FP64,
        handed_over=_handed_over,
        parameters={"objective": repr(objective)} if is_native else parameters_of(model),
        own=own,
        extra={"classifies": True} if classes and len(classes) == 2 and kind != "binary" else {},
        task=RANKING if kind in ("lambdarank", "rank_xendcg") else "",
        overrides=own_methods(model, ("lightgbm", "sklearn")),
    )


def _ask_native(
    booster: Any, classes: tuple[Any, ...] | None, answers_second: bool, rows: Any
) -> Mapping[str, Any]:
    return of_numbers(np.asarray(booster.predict(rows)), classes, answers_second)


def _handed_over(table: Table) -> str:
    """A matrix of floats as it is, and one of whole numbers, which LightGBM rounds to floats."""
    if not table.is_matrix or table.columns[MATRIX].dtype == np.float64:
        return "float64"
    return "int64" if table.columns[MATRIX].dtype.kind in "iu" else "float32"


def _check_categories(saved: bytes, categories: Mapping[str, tuple[Any, ...]]) -> None:
    """The trees test the places of categories, so the rows must list them as training did."""
    known = saved.decode().rpartition("\npandas_categorical:")[2].splitlines()[:1]
    trained = json.loads(known[0]) if known and known[0].startswith(("[", "null")) else None
    if (trained or []) != [list(listed) for listed in categories.values()]:
        raise Invalid(
            "train has other categories than the model was trained with",
            hint="pass train as it was passed to fit, with the same categorical columns",
        )
