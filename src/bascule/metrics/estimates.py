"""The value of a metric with its interval and its number of rows.

A metric is a smooth function of means over rows. Its influence values say by how much each row
moves it (Hampel 1974); their mean square over the rows is the squared standard error (the delta
method; for the area under a curve this is DeLong, DeLong and Clarke-Pearson 1988). One pass over
the rows gives the value and the error, and the errors of two groups of rows can be compared.
Metrics without such a function here are scorers of scikit-learn: their error is that of a
bootstrap. Values are those of scikit-learn; only numpy is needed for the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.metrics.calibration import calibration_error
from bascule.metrics.intervals import (
    FEWEST_ROWS,
    logit_interval,
    skewed_interval,
    wilson_interval,
)  # fmt: skip
from bascule.metrics.scores import score
from bascule.metrics.table import METRICS, PINBALL, metric_of

Floats = NDArray[np.float64]
Influence = tuple[float, Floats]
"""A value, and the influence of each row on it."""

_DRAWS = 200
_MOST_REPEATED = 1 << 20
_TOO_FEW = "too few rows for an interval"
_SMALLEST = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class Labelled:
    """Answers with their truth, one row each.

    Attributes:
        task: `classification` or `regression`.
        truth: The place of the true class in `classes`, -1 for any other; or numbers.
        answers: The place of the answered class; or numbers. Shape (rows,).
        classes: The labels; None for numbers.
        probabilities: Shape (rows, classes), NaN where a row has none; None where no row has any.
        weights: 1 divided by the probability with which each row was chosen to get a truth; None
            where all rows count alike. Shape (rows,).
    """

    task: str
    truth: NDArray[Any]
    answers: NDArray[Any]
    classes: Sequence[Any] | None = None
    probabilities: Floats | None = None
    weights: Floats | None = None

    def __len__(self) -> int:
        return len(self.truth)

    def with_probabilities(self) -> Labelled:
        """The rows that have them."""
        if self.probabilities is None:
            return self
        there = ~np.isnan(self.probabilities[:, 0])
        return self if there.all() else self.take(there)

    def take(self, rows: Any) -> Labelled:
        """Some of the rows, by number or by mask."""
        chances = None if self.probabilities is None else self.probabilities[rows]
        weights = None if self.weights is None else self.weights[rows]
        truth, answers = self.truth[rows], self.answers[rows]
        return Labelled(self.task, truth, answers, self.classes, chances, weights)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and how far it may be off.

    Attributes:
        value: None where the metric has none on these rows.
        lower: The ends of the interval; None without a value.
        upper: See `lower`.
        rows: How many were measured.
        error: The standard error.
        fewest: How many rows decide: those of the rarer class, or the denominator of a share.
        successes: Of `fewest`, for a plain share; None for any other metric.
        method: `wilson`, `logit`, `skewed` or `bootstrap`.
        note: Why there is no value, or no interval.
    """

    value: float | None
    lower: float | None = None
    upper: float | None = None
    rows: int = 0
    error: float = math.nan
    fewest: int = 0
    successes: int | None = None
    method: str = ""
    note: str = ""


def estimate(name: str, rows: Labelled, *, confidence: float = 0.95) -> Estimate:
    """The value of a metric on labelled rows, with an interval.

    Raises:
        Invalid: There is no such metric.
        ImportError: The metric is a scorer of scikit-learn, which is not installed.
    """
    metric = metric_of(name)
    if metric.needs_probabilities:
        rows = rows.with_probabilities()
    if problem := _not_applicable(name, rows):
        return Estimate(None, rows=len(rows), note=problem)
    if rows.weights is not None and np.ptp(rows.weights):
        return _weighted(name, rows, confidence)
    if counted := _counts(name, rows):
        successes, trials = counted
        if not trials:
            return Estimate(None, rows=len(rows), note="no row counts for it")
        share = successes / trials
        error = math.sqrt(share * (1 - share) / trials)
        ends = wilson_interval(successes, trials, confidence)
        return Estimate(share, *ends, len(rows), error, trials, successes, "wilson")
    made = _INFLUENCES.get(name)
    if made is None:
        return _bootstrapped(name, rows, confidence)
    value, influence = made(rows)
    if not math.isfinite(value):
        return Estimate(None, rows=len(rows), note="it has no value on these rows")
    error = math.sqrt(float(np.mean(influence**2)) / max(1, len(rows) - 1))
    fewest = _fewest(rows) if metric.unit == "share" else len(rows)
    if name == "ece":
        fewest = len(rows)
    if metric.unit == "share":
        ends = logit_interval(value, error, fewest, confidence)
        return Estimate(value, *ends, len(rows), error, fewest, None, "logit")
    skewed = _skewed_ends(value, influence, confidence)
    if skewed is None:
        return Estimate(value, rows=len(rows), note=_TOO_FEW)
    lower = max(0.0, skewed[0]) if metric.is_error else skewed[0]
    return Estimate(value, lower, skewed[1], len(rows), error, fewest, None, "skewed")


