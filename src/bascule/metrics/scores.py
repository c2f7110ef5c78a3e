"""The value of a metric: a scorer of scikit-learn, or one of our own."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import Columns, first_line
from bascule.metrics.calibration import calibration_error
from bascule.metrics.orders import order_score
from bascule.metrics.table import METRICS, PINBALL, SHORT_NAMES

OUTLIERS = "outlier-detection"
"""The task of a detector, whose classes are -1 (an outlier) and 1."""


@dataclass(frozen=True, slots=True)
class Score:
    """A value, or None with the reason.

    Attributes:
        value: None where the metric has none.
        note: Why there is no value, or what was said while it was measured.
    """

    value: float | None
    note: str = ""


def score(
    name: str,
    truth: NDArray[Any],
    answers: Columns,
    *,
    task: str,
    classes: Sequence[Any] | None = None,
) -> Score:
    """The value of a metric.

    Args:
        name: One of `METRICS`.
        truth: Labels or numbers. Shape (rows,); of an order (rows, 2), see `orders`.
        answers: The outputs of a model: `label` and `probabilities`, one number, or `score`.
        task: `classification`, `regression`, `OUTLIERS`, `RANKING` or `SURVIVAL`.
        classes: The labels in the order of the probabilities.

    Raises:
        ImportError: The metric is a scorer of scikit-learn, which is not installed.

    A metric that raises has measured nothing: the reason is in the note.
    """
    known: NDArray[Any] | None = None
    if task == OUTLIERS:
        known = np.array([-1, 1])
    elif task == "classification":
        known = np.asarray(classes)
    unknown, is_known_in_part = _unknown_labels(known, truth)
    if not is_known_in_part:
        return Score(None, unknown)
    needed = METRICS[name].needs_probabilities and task == "classification"
    if needed and "probabilities" not in answers:
        return Score(None, f"{name} needs probabilities, and the model gives none")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            value = _value(name, truth, answers, task, known)
        except ImportError:
            raise
        except AttributeError:
            return Score(None, f"{name} needs probabilities, and the model gives none")
        except Exception as error:  # a scorer that raises has measured nothing
            return Score(None, unknown or first_line(error))
    if unknown and not math.isfinite(value):
        return Score(None, unknown)
    notes = [unknown] if unknown else []
    notes += [first_line(one.message) for one in said]
    return Score(value, "; ".join(dict.fromkeys(notes)))


def _value(
    name: str, truth: NDArray[Any], answers: Columns, task: str, classes: NDArray[Any] | None
) -> float:
    if name == "ece":
        known = np.asarray(classes)
        chances = np.asarray(answers["probabilities"], np.float64)
        return calibration_error(known[chances.argmax(axis=1)] == truth, chances.max(axis=1))
    if METRICS[name].task:
        return order_score(name, truth, answers)
    if name in PINBALL:
        missed = truth - _first(answers)
        share = PINBALL[name]
        return float(np.mean(np.maximum(share * missed, (share - 1) * missed)))
    from sklearn.metrics import get_scorer

    scorer, sign = SHORT_NAMES.get(name, (name, 1))
    if name == "auc" and classes is not None and len(classes) > 2:
        scorer = "roc_auc_ovr"
    # The scorer only hands the rows on to the estimator, which knows its answers already.
    estimator = _estimator(task, classes, answers)
    return sign * float(get_scorer(scorer)(estimator, np.empty((len(truth), 1)), truth))


def _first(answers: Columns) -> NDArray[Any]:
    return answers.get("label", answers.get("prediction", next(iter(answers.values()))))


def _estimator(task: str, classes: NDArray[Any] | None, answers: Columns) -> Any:
    """The answers as a fitted estimator, which is what a scorer asks."""
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

    class Answered(BaseEstimator):  # type: ignore[misc]  # it has no types
        def predict(self, _rows: object) -> NDArray[Any]:
            return _first(answers)

        def __sklearn_is_fitted__(self) -> bool:
            return True

    if task == OUTLIERS:

        def decision_function(_self: object, _rows: object) -> NDArray[Any]:
            return answers["score"]

        members = {"classes_": classes, "decision_function": decision_function}
        return type("AnsweredDetector", (ClassifierMixin, Answered), members)()

    if task != "classification":
        return type("AnsweredRegressor", (RegressorMixin, Answered), {})()

    def predict_proba(_self: object, _rows: object) -> NDArray[Any]:
        return answers["probabilities"]

    attributes: dict[str, Any] = {"classes_": classes}
    if "probabilities" in answers:
        attributes["predict_proba"] = predict_proba
    return type("AnsweredClassifier", (ClassifierMixin, Answered), attributes)()


def _unknown_labels(classes: NDArray[Any] | None, truth: NDArray[Any]) -> tuple[str, bool]:
    """What the truth holds that is no class of the model, or nothing; whether it holds any class.

    Scorers sort labels of any kind: unknown ones give a meaningless figure.
    """
    if classes is None:
        return "", True
    if {classes.dtype.kind, truth.dtype.kind} <= set("iuf") and np.isin(truth, classes).all():
        return "", True
    known = dict.fromkeys(classes.tolist())
    found = dict.fromkeys(truth.tolist())
    strange = [label for label in found if label not in known]
    if not strange:
        return "", True
    said = (
        f"the truth holds {_some(strange)}, which the model does not know: its classes are "
        f"{_some(list(known))}"
    )
    return said, len(strange) < len(found)


def _some(labels: Sequence[Any]) -> str:
    return ", ".join(map(repr, labels[:5])) + (", ..." if len(labels) > 5 else "")
