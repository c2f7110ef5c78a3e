"""Attributions of production against those of held-out rows: has the model's reasoning moved?

A column that drifts and that the model ignores moves no attribution; one whose interaction with
others matters may move several. The attributions of a day are columns beside inputs and answers and
share their budget of false alarms. A seeded sample of the day's rows is explained, by the bundle
that answered them, when drift is measured: serving pays nothing.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np

from bascule.bundle import Bundle, as_dtype, is_missing, take
from bascule.bundle.explaining import (
    Explainer,
    by_column,
    measured_of,
    open_explainer,
    read_explanation,
)
from bascule.bundle.statements import profile_of
from bascule.core import BasculeError, Columns, NotFound
from bascule.monitoring.drift.windows import as_array
from bascule.monitoring.ledger import Ledger, quoted
from bascule.stats import Profile

PREFIX = "attribution."
"""Of the columns: an input of the same name is another column."""

_MOST_ROWS, _LEAST_ROWS = 500, 25
_BUDGET_S = 0.5
"""For one day: a method that asks the model thousands of times for a row explains fewer rows."""
_BASELINE_ROWS = 2_000
_ALL = 2**64


class ExplainedDays:
    """Profiles of attributions: of the held-out rows of a bundle, and of days of the ledger."""

    def __init__(self, bundle: Bundle, explainer: Explainer, rows: int) -> None:
        self._bundle, self._explainer, self._rows = bundle, explainer, rows

    @classmethod
    def of(cls, bundle: Bundle) -> ExplainedDays | None:
        """None for a bundle that explains nothing or holds no held-out rows."""
        explanation = read_explanation(bundle.path, bundle.manifest)
        if explanation is None or bundle.test_data() is None:
            return None
        measured = measured_of(bundle.path)
        affordable = _MOST_ROWS if measured is None else int(_BUDGET_S / measured.row_cost_s)
        explainer = open_explainer(bundle.path, bundle.manifest, explanation)
        return cls(bundle, explainer, max(_LEAST_ROWS, min(_MOST_ROWS, affordable)))

    def baseline(self) -> Profile:
        """Of the held-out rows: four times as many as of a day."""
        held_out = self._bundle.test_data()
        assert held_out is not None
        rows = min(_BASELINE_ROWS, 4 * self._rows)
        return self._profile(take(held_out[0], slice(rows)))

    def days(self, home: Path, model: str, version: str) -> dict[date, Profile]:
        """Of the days that the ledger has rows of; none where it lacks an input, as private ones.

        About as many rows of a day as are affordable, chosen by the hash of their ids.
        """
        of_version = f"version = {quoted(version)} AND status < 400"
        ledger = Ledger(home)
        try:
            counts = ledger.query(
                "SELECT time::DATE AS day, count(*) AS rows FROM predictions "
                f"WHERE {of_version} GROUP BY 1", model=model,
            ).to_pylist()  # fmt: skip
        except NotFound:
            return {}
        if not counts:
            return {}
        bounds = ", ".join(
            f"(DATE '{one['day']}', {min(_ALL - 1, _ALL * self._rows // one['rows'])}::UBIGINT)"
            for one in counts
        )
        names = [field.name for field in self._bundle.signature.inputs]
        table = ledger.query(
            "SELECT time::DATE AS day, p.* FROM predictions p "
            f"JOIN (VALUES {bounds}) AS b(sampled, bound) ON time::DATE = sampled "
            f"WHERE {of_version} AND hash(id, row) <= bound ORDER BY time, id, row", model=model,
        )  # fmt: skip
        if any(f"input.{name}" not in table.column_names for name in names):
            return {}
        inputs = {name: as_array(table[f"input.{name}"]) for name in names}
        days = np.asarray(table["day"].to_numpy()).astype("datetime64[D]")
        return {
            day.item(): self._profile(
                {name: values[days == day] for name, values in inputs.items()}
            )
            for day in np.unique(days)
        }

    def _profile(self, rows: Columns) -> Profile:
        """Of the rows that the model takes; empty where there is none."""
        signature = self._bundle.signature
        fits = np.ones(len(next(iter(rows.values()))), bool)
        for field in signature.inputs:
            if not field.nullable:
                fits &= ~is_missing(rows[field.name]).reshape(len(fits), -1).any(axis=1)
        known = {
            field.name: as_dtype(rows[field.name][fits], field.dtype) for field in signature.inputs
        }
        if not fits.any():
            return Profile()
        named = by_column(self._explainer, known)
        return profile_of({PREFIX + name: values for name, values in named.items()})


def explained_days(
    home: Path, bundle: Bundle, model: str, version: str
) -> tuple[Profile | None, dict[date, Profile], str]:
    """The baseline of attributions, those of the days, and why there are none where that is odd."""
    try:
        explained = ExplainedDays.of(bundle)
        if explained is None:
            return None, {}, ""
        days = explained.days(home, model, version)
        return (explained.baseline() if days else None), days, ""
    except BasculeError as problem:  # what can be compared without it still is
        return None, {}, f"version {version}: attributions are not compared: {problem.message}"
