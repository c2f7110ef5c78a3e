"""Performance without truth: what calibrated probabilities, or a model of the errors, expect.

Classifiers: confidence-based performance estimation. A probability that is calibrated on the
held-out rows says how often an answer is right; expected counts of right and wrong answers give
every metric that counts give (NannyML's CBPE; see Garg et al. 2022, "Leveraging Unlabeled Data to
Predict Out-of-Distribution Performance", for its relatives and their limits).

Numbers: direct loss estimation. Gradient boosting learns the loss on the held-out rows from the
inputs and the prediction, and its mean over new rows is the estimate (NannyML's DLE).

Both see a change of the inputs. Neither sees a change of what the inputs mean (concept drift).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import is_missing
from bascule.core import Columns
from bascule.metrics import Labelled, isotonic

Floats = NDArray[np.float64]
Calibrators = Sequence[Callable[[Floats], Floats]]
"""Of each class, or of the second of two."""

_MIN_ROWS = 100
"""Held-out rows that an estimate is learned from, at least."""
_DRAWS = 20
_MAX_ROWS_OF_ERRORS = 5_000
_MAX_CATEGORIES = 250
_MIN_LEAF, _LEAVES = 20, 300
_EPSILON = float(np.finfo(np.float64).eps)
NO_SKLEARN = "not estimated without truth: scikit-learn is missing: pip install 'bascule[sklearn]'"


class Estimator(Protocol):
    """Estimates metrics of rows whose truth is not known."""

    def estimate(self, rows: Labelled, inputs: Columns | None) -> Mapping[str, float]:
        """By metric, what can be estimated."""

    def errors(self, rows: Labelled) -> Mapping[str, float]:
        """The standard errors of the estimates by what was learned, where these are known.

        They tell how much less is known of rows that are unlike the held-out ones.
        """


def estimator_of(reference: Labelled, inputs: Columns | None) -> Estimator | None:
    """An estimator that has learned from held-out rows; None where they do not suffice.

    Args:
        reference: With the truth.
        inputs: What was asked: one array of one axis per column. Classifiers do without.

    Raises:
        ImportError: Errors of numbers are learned by scikit-learn, which is not installed.
    """
    if len(reference) < _MIN_ROWS:
        return None
    if reference.task == "classification":
        if reference.probabilities is None or (reference.truth < 0).any():
            return None
        return ConfidenceEstimator(reference)
    return None if inputs is None else LossEstimator(reference, inputs)


class ConfidenceEstimator:
    """Of a classifier with probabilities."""

    def __init__(self, reference: Labelled) -> None:
        self._reference = reference
        self._calibrators = _calibrators(reference)

    @cached_property
    def _drawn(self) -> list[Calibrators]:
        """Those that other held-out rows would have given: a bootstrap of them."""
        random, rows = np.random.default_rng(0), len(self._reference)
        draws = (random.integers(0, rows, rows) for _ in range(_DRAWS))
        return [_calibrators(self._reference.take(places)) for places in draws]

    def calibrated(self, chances: Floats, calibrators: Calibrators | None = None) -> Floats:
        """The chance of each class, as the held-out rows say. Shape (rows, classes)."""
        calibrators = calibrators or self._calibrators
        if len(calibrators) == 1:
            yes = calibrators[0](chances[:, 1])
            return np.column_stack([1 - yes, yes])
        made = np.column_stack([one(chances[:, place]) for place, one in enumerate(calibrators)])
        sums = made.sum(axis=1, keepdims=True)
        return np.where(sums > 0, made / np.where(sums > 0, sums, 1), chances)

    def estimate(self, rows: Labelled, _inputs: Columns | None = None) -> Mapping[str, float]:
        """See `Estimator`."""
        return self._expected(rows.with_probabilities(), self._calibrators)

    def errors(self, rows: Labelled) -> Mapping[str, float]:
        """See `Estimator`; of rows at regular places where there are very many."""
        rows = rows.with_probabilities()
        rows = rows.take(slice(None, None, 1 + len(rows) // _MAX_ROWS_OF_ERRORS))
        found = [self._expected(rows, calibrators) for calibrators in self._drawn]
        return {name: float(np.std([one[name] for one in found])) for name in found[0]}

    def _expected(self, rows: Labelled, calibrators: Calibrators) -> Mapping[str, float]:
        if rows.probabilities is None or not len(rows):
            return {}
        chances = self.calibrated(rows.probabilities, calibrators)
        right = chances[np.arange(len(rows)), rows.answers]
        likely = np.clip(rows.probabilities, _EPSILON, 1)
        found = {
            "accuracy": float(right.mean()),
            "auc": _expected_auc(rows.probabilities, chances),
            "log_loss": float(-(chances * np.log(likely)).sum(axis=1).mean()),
            **_expected_by_class(rows.answers, chances),
        }
        if chances.shape[1] == 2:
            found["roc_auc"] = found["auc"]
            found |= _expected_of_1(rows, chances)
        return found


def _calibrators(reference: Labelled) -> Calibrators:
    chances = np.asarray(reference.probabilities)
    places = range(chances.shape[1])
    return [
        isotonic(chances[:, place], reference.truth == place)
        for place in (places if len(places) > 2 else [1])
    ]


def _expected_by_class(answers: NDArray[Any], chances: Floats) -> dict[str, float]:
    """Means over the classes of what is expected of each."""
    parts = [_counts(answers == place, chances[:, place]) for place in range(chances.shape[1])]
    recall = float(np.mean([_ratio(hits, true) for hits, _, true in parts]))
    return {
        "balanced_accuracy": recall,
        "f1_macro": float(np.mean([_ratio(2 * hits, said + true) for hits, said, true in parts])),
        "precision_macro": float(np.mean([_ratio(hits, said) for hits, said, _ in parts])),
        "recall_macro": recall,
    }


def _expected_of_1(rows: Labelled, chances: Floats) -> dict[str, float]:
    if 1 not in (rows.classes or ()):
        return {}
    place = list(rows.classes or ()).index(1)
    hits, said, true = _counts(rows.answers == place, chances[:, place])
    return {
        "f1": _ratio(2 * hits, said + true),
        "precision": _ratio(hits, said),
        "recall": _ratio(hits, true),
    }


def _counts(said: NDArray[np.bool_], chances: Floats) -> tuple[float, float, float]:
    """Expected hits, answers and truths of a class."""
    return float(chances[said].sum()), float(said.sum()), float(chances.sum())


def _ratio(above: float, below: float) -> float:
    return above / below if below else 0.0


def _expected_auc(scores: Floats, chances: Floats) -> float:
    """Of several classes, the mean over one against the rest."""
    places: Sequence[int] = [1] if scores.shape[1] == 2 else range(scores.shape[1])
    return float(np.mean([_area(scores[:, one], chances[:, one]) for one in places]))


def _area(scores: Floats, chances: Floats) -> float:
    """The expected area under the curve: each row is a true one with its chance.

    Of all pairs of different rows, the share in which the true row scores higher; ties count half.
    """
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    starts = np.append(0, np.flatnonzero(ordered[1:] != ordered[:-1]) + 1)
    yes = np.add.reduceat(chances[order], starts)
    no = np.add.reduceat(1 - chances[order], starts)
    both = np.add.reduceat((chances * (1 - chances))[order], starts)
    pairs = float(yes.sum() * no.sum() - both.sum())
    below = np.cumsum(no) - no
    return float((yes * below + (yes * no - both) / 2).sum()) / pairs if pairs > 0 else math.nan


class LossEstimator:
    """Of a model of numbers."""

    def errors(self, _rows: Labelled) -> Mapping[str, float]:
        """See `Estimator`: to learn the losses again and again would take minutes."""
        return {}

    def __init__(self, reference: Labelled, inputs: Columns) -> None:
        from sklearn.ensemble import HistGradientBoostingRegressor

        self._columns = _columns(inputs)
        rows = self._features(inputs, reference.answers)
        of_texts = [texts is not None for texts in self._columns.values()] + [False]
        missed = np.abs(np.asarray(reference.truth, np.float64) - reference.answers)

        def learned(loss: Floats) -> Callable[[Floats], Floats]:
            # A loss is mostly noise: small leaves would learn it, and bias the mean.
            model = HistGradientBoostingRegressor(
                categorical_features=np.array(of_texts), early_stopping=False, random_state=0,
                min_samples_leaf=max(_MIN_LEAF, len(rows) // _LEAVES),
            )  # fmt: skip
            predict: Callable[[Floats], Floats] = model.fit(rows, loss).predict
            return predict

        self._absolute, self._squared = learned(missed), learned(missed**2)

    def _features(self, inputs: Columns, answers: NDArray[Any]) -> Floats:
        made = [_codes(inputs[name], texts) for name, texts in self._columns.items()]
        return np.column_stack([*made, np.asarray(answers, np.float64)])

    def estimate(self, rows: Labelled, inputs: Columns | None) -> Mapping[str, float]:
        """See `Estimator`."""
        if inputs is None or not len(rows) or self._columns.keys() - inputs.keys():
            return {}
        read = self._features(inputs, rows.answers)
        squared = max(0.0, float(self._squared(read).mean()))
        absolute = max(0.0, float(self._absolute(read).mean()))
        return {"mae": absolute, "mse": squared, "rmse": math.sqrt(squared)}


def _columns(inputs: Columns) -> dict[str, dict[str, int] | None]:
    """By column: None for numbers, and the code of each text for texts, the frequent ones first."""
    found: dict[str, dict[str, int] | None] = {}
    for name, values in inputs.items():
        if values.ndim != 1:
            continue
        if values.dtype.kind in "fiub":
            found[name] = None
            continue
        texts, counts = np.unique(values.astype(str), return_counts=True)
        frequent = texts[np.argsort(-counts, kind="stable")][:_MAX_CATEGORIES]
        found[name] = {text: code for code, text in enumerate(frequent.tolist())}
    return found


def _codes(values: NDArray[Any], texts: Mapping[str, int] | None) -> Floats:
    """Numbers as they are, texts by their code; NaN for what is missing or was not frequent."""
    if texts is None:
        return np.asarray(values, np.float64)
    gone = is_missing(values) if values.dtype.kind in "fO" else np.zeros(len(values), bool)
    found = [
        math.nan if absent else texts.get(str(one), math.nan)
        for one, absent in zip(values.tolist(), gone, strict=True)
    ]
    return np.asarray(found, np.float64)
