"""Attributions of production against those of held-out rows: has the model's reasoning moved?

They are columns beside inputs and answers, and share their budget of false alarms. A seeded sample
of a day's rows is explained, by the bundle that answered them, when drift is measured: serving pays
nothing. Off for a bundle without explanations or held-out rows.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np

from bascule.bundle import Bundle, as_dtype, is_missing, take
from bascule.bundle.explaining import (
    Explainer,
    affordable_rows,
    measured_of,
    open_explainer,
    read_explanation,
)
from bascule.bundle.statements import profile_of
from bascule.core import Columns, NotFound, Signature
from bascule.monitoring.drift.windows import as_array
from bascule.monitoring.ledger import Ledger, quoted
from bascule.stats import Profile

PREFIX = "attribution."
"""Of the names of columns: an input of the same name is another column."""

_MOST_ROWS, _LEAST_ROWS = 500, 25
_BUDGET_S = 0.5
"""For one day: a method that asks the model thousands of times for a row explains fewer rows."""


def explained_days(
    home: Path, bundle: Bundle, model: str, version: str
) -> tuple[Profile | None, dict[date, Profile]]:
    """Profiles of attributions: of held-out rows, four times as many as of a day, and by day.

    Raises:
        BasculeError: The bundle cannot explain its answers as it says.
    """
    explanation, held_out = read_explanation(bundle.path, bundle.manifest), bundle.test_data()
    if explanation is None or held_out is None:
        return None, {}
    measured = measured_of(bundle.path)
    row_cost_s = measured.row_cost_s if measured else 0.0
    rows = affordable_rows(row_cost_s, _BUDGET_S, least=_LEAST_ROWS, most=_MOST_ROWS)
    sampled = _sampled(home, bundle.signature, model, version, rows)
    if not sampled:
        return None, {}
    explainer = open_explainer(bundle.path, bundle.manifest, explanation)
    days = {day: attributed(explainer, bundle.signature, asked) for day, asked in sampled.items()}
    then = attributed(explainer, bundle.signature, take(held_out[0], slice(4 * rows)))
    return then, days


def _sampled(
    home: Path, signature: Signature, model: str, version: str, rows: int
) -> dict[date, Columns]:
    """About so many rows of each day, by the hash of their ids; none where an input is private."""
    of_version = f"version = {quoted(version)} AND status < 400"
    try:
        table = Ledger(home).query(
            "SELECT sampled, p.* FROM predictions p JOIN (SELECT time::DATE AS sampled, count(*) "
            f"AS answered FROM predictions WHERE {of_version} GROUP BY 1) ON time::DATE = sampled "
            f"WHERE {of_version} AND hash(id, row) / 2.0 ** 64 <= {rows} / answered "
            "ORDER BY time, id, row", model=model,
        )  # fmt: skip
    except NotFound:
        return {}
    names = {field.name: f"input.{field.name}" for field in signature.inputs}
    if not set(names.values()) <= set(table.column_names):
        return {}
    inputs = {name: as_array(table[column]) for name, column in names.items()}
    days = np.asarray(table["sampled"].to_numpy()).astype("datetime64[D]")
    return {day.item(): take(inputs, days == day) for day in np.unique(days)}


def attributed(explainer: Explainer, signature: Signature, rows: Columns) -> Profile:
    """The profile of the attributions of the rows without a missing value that may not be.

    Of two outputs it is of those to the second, as in a report on two classes. Of more it is of the
    mean |attribution|: what raises one class lowers others.
    """
    fits = np.ones(len(next(iter(rows.values()))), bool)
    for field in signature.inputs:
        if not field.nullable:
            fits &= ~is_missing(rows[field.name]).reshape(len(fits), -1).any(axis=1)
    if not fits.any():
        return Profile()
    read = {field.name: as_dtype(rows[field.name][fits], field.dtype) for field in signature.inputs}
    by_output = explainer.attributions(read)
    numbers = by_output[:, :, -1]
    if by_output.shape[2] > 2:
        numbers = np.abs(by_output).mean(axis=2)
    names = [PREFIX + name for name in explainer.columns]
    return profile_of(dict(zip(names, numbers.T, strict=True)))
