"""Compares a bundle with another version on the same rows, for criteria that ask for it.

Both answer the candidate's test rows. `accuracy` is compared by the rows that each has right
(Tango's interval, with McNemar's test told beside it), everything else by a paired bootstrap; see
`stats.paired`. The interval is at 90 %, so that a candidate which is worse by the margin or more
passes at most once in twenty times. An average over classes is judged by the rows of the rarest.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import conform, load
from bascule.core import Columns, NotFound, Reference, check_name
from bascule.metrics import is_error
from bascule.release.conditional import attempted
from bascule.release.criteria import NotWorse
from bascule.release.gates import Measured
from bascule.release.measure import answers_of, rows_to_judge, score_of
from bascule.stats import (
    CONFIDENCE,
    RESAMPLES,
    Comparison,
    Difference,
    bootstrap,
    compare_right,
    roc_auc_difference,
)

if TYPE_CHECKING:
    from bascule.bundle import Bundle
    from bascule.registry import ModelRegistry

Find = Callable[[str], "Bundle | None"]
"""The bundle that a name stands for; None where nothing can be named yet. Raises `NotFound`."""

_MANY_ROWS = 20_000
_FEWER_RESAMPLES = 400

# What one row can cost, times the rows that share in the metric: `reach` of `stats.paired`. A row
# of the rarest of two classes moves their mean, or F1 near its best, by a half of its own.
_BY_CLASS = {
    "auc": 0.5,
    "average_precision": 1.0,
    "balanced_accuracy": 0.5,
    "f1": 0.5,
    "f1_macro": 0.5,
    "jaccard": 1.0,
    "jaccard_macro": 0.5,
    "matthews_corrcoef": 1.0,
    "neg_negative_likelihood_ratio": None,
    "positive_likelihood_ratio": None,
    "precision": 1.0,
    "precision_macro": 0.5,
    "recall": 1.0,
    "recall_macro": 0.5,
    "roc_auc": 0.5,
    "roc_auc_ovo": 0.5,
    "roc_auc_ovr": 0.5,
}
_BY_ROW = dict.fromkeys(
    (
        "accuracy",
        "brier",
        "ece",
        "f1_micro",
        "f1_weighted",
        "jaccard_micro",
        "jaccard_weighted",
        "neg_brier_score",
        "precision_micro",
        "precision_weighted",
        "recall_micro",
        "recall_weighted",
        "roc_auc_ovo_weighted",
        "roc_auc_ovr_weighted",
        "top_k_accuracy",
    ),
    1.0,
)


def finder(registry: ModelRegistry, model: str) -> Find:
    """Finds versions of `model` by alias (`champion`), or any by its reference (`gb/3`).

    Before the first alias of a model was set there is nothing that it could be worse than. Once
    one was, an alias that is not there is a mistake; so is a registry that is not there.
    """

    def find(against: str) -> Bundle | None:
        if "@" in against or "/" in against:
            reference = Reference.parse(against)
        else:
            reference = Reference(model, alias=check_name(against, what="alias"))
            if not _has_had_an_alias(registry, model):
                return None
        return load(registry.path(registry.resolve(reference)))

    return find


def _has_had_an_alias(registry: ModelRegistry, model: str) -> bool:
    try:
        return any(event.kind == "alias_moved" for event in registry.history(model))
    except NotFound as problem:
        if problem.facts.get("model") == model:  # the registry is there, and this is its first
            return False
        raise NotFound(
            f"{problem.message}: point BASCULE_HOME or the section [registry] of bascule.toml to "
            "it, or push the first version and check that"
        ) from None


def measure_against(
    bundle: Bundle,
    criteria: Sequence[NotWorse],
    *,
    test: Any = None,
    find: Find | None = None,
    confidence: float = CONFIDENCE,
) -> dict[str, Measured]:
    """A fact for each of the criteria: the lower end of the interval of the difference.

    Args:
        bundle: The candidate.
        criteria: What to compare, and with whom.
        test: `(X, y)`, in place of the held-out rows of the candidate.
        find: Where the others are.
        confidence: Of the intervals, both sides together.

    Raises:
        Invalid: `test` is not a pair of rows and as many answers.
    """
    held_out = rows_to_judge(bundle, test)
    if isinstance(held_out, Measured):
        return {one.measure: held_out for one in criteria}
    return {one.measure: _measured(bundle, one, held_out, find, confidence) for one in criteria}


def _measured(
    bundle: Bundle,
    criterion: NotWorse,
    held_out: tuple[Columns, NDArray[Any] | None] | None,
    find: Find | None,
    confidence: float,
) -> Measured:
    columns, truth = held_out or ({}, None)
    if truth is None:
        return Measured(
            None, "the bundle holds no test rows with their truth; pack it with test=(X, y)"
        )
    if find is None:
        return Measured(None, f"there is no registry to look for {criterion.against} in")

    def compared() -> Measured:
        champion = find(criterion.against)
        if champion is None:
            return Measured(
                None,
                f"no alias of {bundle.name} was ever set, so there is no {criterion.against} that "
                "it could be worse than",
                is_waived=True,
            )
        return _Pair(criterion, champion, bundle, columns, truth, confidence).measured()

    return attempted(compared, failing=f"not compared with {criterion.against}: ")


class _Pair:
    """Two bundles and what they answer for the same rows."""

    def __init__(
        self,
        criterion: NotWorse,
        champion: Bundle,
        candidate: Bundle,
        columns: Columns,
        truth: NDArray[Any],
        confidence: float,
    ) -> None:
        self._criterion, self._confidence = criterion, confidence
        self._metric = criterion.metric
        self._sign = -1 if is_error(criterion.metric) else 1
        self._truth = truth
        self._bundles = (champion, candidate)
        theirs = conform(_named(columns, candidate), champion.signature)
        self._outputs = (answers_of(champion, theirs), answers_of(candidate, columns))

    def measured(self) -> Measured:
        """The lower end of the interval, and all that a person wants to know of it."""
        every = np.arange(len(self._truth))
        scores = [self._score(which, every) for which in (0, 1)]
        for score, whose in zip(scores, (self._criterion.against, "the candidate"), strict=True):
            if score.value is None:
                return Measured(None, f"{self._metric} of {whose}: {score.note}")
        if self._bundles[0].digest == self._bundles[1].digest:
            return Measured(
                0.0,
                f"{self._metric} {scores[1].value:.5g}; the candidate is {self._criterion.against} "
                f"itself ({self._bundles[0].digest[7:19]}): better by 0 on any rows",
                brief="they are the same model",
            )
        compared = self._compare()
        return Measured(
            compared.lower,
            f"{self._metric} {scores[1].value:.5g}, and {scores[0].value:.5g} of "
            f"{self._criterion.against} ({self._bundles[0].digest[7:19]}), on {len(every):,} rows: "
            f"better by {compared.difference:.3g}, {compared.confidence:.0%} interval "
            f"[{compared.lower:.3g}, {compared.upper:.3g}], whose lower end counts "
            f"({compared.test})",
            brief=f"{self._metric} {scores[1].value:.4g} against {scores[0].value:.4g} on "
            f"{len(every):,} rows, {_interval_in_words(compared)}",
        )

    def _compare(self) -> Comparison:
        if self._metric == "accuracy" and self._truth.ndim == 1:
            right = [np.asarray(_label(out) == self._truth, bool) for out in self._outputs]
            return compare_right(right[0], right[1], confidence=self._confidence)
        rows = len(self._truth)
        areas = self._areas()
        is_quick = areas is not None or rows <= _MANY_ROWS
        return bootstrap(
            areas or self._difference,
            rows,
            fewest=_rarest(self._truth) if self._metric in _BY_CLASS else rows,
            reach=_BY_CLASS.get(self._metric, _BY_ROW.get(self._metric)),
            resamples=RESAMPLES if is_quick else _FEWER_RESAMPLES,
            confidence=self._confidence,
        )

    def _areas(self) -> Difference | None:
        """The quick way for the area under the curve of two classes."""
        first, second = (bundle.classes for bundle in self._bundles)
        if first is None or first != second or len(first) != 2:
            return None
        if self._metric not in ("auc", "roc_auc"):
            return None
        chances = [outputs["probabilities"][:, 1] for outputs in self._outputs]
        return roc_auc_difference(self._truth == first[1], chances[0], chances[1])

    def _difference(self, rows: NDArray[np.int64]) -> float:
        champion, candidate = (self._score(which, rows).value for which in (0, 1))
        if champion is None or candidate is None:  # a draw without one of the classes
            return math.nan
        return self._sign * (candidate - champion)

    def _score(self, which: int, rows: NDArray[np.int64]) -> Measured:
        outputs = {name: values[rows] for name, values in self._outputs[which].items()}
        return score_of(self._bundles[which], self._metric, outputs, self._truth[rows])


def _interval_in_words(compared: Comparison) -> str:
    """`between 0.025 worse and 0.029 better at 93.9 %`."""
    level = f"at {compared.confidence * 100:.3g} %"
    sizes = [f"{abs(end):.2g}" for end in (compared.lower, compared.upper)]
    if compared.lower >= 0:
        return f"{sizes[0]} to {sizes[1]} better {level}"
    if compared.upper <= 0:
        return f"{sizes[1]} to {sizes[0]} worse {level}"
    return f"between {sizes[0]} worse and {sizes[1]} better {level}"


def _rarest(truth: NDArray[Any]) -> int:
    """How many rows have the rarest class; of several outputs, that of the one with the fewest."""
    columns = truth.reshape(len(truth), -1).T
    return min(min(Counter(column.tolist()).values()) for column in columns)


def _named(columns: Columns, bundle: Bundle) -> Any:
    """The rows of a bundle in a form that others can take: by the names of their columns."""
    names = bundle.signature.columns
    if not bundle.signature.is_matrix:
        return columns
    matrix = next(iter(columns.values()))
    if not names:
        return matrix
    return {name: matrix[:, place] for place, name in enumerate(names)}


def _label(outputs: Columns) -> NDArray[Any]:
    return outputs.get("label", next(iter(outputs.values())))
