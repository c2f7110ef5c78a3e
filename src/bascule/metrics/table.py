"""The facts of every metric: direction, unit, and what it needs.

A quality metric has the meaning, and the direction, that scikit-learn's scorer of that name has: a
`neg_...` metric is below zero and better when larger. The short names are for people: `auc` is
`roc_auc` (one against the rest for more than two classes); `rmse`, `mae`, `mse`, `mape`, `brier`
and `log_loss` are errors as one says them, above zero and better when smaller.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from bascule.core import Invalid
from bascule.metrics.orders import CONCORDANCE, NDCG, RANKING, SURVIVAL

SHORT_NAMES: Mapping[str, tuple[str, int]] = {
    "auc": ("roc_auc", 1),
    "brier": ("neg_brier_score", -1),
    "log_loss": ("neg_log_loss", -1),
    "mae": ("neg_mean_absolute_error", -1),
    "mape": ("neg_mean_absolute_percentage_error", -1),
    "mse": ("neg_mean_squared_error", -1),
    "rmse": ("neg_root_mean_squared_error", -1),
}
"""Short name: the scorer behind it, and the sign that turns its score into the metric."""

PINBALL = {f"pinball_{percent}": percent / 100 for percent in (5, 10, 25, 50, 75, 90, 95)}
"""The pinball losses, and the quantile that each is the loss of."""
OWN = frozenset({"ece", *PINBALL})
"""Metrics that scikit-learn has no scorer of. All are errors."""
OF_ORDERS = {**dict.fromkeys(NDCG, RANKING), CONCORDANCE: SURVIVAL}
"""The metrics of an order, and the task that each is of."""

_OF_NUMBERS = """
    d2_absolute_error_score explained_variance neg_max_error neg_mean_absolute_error
    neg_mean_absolute_percentage_error neg_mean_gamma_deviance neg_mean_poisson_deviance
    neg_mean_squared_error neg_mean_squared_log_error neg_median_absolute_error
    neg_root_mean_squared_error neg_root_mean_squared_log_error r2
"""
_OF_PROBABILITIES = """
    average_precision d2_brier_score d2_log_loss_score neg_brier_score neg_log_loss roc_auc
    roc_auc_ovo roc_auc_ovo_weighted roc_auc_ovr roc_auc_ovr_weighted top_k_accuracy
"""
_OF_CLASSES = """
    accuracy adjusted_mutual_info_score adjusted_rand_score balanced_accuracy completeness_score
    f1 f1_macro f1_micro f1_weighted fowlkes_mallows_score homogeneity_score jaccard jaccard_macro
    jaccard_micro jaccard_weighted matthews_corrcoef mutual_info_score
    neg_negative_likelihood_ratio normalized_mutual_info_score positive_likelihood_ratio precision
    precision_macro precision_micro precision_weighted rand_score recall recall_macro recall_micro
    recall_weighted v_measure_score
"""
SCORERS = frozenset((_OF_NUMBERS + _OF_PROBABILITIES + _OF_CLASSES).split())
"""The scorers of scikit-learn that one answer a row is enough for. Named here so that reading a
criterion need not import scikit-learn; a test compares them with what it offers."""

_TWO_CLASSES = {
    "f1": "f1_macro",
    "jaccard": "jaccard_macro",
    "neg_negative_likelihood_ratio": "balanced_accuracy",
    "positive_likelihood_ratio": "balanced_accuracy",
    "precision": "precision_macro",
    "recall": "recall_macro",
    "roc_auc": "roc_auc_ovr",
}
_POSITIVE_IS_1 = frozenset({"f1", "jaccard", "precision", "recall"})
_UNITS = {
    "neg_log_loss": "nats",
    "neg_max_error": "target",
    "neg_mean_absolute_error": "target",
    "neg_mean_squared_error": "target squared",
    "neg_median_absolute_error": "target",
    "neg_root_mean_squared_error": "target",
    **dict.fromkeys(PINBALL, "target"),
}
_UNBOUNDED = """
    d2_absolute_error_score d2_brier_score d2_log_loss_score explained_variance mutual_info_score
    positive_likelihood_ratio r2
"""


@dataclass(frozen=True, slots=True)
class Metric:
    """What is known of a metric before anything is measured.

    Attributes:
        name: As a criterion or an option names it.
        scorer: Of scikit-learn; empty where this room computes it.
        sign: What turns the scorer's value into the metric: 1 or -1.
        is_error: Whether smaller is better, and zero is best.
        of_numbers: Whether truth and answers are numbers; classes otherwise.
        needs_probabilities: Whether labels are not enough.
        with_more_classes: For a metric of two classes, what to use with more; empty for others.
        positive_is_1: Whether it is of the class 1.
        unit: `share`, `nats`, `target` (the unit of the truth), `target squared`, or empty.
        task: The one task that it is of, where that is `RANKING` or `SURVIVAL`; else empty.
    """

    name: str
    scorer: str
    sign: int
    is_error: bool
    of_numbers: bool
    needs_probabilities: bool
    with_more_classes: str
    positive_is_1: bool
    unit: str
    task: str = ""

    @property
    def wants_more(self) -> bool:
        """Whether larger is better."""
        return not self.is_error


def _metric(name: str) -> Metric:
    scorer, sign = SHORT_NAMES.get(name, ("" if name in OWN | OF_ORDERS.keys() else name, 1))
    of_numbers = scorer in _OF_NUMBERS.split() or name in PINBALL
    is_error = sign < 0 or name in OWN
    has_range = not (
        of_numbers or is_error or scorer.startswith("neg_") or name in _UNBOUNDED.split()
    )
    return Metric(
        name, scorer, sign,
        is_error=is_error,
        of_numbers=of_numbers,
        needs_probabilities=scorer in _OF_PROBABILITIES.split() or name == "ece",
        with_more_classes=_TWO_CLASSES.get(name, ""),
        positive_is_1=name in _POSITIVE_IS_1,
        unit=_UNITS.get(scorer or name, "share" if has_range or name == "ece" else ""),
        task=OF_ORDERS.get(name, ""),
    )  # fmt: skip


METRICS: Mapping[str, Metric] = {
    name: _metric(name) for name in sorted(SCORERS | SHORT_NAMES.keys() | OWN | OF_ORDERS.keys())
}
"""Every metric of the quality of predictions, by name."""


def metric_of(name: str) -> Metric:
    """The facts of a metric. Raises `Invalid`, which names the nearest ones."""
    if name not in METRICS:
        near = difflib.get_close_matches(name.casefold(), METRICS, n=3, cutoff=0.5)
        raise Invalid(
            f"there is no metric {name!r}",
            hint=f"did you mean {near[0]!r}?" if near else "usual ones are accuracy, auc, rmse",
            metric=name,
        )
    return METRICS[name]


def is_error(name: str) -> bool:
    """Whether a metric is better when smaller."""
    return name in METRICS and METRICS[name].is_error
