"""Truths beside predictions: have the truths moved, and has the loss given the prediction risen?

A window has the predictions of one UTC day whose truth is known by now. Truths come late, so their
windows are judged again from the first one on at every look, while those of inputs and answers are
final once a day is over. Rows that the ledger sampled count alike: the bounds hold for the loss in
each bin of the prediction, at any time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bascule.bundle import Bundle
from bascule.bundle.statements import profile_of
from bascule.core import Columns, NotFound
from bascule.monitoring.drift.budgets import Effect
from bascule.monitoring.drift.results import ColumnDrift, Test
from bascule.monitoring.drift.sentences import with_sentence
from bascule.monitoring.drift.windows import as_array
from bascule.monitoring.ledger import Ledger, quoted
from bascule.stats import HarmDetector, Profile, risk_bounds

Floats = NDArray[np.float64]

MAX_BINS, ROWS_OF_BIN = 5, 400
"""Bins of the prediction, as many as have so many held-out rows: the bound of few rows is wide."""

SOURCE_LEVEL = 0.05
"""The chance that the bounds of the source do not hold."""
MIN_HELD_OUT = 100


@dataclass(frozen=True, slots=True)
class Truths:
    """The truths of one day.

    Attributes:
        profile: Of the column `truth`.
        rows: Of each bin of the prediction. Shape (bins,); empty where no loss is known.
        sums: Of the losses of each bin. The same shape.
    """

    profile: Profile
    rows: NDArray[np.int64]
    sums: Floats


@dataclass(frozen=True, slots=True)
class Losses:
    """How losses are measured: from the held-out rows of a bundle.

    Attributes:
        task: `classification` or `regression`.
        scale: An error of this size is a loss of 1; 1 for classes.
        edges: Between the bins of the prediction, ascending.
        bounds: On the mean loss of each bin. Shape (bins,).
        mean: The loss of the held-out rows.
    """

    task: str
    scale: float
    edges: Floats
    bounds: Floats
    mean: float

    def of(self, answered: Columns, truth: NDArray[Any]) -> tuple[NDArray[np.int64], Floats]:
        """The bin and the loss of each row."""
        scores = _scores(self.task, answered)
        bins = np.searchsorted(self.edges, scores, side="right")
        return bins, np.minimum(1.0, _errors(self.task, answered, truth) / self.scale)


def source_of(bundle: Bundle) -> tuple[Profile | None, Losses | None]:
    """The truths of the held-out rows, and their losses; None where the bundle cannot tell."""
    held_out = bundle.test_data()
    if held_out is None or held_out[1] is None or bundle.targets:
        return None, None
    truth = np.asarray(held_out[1])
    truth = truth[:, 0].astype(float) if truth.ndim > 1 else truth  # relevances, or times
    profile = profile_of({"truth": _as_column(truth)})
    if bundle.task not in ("classification", "regression") or len(truth) < MIN_HELD_OUT:
        return profile, None
    answered = dict(bundle.predict(held_out[0]))
    errors, scores = _errors(bundle.task, answered, truth), _scores(bundle.task, answered)
    scale = 1.0 if bundle.task == "classification" else float(np.quantile(errors, 0.95)) or 1.0
    count = bin_count(len(truth))
    edges = np.unique(np.quantile(scores, np.arange(1, count) / count))
    bins = np.searchsorted(edges, scores, side="right")
    losses = np.minimum(1.0, errors / scale)
    bounds = risk_bounds(losses, bins, len(edges) + 1, SOURCE_LEVEL)
    return profile, Losses(bundle.task, scale, edges, bounds, float(losses.mean()))


def bin_count(held_out: int) -> int:
    """Into how many bins of the prediction so many held-out rows are split."""
    return min(MAX_BINS, max(1, held_out // ROWS_OF_BIN))


def _errors(task: str, answered: Columns, truth: NDArray[Any]) -> Floats:
    if task == "regression":
        found: Floats = answered["prediction"].reshape(-1).astype(float) - truth.astype(float)
        return np.abs(found)
    labels = answered["label"]
    if labels.dtype.kind in "biuf":
        return np.asarray(labels.astype(float) != truth.astype(float), float)
    return np.array(
        [str(one) != str(other) for one, other in zip(labels, truth, strict=True)], float
    )


def _scores(task: str, answered: Columns) -> Floats:
    """What the bins are of: the prediction, or the confidence in the label."""
    if task == "regression":
        return np.asarray(answered["prediction"].reshape(-1), float)
    if "probabilities" in answered:
        return np.asarray(answered["probabilities"].max(axis=1), float)
    return np.zeros(len(answered["label"]))


def _as_column(truth: NDArray[Any]) -> NDArray[Any]:
    return truth.astype(float) if truth.dtype.kind in "biuf" else truth.astype(object)


def read_truths(
    home: Path, bundle: Bundle, model: str, version: str, losses: Losses | None
) -> dict[date, Truths]:
    """The truths of a version's predictions, by the day of the prediction."""
    fields = [one.name for one in bundle.signature.outputs]
    try:
        table = Ledger(home).query(
            "SELECT time::DATE AS day, * FROM predictions_with_outcomes "
            f"WHERE version = {quoted(version)} AND status < 400 AND is_outcome ORDER BY time",
            model=model,
        )
    except NotFound:
        return {}
    if not table.num_rows or bundle.targets:
        return {}
    answered = {
        name: as_array(table[f"output.{name}"])
        for name in fields
        if f"output.{name}" in table.column_names
    }
    return _by_day(table, answered, _is_number(bundle), losses)


