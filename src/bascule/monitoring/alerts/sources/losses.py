"""Concept drift: the losses of a version's answers grow, in the order in which truths arrive.

River's Page-Hinkley test (Page 1954) sees a step, its ADWIN (Bifet and Gavalda 2007) also a slow
change. Each has half of the budget of false alarms. Page-Hinkley is a CUSUM of X - p - d: with the
threshold ln(A) / t, where E exp(t (X - p - d)) = 1, at least A outcomes pass between two false
alarms on average (Lorden 1971). ADWIN errs at each of its looks with its `delta` at most. Both
assume independent losses. p is measured, so that d has three standard errors of it. A loss is 1 for
a wrong label.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from bascule.core import library
from bascule.monitoring.alerts.findings import Finding, Observation, Source
from bascule.monitoring.ledger import Ledger, quoted

LOSSES_SOURCE = "losses"
REFERENCE = 500
"""Outcomes that say what is usual, at the start and after each alarm."""
SHOWN = timedelta(days=7)
"""For so long after its last outcome, an alarm is a finding."""
_LEAST_SHIFT, _ERRORS, _CLOCK = 0.02, 3.0, 32
_AT = "truth_first_received_at"
_YEAR_S = 365 * 86_400.0
_MODELS = "SELECT DISTINCT model FROM predictions_with_outcomes WHERE is_outcome ORDER BY model"
_LOSSES = """
SELECT version, epoch(time) AS time_s, truth_first_received_at, NOT coalesce(
    truth_number = TRY_CAST("output.label"::VARCHAR AS DOUBLE), truth = "output.label"::VARCHAR
) AS is_wrong
FROM newest_predictions WHERE model = {model} AND is_outcome AND is_wrong IS NOT NULL {since}
ORDER BY truth_first_received_at, time, endpoint, id, row
"""


class LossDetectors:
    """Both tests of one stream of losses; raises `MissingExtra`."""

    def __init__(self, false_alarms_a_year: float) -> None:
        self._drift = library("river.drift", "online")
        self._budget, self._a_year = false_alarms_a_year / 2, 0.0
        self._tests: tuple[Any, Any] | None = None
        self._chunk: list[tuple[bool, float]] = []

    def add(self, is_wrong: bool, time_s: float) -> str:
        """A sentence where a test has raised an alarm; all begins anew then.

        Args:
            is_wrong: Whether an answer was.
            time_s: When it was given, in seconds: says how many outcomes there are in a year.
        """
        self._chunk.append((is_wrong, time_s))
        sentence = ""
        if self._tests is not None:
            page, adwin = self._tests
            for test in self._tests:
                test.update(float(is_wrong))
            if page.drift_detected or (adwin.drift_detected and adwin.estimation > self._usual):
                name = "Page-Hinkley" if page.drift_detected else "ADWIN"
                newest = np.mean([own for own, _ in self._chunk])
                what = f"{newest:.1%} of the newest {len(self._chunk)} answers were wrong"
                sentence = f"{name}: {what}, usually {self._usual:.1%}"
            if sentence or adwin.drift_detected:
                self._tests, self._chunk = None, []
        if len(self._chunk) == REFERENCE:
            self._begin()
        return sentence

    def _begin(self) -> None:
        """Learn what is usual; where outcomes come twice as often as before, learn it anew."""
        losses, times = (np.array(values) for values in zip(*self._chunk, strict=True))
        self._chunk = []
        a_year = len(losses) / max(float(np.ptp(times)), 1.0) * _YEAR_S
        if self._tests is not None and a_year < 2 * self._a_year:
            return
        self._a_year = a_year
        self._usual = float(losses.sum() + 0.5) / (len(losses) + 1)  # nothing is impossible
        error = math.sqrt(self._usual * (1 - self._usual) / len(losses))
        shift = max(_LEAST_SHIFT, _ERRORS * error)
        threshold = math.log(max(a_year / self._budget, 2.0)) / tilt(self._usual, shift)
        self._tests = (
            self._drift.PageHinkley(REFERENCE + 1, shift, threshold, alpha=1.0, mode="up"),
            self._drift.ADWIN(min(self._budget * _CLOCK / a_year, 0.5), clock=_CLOCK),
        )
        for loss in losses:
            for test in self._tests:
                test.update(float(loss))


def tilt(p: float, shift: float) -> float:
    """The t > 0 with E exp(t (X - p - shift)) = 1, of X that is 1 with probability p, else 0."""

    def log_mean(t: float) -> float:
        return math.log1p(p * math.expm1(t)) - t * (p + shift)

    low, high = 0.0, 1.0
    while log_mean(high) < 0 and high < 100:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if log_mean(middle) < 0 else (low, middle)
    return high


class LossSource(Source):
    """Looks at the outcomes that were received since the last look, of each version."""

    name = LOSSES_SOURCE
    every_s = 300.0

    def __init__(self, ledger: Ledger, false_alarms_a_year: float) -> None:
        """`false_alarms_a_year` are of each version that has outcomes."""
        self._ledger = ledger
        self._detectors: defaultdict[tuple[str, str], LossDetectors] = defaultdict(
            lambda: LossDetectors(false_alarms_a_year)
        )
        self._looked_at: dict[str, datetime] = {}
        self._alarms: dict[tuple[str, str], tuple[str, datetime]] = {}

    def look(self, now: datetime) -> Sequence[Observation]:
        models = self._ledger.query(_MODELS)["model"].to_pylist()
        for model in models:
            for row in self._new_losses(model):
                label = model, row["version"]
                if sentence := self._detectors[label].add(row["is_wrong"], row["time_s"]):
                    self._alarms[label] = sentence, row[_AT]
        return [Observation(self.name, "", own, tuple(self._findings(own, now))) for own in models]

    def _new_losses(self, model: str) -> list[dict[str, Any]]:
        ledger = self._ledger
        columns = ledger.query("SELECT * FROM predictions LIMIT 0", model=model).column_names
        if "output.label" not in columns:
            return []
        since = self._looked_at.get(model)
        after = (
            ""
            if since is None
            else f"AND truth_first_received_at > TIMESTAMPTZ '{since.isoformat()}'"
        )
        sql = _LOSSES.format(model=quoted(model), since=after)
        rows: list[dict[str, Any]] = ledger.query(sql, model=model).to_pylist()
        if rows:
            self._looked_at[model] = rows[-1][_AT]
        return rows

    def _findings(self, model: str, now: datetime) -> Iterator[Finding]:
        for (name, version), (sentence, at) in self._alarms.items():
            if name == model and now - at < SHOWN:
                yield Finding(
                    self.name, "concept_drift", model, "warning",
                    f"{model}/{version}, {at:%Y-%m-%d %H:%M} UTC: {sentence}", None, None, now,
                    version, evidence=f"bascule performance {model} --since 30d",
                )  # fmt: skip