def mean_estimate(values: NDArray[Any], confidence: float = 0.95) -> Estimate:
    """The mean of numbers, one a row, with an interval."""
    rows = len(values)
    if not rows or not np.isfinite(values).all():
        return Estimate(None, rows=rows, note="it has no value on these rows")
    value, influence = _mean(values)
    ends = _skewed_ends(value, influence, confidence)
    if ends is None:
        return Estimate(value, rows=rows, note=_TOO_FEW)
    error = math.sqrt(float(np.mean(influence**2)) / (rows - 1))
    return Estimate(value, *ends, rows, error, rows, None, "skewed")


def _skewed_ends(value: float, influence: Floats, confidence: float) -> tuple[float, float] | None:
    """Of a mean of rows with such influences; None of too few."""
    rows = len(influence)
    if rows < FEWEST_ROWS:
        return None
    spread = math.sqrt(float(np.mean(influence**2)) * rows / (rows - 1))
    skewness = float(np.mean(influence**3)) / spread**3 if spread > 0 else 0.0
    return skewed_interval(value, spread / math.sqrt(rows), skewness, rows, confidence)


def _not_applicable(name: str, rows: Labelled) -> str:
    """Why the metric cannot be measured on such rows; empty where it can."""
    metric = METRICS[name]
    if not len(rows):
        return "there are no rows with their truth"
    if metric.task:
        return f"it is a metric of {metric.task}"
    if metric.of_numbers != (rows.task == "regression"):
        return f"it is a metric of {'numbers' if metric.of_numbers else 'classes'}"
    if metric.needs_probabilities and rows.probabilities is None:
        return "it needs probabilities, and there are none"
    classes = rows.classes or ()
    if metric.with_more_classes and len(classes) > 2:
        return f"it is a metric of two classes; use {metric.with_more_classes}"
    if metric.positive_is_1 and 1 not in classes:
        return f"it is of the class 1, and the classes are {', '.join(map(repr, classes[:5]))}"
    return ""


def _fewest(rows: Labelled) -> int:
    """Rows of the rarest class that is there at all."""
    counts = np.bincount(rows.truth[rows.truth >= 0], minlength=1)
    return int(counts[counts > 0].min(initial=len(rows)))


# -- shares of rows --


def _counts(name: str, rows: Labelled) -> tuple[int, int] | None:
    """Successes and rows of a plain share; None for any other metric."""
    if name == "accuracy":
        return int((rows.truth == rows.answers).sum()), len(rows)
    if name not in ("precision", "recall"):
        return None
    true, answered = _positive(rows)
    of = answered if name == "precision" else true
    return int((true & answered).sum()), int(of.sum())


def _positive(rows: Labelled) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    place = list(rows.classes or ()).index(1)
    return rows.truth == place, rows.answers == place


# -- functions of means --


def _mean(values: NDArray[Any]) -> Influence:
    value = float(np.mean(values))
    return value, np.asarray(values, np.float64) - value


def _ratio(above: NDArray[Any], below: NDArray[Any]) -> Influence:
    """Of two means; 0 where the lower one is 0, as scikit-learn has it."""
    total = float(np.mean(below))
    if not total:
        return 0.0, np.zeros(len(below))
    value = float(np.mean(above)) / total
    return value, (above - value * below) / total


def _root(squares: Influence) -> Influence:
    value = math.sqrt(squares[0])
    return value, squares[1] / (2 * value) if value else squares[1]


def _average(parts: Sequence[Influence]) -> Influence:
    return (
        float(np.mean([value for value, _ in parts])),
        np.mean([influence for _, influence in parts], axis=0),
    )


