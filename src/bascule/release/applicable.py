"""Whether criteria ask for something that a bundle has. Pure: nothing is measured.

What does not apply to a model is a mistake in the criterion: an error, and not a failed gate. What
applies and cannot be measured, such as quality without held-out rows, is a failed gate.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bascule.bundle.disk import (
    CLASSIFICATIONS,
    GENERATION,
    OUTLIERS,
    RANKING,
    REGRESSIONS,
    TRUTHS,
    generates_text,
)
from bascule.bundle.statements import flat_columns
from bascule.core import Invalid
from bascule.metrics import DISPARITIES, METRICS
from bascule.release.conditions import Each, Groups, Missing, Slice
from bascule.release.criteria import FIRST_CRITERION, QUALITIES, ROBUST, TEXTS, Criterion, NotWorse

if TYPE_CHECKING:
    from bascule.bundle import Bundle

_FOR = {True: "rmse <= 3.5 or r2 >= 0.8", False: "accuracy >= 0.9 or roc_auc >= 0.8"}


def check_applicable(
    bundle: Bundle, criteria: Sequence[Criterion], attributes: Sequence[str] = ()
) -> None:
    """Raise `Invalid`, which names the criterion and the next step, if one does not apply.

    `attributes` are names of columns beside those of the model, by which rows can be grouped.
    """
    for one in criteria:
        if one.metric in DISPARITIES or one.metric in ROBUST:
            _check_labels(bundle, one)
        generates = generates_text(bundle.signature)
        if generates != (one.metric in TEXTS) and one.metric in {*QUALITIES, *ROBUST, *TEXTS}:
            what = "generates text" if generates else f"is for {bundle.task}"
            task = GENERATION if generates else bundle.task
            raise Invalid(
                f"{str(one)!r}: {one.metric} is no metric of {bundle.name}, which {what}",
                hint=f"write {FIRST_CRITERION.get(task, 'size <= 20 MB')}",
            )
        if one.metric in QUALITIES:
            _check_quality(bundle, one)
        if isinstance(one.condition, Slice | Each) and one.condition.column not in attributes:
            _check_column(bundle, one, one.condition)
        if isinstance(one.condition, Groups):
            for column in set(one.condition.columns).difference(attributes):
                _check_column(bundle, one, Each(column))
        if isinstance(one.condition, Missing) and not any(
            field.nullable for field in bundle.signature.inputs
        ):
            raise Invalid(
                f"{str(one)!r}: no column of the model takes missing values",
                hint=f"write {one.metric}[noise 1%]",
            )


def _check_quality(bundle: Bundle, criterion: Criterion) -> None:
    of_numbers, of_task = METRICS[criterion.metric].of_numbers, METRICS[criterion.metric].task
    for name, task, classes in _outputs(bundle):
        if of_task != (task if task in TRUTHS else ""):
            what = f"a metric of {of_task}" if of_task else "no metric of orders"
            raise Invalid(
                f"{str(criterion)!r}: {criterion.metric} is {what}, and {name} is for {task}",
                hint=f"write {FIRST_CRITERION[task]}",
            )
        if of_task == RANKING and isinstance(criterion, NotWorse):
            raise Invalid(
                f"{str(criterion)!r}: a comparison of groups with another version is not measured",
                hint=f"write {FIRST_CRITERION[task]}",
            )
        if of_task:
            continue
        if (task == "regression") != of_numbers:
            kind, whose = ("numbers", "classes") if of_numbers else ("classes", "numbers")
            raise Invalid(
                f"{str(criterion)!r}: {criterion.metric} is a metric of {kind}, and {name} "
                f"answers with {whose}",
                hint=f"write {_FOR[not of_numbers]}",
            )
        if task == "classification":
            _check_classes(bundle, criterion, name, classes or ())


def _check_labels(bundle: Bundle, criterion: Criterion) -> None:
    """Fairness and robustness are of one output; most rates are of labels."""
    rates = DISPARITIES.get(criterion.metric, ())
    is_of_numbers = all(
        rate == "mean_prediction" or (rate in METRICS and METRICS[rate].of_numbers)
        for rate in rates
    )
    tasks = ["regression"] if rates and is_of_numbers else ["classification", OUTLIERS]
    if bundle.task not in tasks:
        raise Invalid(
            f"{str(criterion)!r}: {criterion.metric} is of {tasks[0]}, and {bundle.name} is for "
            f"{bundle.task}",
            hint="write mae_difference[sex] <= 0.5" if rates and bundle.task == "regression"
            else f"write {FIRST_CRITERION.get(bundle.task, 'latency_p50 <= 5 ms')}",
        )  # fmt: skip


def _outputs(bundle: Bundle) -> list[tuple[str, str, Sequence[object] | None]]:
    """Name, task and classes of every output whose task is known."""
    tasks = {CLASSIFICATIONS: "classification", REGRESSIONS: "regression"}
    if bundle.task in tasks:
        return [
            (f"output {one.name}", "regression" if one.classes is None else "classification",
             one.classes)
            for one in bundle.targets
        ]  # fmt: skip
    known = bundle.task in FIRST_CRITERION
    return [(bundle.name, bundle.task, bundle.classes)] if known else []


def _check_classes(
    bundle: Bundle, criterion: Criterion, name: str, classes: Sequence[object]
) -> None:
    metric = criterion.metric
    facts = METRICS[metric]
    outputs = {field.name.partition(".")[0] for field in bundle.signature.outputs}
    if facts.needs_probabilities and "probabilities" not in outputs:
        raise Invalid(
            f"{str(criterion)!r}: {metric} needs probabilities, and {name} gives none",
            hint="write accuracy >= 0.9 or f1_macro >= 0.8",
        )
    if len(classes) > 2 and facts.with_more_classes:
        raise Invalid(
            f"{str(criterion)!r}: {metric} is a metric of two classes, and {name} has "
            f"{len(classes)}",
            hint=f"write {str(criterion).replace(metric, facts.with_more_classes, 1)}",
        )
    if len(classes) == 2 and facts.positive_is_1 and 1 not in classes:
        raise Invalid(
            f"{str(criterion)!r}: {metric} is of the class 1, and the classes of {name} are "
            f"{', '.join(map(repr, classes))}",
            hint=f"write {str(criterion).replace(metric, f'{metric}_macro', 1)}",
        )


def _check_column(bundle: Bundle, criterion: Criterion, condition: Slice | Each) -> None:
    fields = {one.name: one for one in bundle.signature.inputs}
    no_rows = {
        one.name: np.empty((0, *(max(length, 0) for length in one.shape)))
        for one in bundle.signature.inputs
    }
    known = list(flat_columns(no_rows, bundle.signature))
    if condition.column not in known:
        near = difflib.get_close_matches(condition.column, known, n=1)
        raise Invalid(
            f"{str(criterion)!r}: the model has no column {condition.column!r}",
            hint=f"did you mean {near[0]!r}?"
            if near
            else f"one of {', '.join(known[:20])}; others are joined with --attributes",
        )
    field = fields.get(condition.column)
    if not isinstance(condition, Slice) or field is None or field.categories is None:
        return
    values = [str(one) for one in field.categories]
    if field.dtype.value == "BYTES" and condition.value not in (*values, "missing"):
        near = difflib.get_close_matches(condition.value, values, n=1)
        raise Invalid(
            f"{str(criterion)!r}: no {condition.column} is {condition.value!r}",
            hint=f"did you mean {near[0]!r}?" if near else f"one of {', '.join(values[:20])}",
        )
