"""Boosted models as XGBoost, LightGBM and CatBoost save them: trees in their own format, no code.

Of XGBoost's two formats it is JSON, which can be parsed here before XGBoost sees it. Its own reader
of the binary one (UBJSON) ends the process on some damaged files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.disk import Manifest
from bascule.bundle.originals.frames import Frame
from bascule.bundle.tables import as_dtype
from bascule.core import (
    Columns,
    DType,
    Field,
    MissingExtra,
    ModelFailed,
    Program,
    Signature,
    Untrusted,
    first_line,
    library,
)

Ask = Callable[[Any], NDArray[Any]]
"""Asks a library about a table or matrix: numbers of shape (rows,), or (rows, classes)."""

_EXPONENTIAL = ("Poisson", "Tweedie")


def open_boosted(data: bytes, manifest: Manifest, *, threads: int = 1) -> BoostedOriginal:
    """The saved original; raises `Untrusted` when its library cannot read it."""
    recipe = manifest.original.frame
    if manifest.original.format == "lightgbm-text":
        _check_width(data, manifest)
    try:
        ask = ask_of(data, manifest.original.format, recipe, threads)
    except MissingExtra:
        raise
    except Exception as problem:  # each library has errors of its own
        raise Untrusted(
            f"{manifest.original.file} cannot be read: {first_line(problem)}",
            file=manifest.original.file,
        ) from problem
    frame = Frame.from_json(recipe).fitting(manifest.signature)
    return BoostedOriginal(ask, frame, manifest.signature, manifest.classes, recipe)


def ask_of(data: bytes, original_format: str, recipe: Mapping[str, Any], threads: int) -> Ask:
    """Reads a saved model: its bytes, the recipe of its frame, and how many threads it may use.

    Raises what its library raises where it cannot read it.
    """
    return _READERS[original_format](data, recipe, threads)


class BoostedOriginal(Program):
    """What was saved of the model, as a program."""

    name = "original"

    def __init__(
        self,
        ask: Ask,
        frame: Frame,
        signature: Signature,
        classes: tuple[str | int | float | bool, ...] | None,
        recipe: Mapping[str, Any],
    ) -> None:
        self.inputs = _handed_over(frame, signature)
        self.outputs = signature.outputs
        self._ask = ask
        self._frame = frame
        self._classes = None if classes is None else np.asarray(classes)
        self._threshold = recipe.get("threshold")
        self._numbers = dict(
            zip((f.name for f in self.outputs), recipe.get("numbers", ()), strict=False)
        )

    def run(self, columns: Columns, outputs: Sequence[str] | None = None) -> Columns:
        """The outputs asked for; see `core.programs.Program`."""
        try:
            numbers = self._of_shape(self._ask(built(self._frame, columns)), columns)
            known = {field.name: field.dtype for field in self.outputs}
            wanted = list(known) if outputs is None else list(outputs)
            return {name: as_dtype(self._answer(name, numbers), known[name]) for name in wanted}
        except Exception as problem:
            raise ModelFailed(f"the original failed: {first_line(problem)}") from problem

    def _of_shape(self, numbers: NDArray[Any], columns: Columns) -> NDArray[Any]:
        """The numbers; a damaged file may answer any number of them."""
        rows = len(next(iter(columns.values())))
        expected = (rows,) if self._classes is None else (rows, len(self._classes))
        if self._numbers:
            expected = (rows, max(self._numbers.values()) + 1)
        if numbers.shape != expected:
            raise ValueError(f"it answers numbers of shape {numbers.shape}, and not {expected}")
        return numbers

    def _answer(self, name: str, numbers: NDArray[Any]) -> NDArray[Any]:
        if self._numbers:
            return self._of_several(name.partition(".")[0], numbers[:, self._numbers[name]])
        if name != "label":
            return numbers
        assert self._classes is not None
        if self._threshold is not None:
            return np.asarray(self._classes[(numbers[:, 1] > self._threshold).astype(np.int64)])
        return np.asarray(self._classes[numbers.argmax(axis=1)])

    def _of_several(self, kind: str, numbers: NDArray[Any]) -> NDArray[Any]:
        """One of several answers; of a label, the numbers are the chances of 1."""
        if kind == "label":
            return numbers > 0.5
        return of_both_classes(numbers) if kind == "probabilities" else numbers


def inputs_read(recipe: Mapping[str, Any], signature: Signature) -> tuple[Field, ...]:
    """What an original reads whose frame is built by `recipe`."""
    return _handed_over(Frame.from_json(recipe), signature)


def _handed_over(frame: Frame, signature: Signature) -> tuple[Field, ...]:
    """Floats where the library is handed those: half of what doubles take on the way to it."""
    if frame.container != "numpy" or frame.dtype != "float32":
        return signature.inputs
    return tuple(
        replace(read, dtype=DType.FP32) if read.dtype is DType.FP64 else read
        for read in signature.inputs
    )


def built(frame: Frame, columns: Columns) -> Any:
    """A pandas table where there are categories, else a matrix of numbers."""
    if frame.container != "numpy":
        return frame.build(columns, listed_only=True)
    is_whole = frame.dtype == "int64"
    wanted = np.dtype(np.float64 if is_whole else frame.dtype)
    with np.errstate(over="ignore"):
        parts = [values.astype(wanted, copy=False) for values in columns.values()]
        made = parts[0] if len(parts) == 1 and parts[0].ndim == 2 else np.column_stack(parts)
        if is_whole:
            made = np.where(made == np.floor(made), made.astype(np.float32), made)
    return made


def of_both_classes(second: NDArray[Any]) -> NDArray[Any]:
    """The probabilities of two classes from that of the second."""
    return np.column_stack([1 - second, second])


def _read_xgboost(data: bytes, recipe: Mapping[str, Any], threads: int) -> Ask:
    xgboost = library("xgboost", "xgboost")
    known = json.loads(data)
    if not isinstance(known, dict) or not known.keys() >= {"learner", "version"}:
        raise ValueError("it is not a model of XGBoost")
    booster = xgboost.Booster()
    booster.load_model(bytearray(data))
    booster.set_param({"nthread": threads})
    objective = json.loads(booster.save_config())["learner"]["objective"]["name"]
    classifies = recipe.get("classifies", objective == "binary:logistic")
    is_linear = known["learner"]["gradient_booster"].get("name") == "gblinear"
    if objective == "multi:softmax":
        # It answers with the label; the same sums give the probabilities.
        booster.set_param({"objective": "multi:softprob"})

    def ask(rows: Any) -> NDArray[Any]:
        if is_linear:
            data = xgboost.DMatrix(rows, nthread=threads)
            made = np.asarray(booster.predict(data, validate_features=False))
        else:
            made = np.asarray(booster.inplace_predict(rows, validate_features=False))
        return of_both_classes(made) if made.ndim == 1 and classifies else made

    return ask


def _check_width(data: bytes, manifest: Manifest) -> None:
    """LightGBM allocates as many numbers a row as the text declares, regardless of its trees."""
    known = {b"1", str(len(manifest.classes or "1")).encode()}
    for line in data.splitlines():
        name, _, number = line.partition(b"=")
        if name in (b"num_class", b"num_tree_per_iteration") and number not in known:
            raise Untrusted(
                f"{manifest.original.file} cannot be read: it answers other classes than those "
                "that the manifest tells of",
                file=manifest.original.file,
            )


def _read_lightgbm(data: bytes, recipe: Mapping[str, Any], threads: int) -> Ask:
    booster = library("lightgbm", "lightgbm").Booster(model_str=data.decode())
    is_binary = lightgbm_objective(data.decode()).partition(" ")[0] == "binary"
    answers_second = recipe.get("classifies", is_binary)

    def ask(rows: Any) -> NDArray[Any]:
        made = np.asarray(booster.predict(rows, num_threads=threads))
        return of_both_classes(made) if answers_second else made

    return ask


def lightgbm_objective(text: str) -> str:
    """What a model of LightGBM, as its text, was trained for: `binary sigmoid:1`."""
    lines = text.partition("\nTree=")[0].splitlines()
    return next((line[10:] for line in lines if line.startswith("objective=")), "regression")


def load_catboost(data: bytes) -> Any:
    """The model as CatBoost reads it back."""
    return library("catboost", "catboost").CatBoost().load_model(blob=data)


def _read_catboost(data: bytes, recipe: Mapping[str, Any], threads: int) -> Ask:
    kind = catboost_kind(str(recipe["loss"]), recipe["classifies"])
    return partial(ask_catboost, load_catboost(data), kind=kind, threads=threads)


def catboost_kind(loss: str, classifies: bool) -> str:
    """Which of CatBoost's kinds of answer the model gives, by its loss."""
    if loss == "RMSEWithUncertainty":
        return loss
    if classifies or loss == "CrossEntropy":
        return "Probability"
    return "Exponent" if loss in _EXPONENTIAL else "RawFormulaVal"


def ask_catboost(model: Any, rows: Any, *, kind: str, threads: int) -> NDArray[Any]:
    """Its answers of one kind, shape (rows,) or (rows, classes)."""
    return np.asarray(model.predict(rows, prediction_type=kind, thread_count=threads))


_READERS: Mapping[str, Callable[[bytes, Mapping[str, Any], int], Ask]] = {
    "catboost-cbm": _read_catboost,
    "lightgbm-text": _read_lightgbm,
    "xgboost-json": _read_xgboost,
}
BOOSTED_FORMATS = tuple(_READERS)