def _missed(rows: Labelled) -> Floats:
    missed: Floats = np.asarray(rows.truth, np.float64) - rows.answers
    return missed


def _r2(rows: Labelled) -> Influence:
    squares, around = _missed(rows) ** 2, (rows.truth - rows.truth.mean()) ** 2
    value, influence = _ratio(squares, around)
    return (1 - value, -influence) if around.any() else (math.nan, influence)


def _pinball(share: float) -> Callable[[Labelled], Influence]:
    def loss(rows: Labelled) -> Influence:
        missed = _missed(rows)
        return _mean(np.maximum(share * missed, (share - 1) * missed))

    return loss


def _log_loss(rows: Labelled) -> Influence:
    chances = np.asarray(rows.probabilities)
    own = chances[np.arange(len(rows)), rows.truth] / chances.sum(axis=1)
    own[rows.truth < 0] = 0.0
    return _mean(-np.log(np.clip(own, _SMALLEST, 1.0)))


def _brier(rows: Labelled) -> Influence:
    chances = np.asarray(rows.probabilities)
    if chances.shape[1] == 2:
        return _mean((chances[:, 1] - (rows.truth == 1)) ** 2)
    happened = rows.truth[:, None] == np.arange(chances.shape[1])
    return _mean(((chances - happened) ** 2).sum(axis=1))


def _ece(rows: Labelled) -> Influence:
    """Rows of a bin share one sign, so the influence is that of a mean of signed errors."""
    chances = np.asarray(rows.probabilities)
    sure = chances.max(axis=1)
    right = chances.argmax(axis=1) == rows.truth
    value = calibration_error(right, sure)
    return value, _mean(right - sure)[1]


def _by_class(rows: Labelled) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    there = np.union1d(rows.truth, rows.answers)
    return [(rows.truth == place, rows.answers == place) for place in there.tolist()]


def _balanced_accuracy(rows: Labelled) -> Influence:
    return _average([_ratio(true & said, true) for true, said in _by_class(rows) if true.any()])


def _f1(true: NDArray[np.bool_], said: NDArray[np.bool_]) -> Influence:
    return _ratio(2.0 * (true & said), true.astype(float) + said)


def _roc_auc(rows: Labelled) -> Influence:
    """Of several classes, the mean over one against the rest."""
    chances = np.asarray(rows.probabilities)
    places = [1] if chances.shape[1] == 2 else range(chances.shape[1])
    return _average([_area(rows.truth == place, chances[:, place]) for place in places])


def _area(true: NDArray[np.bool_], scores: Floats) -> Influence:
    """The chance that a true row scores higher than another; ties count half."""
    yes, no = scores[true], scores[~true]
    if not len(yes) or not len(no):
        return math.nan, np.zeros(len(scores))
    influence = np.empty(len(scores))
    influence[true] = _share_below(yes, no)
    influence[~true] = 1 - _share_below(no, yes)
    value = float(influence[true].mean())
    influence[true] = (influence[true] - value) * len(scores) / len(yes)
    influence[~true] = (influence[~true] - value) * len(scores) / len(no)
    return value, influence


def _share_below(scores: Floats, others: Floats) -> Floats:
    ordered = np.sort(others)
    below = np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")
    made: Floats = below / (2 * len(others))
    return made


_INFLUENCES: dict[str, Callable[[Labelled], Influence]] = {
    "auc": _roc_auc,
    "balanced_accuracy": _balanced_accuracy,
    "brier": _brier,
    "ece": _ece,
    "f1": lambda rows: _f1(*_positive(rows)),
    "f1_macro": lambda rows: _average([_f1(*one) for one in _by_class(rows)]),
    "log_loss": _log_loss,
    "mae": lambda rows: _mean(np.abs(_missed(rows))),
    "mape": lambda rows: _mean(np.abs(_missed(rows)) / np.maximum(np.abs(rows.truth), _SMALLEST)),
    "mse": lambda rows: _mean(_missed(rows) ** 2),
    "precision_macro": lambda rows: _average(
        [_ratio(true & said, said) for true, said in _by_class(rows)]
    ),
    "r2": _r2,
    "recall_macro": lambda rows: _average(
        [_ratio(true & said, true) for true, said in _by_class(rows)]
    ),
    "rmse": lambda rows: _root(_mean(_missed(rows) ** 2)),
    "roc_auc": _roc_auc,
    "roc_auc_ovr": _roc_auc,
    **{name: _pinball(share) for name, share in PINBALL.items()},
}
_SHARES: dict[str, Callable[[Labelled], Influence]] = {
    "accuracy": lambda rows: _mean(rows.truth == rows.answers),
    "precision": lambda rows: _ratio(np.logical_and(*_positive(rows)), _positive(rows)[1]),
    "recall": lambda rows: _ratio(np.logical_and(*_positive(rows)), _positive(rows)[0]),
}