def _is_number(bundle: Bundle) -> bool:
    if bundle.classes:
        return all(isinstance(one, int | float) for one in bundle.classes)
    return bundle.task != "classification"


def _by_day(
    table: pa.Table, answered: Columns, is_number: bool, losses: Losses | None
) -> dict[date, Truths]:
    truth = as_array(table["truth_number" if is_number else "truth"])
    known = ~np.isnan(truth) if is_number else np.ones(len(truth), bool)
    days = np.asarray(table["day"].to_numpy()).astype("datetime64[D]")
    made = {}
    for day in np.unique(days[known]):
        rows = known & (days == day)
        profile = profile_of({"truth": truth[rows]})
        counts: NDArray[np.int64] = np.zeros(0, np.int64)
        sums: Floats = np.zeros(0)
        if losses is not None and answered:
            part = {name: values[rows] for name, values in answered.items()}
            bins, lost = losses.of(part, truth[rows])
            counts = np.bincount(bins, minlength=len(losses.bounds)).astype(np.int64)
            sums = np.bincount(bins, lost, len(losses.bounds)).astype(float)
        made[day.item()] = Truths(profile, counts, sums)
    return made


class LossWatch:
    """The loss given the prediction, over windows in their order."""

    def __init__(self, losses: Losses, level: float, effect: Effect) -> None:
        self._losses, self._level, self._limit = losses, level, effect.share
        self._detector = HarmDetector(np.minimum(1.0, losses.bounds))

    def judge(self, truths: Truths) -> ColumnDrift:
        """The column `loss` in one window."""
        evidence = self._detector.add(truths.rows, truths.sums)
        rows = int(truths.rows.sum())
        mean = float(truths.sums.sum()) / max(1, rows)
        effect = mean - self._losses.mean
        e_value = math.exp(min(700.0, evidence))
        is_alarm = e_value >= 1 / self._level and effect >= self._limit
        if is_alarm:
            self._detector.restart()
        test = Test("harm", e_value, None, e_value, self._level, effect, self._limit, is_alarm)
        then: Mapping[str, float] = {"mean": self._losses.mean}
        return with_sentence(
            ColumnDrift("loss", "truth", (test,), then, {"mean": mean}, (0.0, 0.0))
        )
