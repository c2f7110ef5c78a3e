"""The fairness of a version: its rates by group, on held-out rows and in production."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import Columns, Invalid
from bascule.metrics import (
    FEWEST_IN_GROUP,
    GroupedRows,
    disparity,
    group_rows,
    says_enough,
)
from bascule.monitoring.alerts import Finding
from bascule.monitoring.performance import PredictionRows, Reference, delay_curve, read_ledger
from bascule.release.conditional import texts_of
from bascule.release.criteria import Criterion
from bascule.release.gates import Measured
from bascule.release.measure import conditional, rows_to_judge

if TYPE_CHECKING:
    from bascule.bundle import Bundle

FAIRNESS_KIND, PRODUCTION_KIND = "fairness", "production_fairness"
_RATES = ("selection_rate", "true_positive_rate", "false_positive_rate")
_PARITIES = (
    "demographic_parity_difference",
    "demographic_parity_ratio",
    "equalized_odds_difference",
    "equal_opportunity_difference",
)
_MATURE = 0.9
_ALERT_SPAN = timedelta(days=30)

log = logging.getLogger(__name__)


def held_out_fairness(
    bundle: Bundle,
    attributes: Sequence[str],
    *,
    test: Any = None,
    joined: Columns | None = None,
    positive: Any = None,
) -> dict[str, Any]:
    """The body of a `fairness` statement, from the rows that gates judge.

    Args:
        bundle: What is measured.
        attributes: Names, or several crossed: `sex`, `sex*race`.
        test: `(X, y)`, in place of the held-out rows of the bundle.
        joined: Of the same rows, attributes that the model does not take.
        positive: The class that is selected; see `metrics.group_rows`.

    Raises:
        Invalid: There are no such rows, or there is no such attribute or class.
    """
    rows = rows_to_judge(bundle, test)
    if rows is None or isinstance(rows, Measured):
        raise Invalid(
            rows.note if rows else f"{bundle.name} holds no test rows", hint="give --test FILE"
        )
    answered = conditional(bundle, *rows, joined)
    groupings = {name: answered.grouped(name.split("*"), positive) for name in attributes}
    return {"source": "held-out rows", **_body(groupings)}


def production_fairness(
    home: Path,
    model: str,
    bundle_of: Callable[[str], Bundle | None],
    attributes: Sequence[str],
    *,
    metrics: Sequence[str] = (),
    join: Callable[[NDArray[Any]], Columns] | None = None,
    since: datetime,
    now: datetime,
    positive: Any = None,
) -> dict[str, dict[str, Any]]:
    """By version: the same of the predictions of the ledger, with the truths that have come.

    Every truth counts at equal age, or groups whose truths come later would look otherwise: of
    predictions at least as old as the delay within which nine of ten truths come, those truths that
    came within it.

    `metrics` are names of `metrics.DISPARITIES` beside the usual ones. `join` has attributes by the
    ids of predictions, `ID#ROW`. For the others see `held_out_fairness` and
    `monitoring.measure_performance`.
    """

    def reference_of(version: str) -> Reference | None:
        bundle = bundle_of(version)
        return None if bundle is None else Reference(bundle)

    names = list(dict.fromkeys(name for each in attributes for name in each.split("*")))
    columns = ["id", "row", *names] if join else names
    bodies = {}
    for reference, rows in read_ledger(home, model, reference_of, since=since, columns=columns):
        values = dict(rows.columns)
        if join:
            ids = zip(values["id"].tolist(), values["row"].tolist(), strict=True)
            values |= join(np.array([f"{name}#{row}" for name, row in ids]))
        if missing := [name for name in names if name not in values]:
            raise Invalid(
                f"the ledger has no {missing[0]!r}",
                hint="join it with --attributes FILE --id COLUMN, of prediction ids",
            )
        chosen = np.arange(len(rows))
        if rows.sampling is not None:
            chosen = rows.sampling.uniform(chosen)
        is_known, age_s = known_at_equal_age(rows, now)
        texts = {name: texts_of(values[name][chosen]) for name in names}
        groupings = {
            name: group_rows(
                rows.labelled.take(chosen), {part: texts[part] for part in name.split("*")},
                positive=positive, is_known=is_known[chosen],
            )
            for name in attributes
        }  # fmt: skip
        bodies[rows.version] = {
            "source": "ledger", "digest": reference.bundle.digest, "truths_within_s": age_s,
            **_body(groupings, metrics),
        }  # fmt: skip
    return bodies


def fairness_findings(
    home: Path,
    model: str,
    bundle_of: Callable[[str], Bundle | None],
    criteria: Sequence[Criterion],
    *,
    now: datetime,
) -> list[Finding]:
    """The criteria of groups that a version fails in production, with its whole interval.

    One that the ledger cannot judge, such as of an attribute that is joined to held-out rows, is
    left out, and logged.
    """
    findings = []
    for criterion in criteria:
        groups, metric = str(criterion.condition), criterion.metric
        try:
            bodies = production_fairness(
                home, model, bundle_of, [groups], metrics=[metric], since=now - _ALERT_SPAN, now=now
            )
        except Invalid as problem:
            log.warning("alerts: %s of %s is not judged: %s", criterion, model, problem.message)
            continue
        for version, body in bodies.items():
            apart = body["attributes"][groups]["disparities"][metric]
            nearer = apart["upper" if criterion.wants_more else "lower"]
            if nearer is None or criterion.accepts(nearer):
                continue
            findings.append(Finding(
                "fairness", metric, model, "critical",
                f"{model}/{version}: {criterion} is not met: it is {apart['value']:.4g}, and "
                f"{nearer:.4g} at the nearer end of its 95 % interval",
                apart["value"], criterion.limit, now, version, groups,
                evidence=f"bascule fairness {model} --attribute '{groups}' --from-ledger",
            ))  # fmt: skip
    return findings


def known_at_equal_age(rows: PredictionRows, now: datetime) -> tuple[NDArray[np.bool_], float]:
    """Which predictions are old enough and had their truth by that age, and the age in seconds."""
    if rows.times_us is None or rows.delays_s is None or not rows.is_known.any():
        return rows.is_known, 0.0
    ages = now.timestamp() - rows.times_us / 1e6
    age_s = max(0.0, delay_curve(rows.delays_s, ages).quantile(_MATURE))
    return rows.is_known & (ages >= age_s) & (rows.delays_s <= age_s), age_s


def join_attributes(ids: NDArray[Any], table: Any, column: str) -> Columns:
    """The columns of an Arrow table for these ids; missing where it has no row of an id.

    An id `ID#ROW` is found as `ID` where that is all the table has.

    Raises:
        Invalid: There is no such column, an id is there twice, or no id is known.
    """
    if column not in table.column_names:
        raise Invalid(
            f"--attributes has no column {column!r}",
            hint=f"its columns are {', '.join(table.column_names[:20])}",
        )
    keys = [_key(value) for value in table.column(column).to_pylist()]
    rows = {key: place for place, key in enumerate(keys)}
    if len(rows) < len(keys):
        raise Invalid(f"--attributes has an id of {column!r} twice", hint="keep one row of each id")
    places = [rows.get(key, rows.get(key.rpartition("#")[0])) for key in map(_key, ids.tolist())]
    if len(places) and set(places) == {None}:
        raise Invalid(
            f"--attributes has none of the rows' ids in {column!r}", hint="name another with --id"
        )
    joined = {name: [*table.column(name).to_pylist(), None] for name in table.column_names}
    return {
        name: np.array([values[-1 if place is None else place] for place in places], object)
        for name, values in joined.items()
    }


def _key(value: Any) -> str:
    """An id as text: 7 and 7.0 are one, "007" is another."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _body(groupings: Mapping[str, GroupedRows], metrics: Sequence[str] = ()) -> dict[str, Any]:
    first = next(iter(groupings.values()))
    positive, labels = first.positive, first.rows.classes or ()
    own = ["mean_prediction", "mae"] if first.rows.task == "regression" else ["accuracy"]
    rates, disparities = own, [*metrics, *(f"{name}_difference" for name in own)]
    if positive is not None:
        rates, disparities = [*_RATES, *own], [*_PARITIES, *disparities]
    return {
        "rows": len(first.rows),
        "positive": None if positive is None else str(labels[positive]),
        "fewest": FEWEST_IN_GROUP,
        "attributes": {
            attribute: {
                "groups": {
                    group: _group(grouped, place, rates)
                    for place, group in enumerate(grouped.names)
                },
                "disparities": {name: asdict(disparity(name, grouped)) for name in disparities},
            }
            for attribute, grouped in groupings.items()
        },
    }


def _group(grouped: GroupedRows, place: int, names: Sequence[str]) -> dict[str, Any]:
    rates = {}
    for name in names:
        rate = grouped.of(name, place)
        rates[name] = {
            "value": rate.value, "lower": rate.lower, "upper": rate.upper, "of": rate.fewest,
            "enough": says_enough(rate),
        }  # fmt: skip
    return {"rows": int((grouped.group == place).sum()), "rates": rates}