# -- rows that were chosen with unequal probabilities --


def _weighted(name: str, rows: Labelled, confidence: float) -> Estimate:
    """The estimator of Hájek (1971), of any function of means: each row is repeated by its weight.

    The error is that of Poisson sampling (Särndal, Swensson and Wretman 1992, section 5.5): squares
    of what each chosen row moves, with all of its repetitions. Weights are whole numbers of the
    smallest one, to within a hundredth of it where memory allows.
    """
    made = _INFLUENCES.get(name) or _SHARES.get(name)
    if made is None:
        return Estimate(None, rows=len(rows), note="it is not measured on reviewed rows")
    ratios = np.asarray(rows.weights) / np.min(np.asarray(rows.weights))
    is_whole = np.allclose(ratios, np.rint(ratios))
    steps = 1 if is_whole else max(1, min(100, int(_MOST_REPEATED / ratios.sum())))
    times = np.rint(ratios * steps).astype(np.int64)
    repeated = rows.take(np.repeat(np.arange(len(rows)), times))
    value, influence = made(repeated)
    if not math.isfinite(value):
        return Estimate(None, rows=len(rows), note="it has no value on these rows")
    moved = np.add.reduceat(influence, np.cumsum(times) - times)
    spread = float((moved**2).sum()) * len(rows) / max(1, len(rows) - 1)
    error = math.sqrt(spread) / len(repeated)
    effective = max(1, int(len(repeated) ** 2 / float((times.astype(float) ** 2).sum())))
    if METRICS[name].unit == "share":
        fewest = min(effective, _fewest(rows))
        ends = logit_interval(value, error, fewest, confidence)
        return Estimate(value, *ends, len(rows), error, fewest, None, "logit")
    if effective < FEWEST_ROWS:
        return Estimate(value, rows=len(rows), note=_TOO_FEW)
    lower, upper = skewed_interval(value, error, 0.0, effective, confidence)
    lower = max(0.0, lower) if METRICS[name].is_error else lower
    return Estimate(value, lower, upper, len(rows), error, effective, None, "skewed")


# -- everything else --


def _bootstrapped(name: str, rows: Labelled, confidence: float) -> Estimate:
    """The percentile interval of draws of rows with replacement; the same rows, the same ends."""
    found = _scored(name, rows)
    if found is None or not math.isfinite(found):
        return Estimate(None, rows=len(rows), note="it has no value on these rows")
    random = np.random.default_rng(0)
    draws = [
        _scored(name, rows.take(random.integers(0, len(rows), len(rows)))) for _ in range(_DRAWS)
    ]
    known = np.array([one for one in draws if one is not None and math.isfinite(one)])
    if len(known) < 0.95 * _DRAWS:
        return Estimate(found, rows=len(rows), fewest=0, note=_TOO_FEW)
    share = (1 - confidence) / 2
    lower, upper = np.quantile(known, [share, 1 - share]).tolist()
    fewest = len(rows) if rows.task == "regression" else _fewest(rows)
    return Estimate(
        found, min(lower, found), max(upper, found), len(rows), float(known.std(ddof=1)), fewest,
        None, "bootstrap",
    )  # fmt: skip


def _scored(name: str, rows: Labelled) -> float | None:
    known = rows if rows.task == "regression" else rows.take(rows.truth >= 0)
    if rows.task == "regression":
        answers = {"prediction": known.answers}
        return score(name, known.truth, answers, task=rows.task).value
    labels = np.asarray(rows.classes)
    answers = {"label": labels[known.answers]}
    if known.probabilities is not None:
        answers["probabilities"] = known.probabilities
    return score(name, labels[known.truth], answers, task=rows.task, classes=rows.classes).value
