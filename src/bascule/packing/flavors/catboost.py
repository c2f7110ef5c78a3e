"""CatBoost: estimators and native models, saved as cbm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from bascule.bundle.disk import RANKING, SURVIVAL, Manifest
from bascule.bundle.originals import (
    ask_catboost,
    catboost_kind,
    is_of,
    load_catboost,
    own_methods,
)
from bascule.core import DType, Invalid, Scratch, library
from bascule.packing.compilers import (
    as_json,
    catboost_threshold,
    compile_ensemble,
    known_categories,
    preparation,
    read_catboost,
)
from bascule.packing.flavors.boosting import (
    Boosted,
    ask_estimator,
    classes_of,
    of_quantiles,
    read_boosted,
)
from bascule.packing.flavors.tabular import parameters_of, plain_label
from bascule.packing.imported import Compilation, ImportedModel

_CLASSIFIES = ("Logloss", "CrossEntropy", "MultiClass", "MultiClassOneVsAll")
_LABELS = ("MultiLogloss", "MultiCrossEntropy")
_RANKS = (
    "LambdaMart", "PairLogit", "PairLogitPairwise", "QueryCrossEntropy", "QueryRMSE",
    "QuerySoftMax", "StochasticFilter", "StochasticRank", "YetiRank", "YetiRankPairwise",
)  # fmt: skip
_PARTS = {
    "Cox": (SURVIVAL, ("risk",)),
    "RMSEWithUncertainty": ("regression", ("prediction", "variance")),
    "SurvivalAft": (SURVIVAL, ("log_time",)),
    **dict.fromkeys(_RANKS, (RANKING, ())),
}
"""By loss: the task, and what the numbers are called where they are no plain prediction."""
_VARYING = ("model_guid", "train_finish_time")
"""What CatBoost writes into a model that says nothing of it: equal models differ by it."""


class CatBoost:
    """See `packing.imported.Flavor`."""

    name = "catboost"

    def recognises(self, model: Any) -> bool:
        return is_of(model, "catboost") and hasattr(model, "predict")

    def read(self, model: Any, train: Any, test: Any) -> ImportedModel:
        return read_boosted(_read(model), train, test)

    def compilations(self, _model: Any, subject: ImportedModel) -> Iterator[Compilation]:
        loaded, prepare = load_catboost(subject.saved), None
        if subject.train is not None and loaded.get_cat_feature_indices():
            columns = subject.train.columns
            made = as_json(loaded, known_categories(loaded, columns))
            prepare = preparation(made, list(columns.values()))
        else:
            made = as_json(loaded)
        yield compile_ensemble(
            read_catboost(made, str(subject.frame["loss"])),
            subject.signature,
            classes_of(subject),
            {},
            reads_floats=True,
            answers=DType.FP64,
            prepare=prepare,
            threshold=float(subject.frame.get("threshold", 0.5)),
            numbers=subject.frame.get("numbers", ()),
        )


def reopen(data: bytes, _manifest: Manifest) -> Any:
    """The model itself: what CatBoost saves knows its classes."""
    return load_catboost(data)


def _ask_native(model: Any, kind: str, rows: Any) -> Mapping[str, Any]:
    """The base class, which has an answer of every kind."""
    numbers = ask_catboost(model, rows, kind=kind, threads=1)
    if kind != "Probability":
        return {"prediction": numbers}
    return {"label": model.predict(rows, prediction_type="Class"), "probabilities": numbers}


def _read(model: Any) -> Boosted:
    library("catboost", "catboost")
    if not model.is_fitted():
        raise Invalid(
            f"{type(model).__name__} is not fitted", hint="call model.fit(X, y) before it is packed"
        )
    refuse_texts(model)
    loss, _, settings = str(model.get_all_params()["loss_function"]).partition(":")
    task, parts = _PARTS.get(loss, ("", ()))
    classes: tuple[str | int | float | bool, ...] | None = (0, 1) if loss in _LABELS else None
    if loss == "MultiQuantile":
        alphas = settings.partition("alpha=")[2].partition(";")[0].split(",")
        task, parts = of_quantiles([float(alpha) for alpha in alphas])
    if loss in _CLASSIFIES and len(model.classes_):
        classes = tuple(plain_label(label) for label in model.classes_)
    names = list(model.feature_names_)
    unnamed = names == [str(place) for place in range(len(names))]
    threshold = catboost_threshold(model) if classes and len(classes) == 2 else 0.5
    is_estimator = (
        hasattr(model, "predict_proba") if classes else type(model).__name__ != "CatBoost"
    )
    return Boosted(
        kind=type(model).__name__,
        library="catboost",
        classes=classes,
        names=None if unnamed else names,
        count=len(names),
        saved=normalised(_written(model)),
        saved_file="original/model.cbm",
        saved_format="catboost-cbm",
        number=DType.FP64,
        handed_over=lambda _: "float32",
        parameters=parameters_of(model),
        own=partial(ask_estimator, model, classes is not None)
        if is_estimator
        else partial(_ask_native, model, catboost_kind(loss, classes is not None)),
        overrides=own_methods(model, ("catboost", "_catboost", "sklearn")),
        extra={
            "loss": loss,
            "classifies": classes is not None,
            **({} if threshold == 0.5 else {"threshold": threshold}),
        },
        task=task,
        # As many as its sums start from.
        answers=np.size(model.get_scale_and_bias()[1]) if loss in (*_LABELS, "MultiRMSE") else 1,
        parts=parts,
    )


def refuse_texts(model: Any) -> None:
    """Raise `Invalid` for a model that reads texts.

    What CatBoost 1.2 saves of one that it has read back ends the process that reads it again.
    """
    if model.is_fitted() and (texts := model.get_text_feature_indices()):
        raise Invalid(
            f"the model reads column {model.feature_names_[texts[0]]!r} as text (text_features), "
            "and CatBoost cannot save a copy of such a model",
            hint="count the words before CatBoost, for example with TfidfVectorizer in a pipeline",
            field=str(model.feature_names_[texts[0]]),
        )


def normalised(data: bytes) -> bytes:
    """The same model, without what differs between two equal trainings, in the order of a copy.

    CatBoost writes what it says of a model in another order after it has been read back.
    """
    copy = load_catboost(data)
    refuse_texts(copy)
    said = copy.get_metadata()
    for name in _VARYING:
        said[name] = ""
    return _written(copy)


def _written(model: Any) -> bytes:
    with Scratch() as folder:
        file = folder / "model.cbm"
        model.save_model(str(file), format="cbm")
        return file.read_bytes()
