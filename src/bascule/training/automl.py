"""A search for a model of a table: candidates by quality and by what it costs to serve them.

FLAML (Wang, Wu, Weimer and Zhu 2021) searches; the best of each kind of model is fitted on all rows
of the search, packed, timed and held to the limits. A linear model is always among them.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from bascule.bundle import load
from bascule.charts import front, non_dominated
from bascule.core import BasculeError, Invalid, MissingExtra, first_line, user_name
from bascule.training.tables import Examined, examined

if TYPE_CHECKING:
    from bascule.bundle import Bundle
    from bascule.release import Criterion, GateReport

_FLAML = {
    "accuracy": "accuracy", "auc": "roc_auc", "average_precision": "ap", "f1": "f1",
    "f1_macro": "macro_f1", "log_loss": "log_loss", "mae": "mae", "mape": "mape", "mse": "mse",
    "r2": "r2", "rmse": "rmse", "roc_auc": "roc_auc", "roc_auc_ovr": "roc_auc_ovr",
}  # fmt: skip
"""By metric, what FLAML calls it."""
_TREES = ("lgbm", "xgboost", "rf", "extra_tree")
_USUAL = {0: "rmse", 2: "roc_auc"}
"""The metric by the number of classes; of more, it is accuracy."""
_PACKING_SHARE, _PACKING_MOST_S = 0.5, 120.0
_MOST_CATEGORIES = 32


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is searched.

    Attributes:
        table: A file, a folder, a glob or a bucket.
        target: The column that is predicted.
        model: Its name in the registry; empty: that of the target.
        metric: What is best; empty: `roc_auc` of two classes, `accuracy` of more, else `rmse`.
        budget_s: For all of it. The fit and the packing of one candidate may exceed it.
        limits: Criteria. Those of cost are asked of each candidate, the others of the chosen one.
        time: The column by which the newest rows are held out.
        group: The column of which equal values stay together.
        leave_out: Columns that are no inputs.
        deploy: The endpoint that gets the chosen model; empty: none does.
    """

    table: str
    target: str
    model: str = ""
    metric: str = ""
    budget_s: Annotated[float, msgspec.Meta(ge=10)] = 600.0
    limits: tuple[str, ...] = ()
    time: str = ""
    group: str = ""
    leave_out: tuple[str, ...] = ()
    deploy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model, and what was measured of it.

    Attributes:
        kind: `lgbm`, `xgboost`, `rf`, `extra_tree` or `linear`.
        quality: The metric on the rows that choose; None, as of the costs: it was not measured.
        latency_ms: Median for one row, on this machine.
        size_mb: What a server reads, in 10^6 bytes.
        problem: Why it is not chosen; empty where it is within the limits.
        sign: 1 where a larger quality is better, else -1.
    """

    kind: str
    quality: float | None = None
    latency_ms: float | None = None
    size_mb: float | None = None
    problem: str = ""
    sign: int = 1

    @property
    def losses(self) -> tuple[float, float, float]:
        """What is made small; infinite where it was not measured."""
        if self.quality is None or self.latency_ms is None or self.size_mb is None:
            return math.inf, math.inf, math.inf
        return -self.sign * self.quality, self.latency_ms, self.size_mb

    def __str__(self) -> str:
        if math.isinf(self.losses[0]):
            return f"{self.kind}: {self.problem}"
        figures = f"{self.quality:.4g}, {self.latency_ms:.3g} ms, {self.size_mb:.3g} MB"
        return f"{self.kind}: {figures}{'; ' if self.problem else ''}{self.problem}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a search: the candidates, the best first, and the best within the limits.

    `judged` is the metric of the winner on the rows that nothing has seen.
    """

    metric: str
    findings: Sequence[str]
    candidates: Sequence[Candidate]
    winner: Candidate | None = None
    bundle: Bundle | None = None
    judged: float | None = None

    def to_json(self) -> dict[str, Any]:
        measured = [own for own in self.candidates if not math.isinf(own.losses[0])]
        best = non_dominated(measured)
        points = {own.kind: (own.losses[1], own.quality or 0.0) for own in measured}
        chart = front(
            list(points.values()), sorted(points[own.kind] for own in best),
            ("ms for one row", self.metric), "; ".join(map(str, measured)),
        )  # fmt: skip
        rows = [
            {**asdict(own), "on_front": own in best, "is_chosen": own is self.winner}
            for own in self.candidates
        ]
        return {
            "metric": self.metric, "findings": self.findings, "judged": self.judged,
            "candidates": rows, "chart": chart,
        }  # fmt: skip


def automl(plan: Plan, work: Path, tell: Callable[[str], object] = lambda _: None) -> Outcome:
    """Search for the best model of a table that is within limits of cost.

    Args:
        plan: See there.
        work: A folder for the candidates' bundles.
        tell: Called with a sentence for each finding and candidate.

    Raises:
        Invalid: The table, a limit or the metric is not what can be used.
        MissingExtra: FLAML is not installed.
    """
    from bascule.batch import read_place
    from bascule.metrics import METRICS
    from bascule.release import Criterion

    deadline_s = time.monotonic() + plan.budget_s
    limits = [limit for limit in map(Criterion.parse, plan.limits) if limit.unit]
    if plan.metric and plan.metric not in _FLAML:
        raise Invalid(f"no search by {plan.metric!r}", hint=f"metrics are {', '.join(_FLAML)}")
    is_number = METRICS[plan.metric].of_numbers if plan.metric else None
    table = examined(plan, read_place(plan.table), is_number=is_number)
    for sentence in table.findings:
        tell(sentence)
    metric = METRICS[plan.metric or _USUAL.get(table.classes, "accuracy")]
    if table.classes > 2 and metric.with_more_classes:
        metric = METRICS[metric.with_more_classes]
    candidates: list[Candidate] = []
    longest_s = 0.0
    for kind, estimator in _searched(plan, table, metric.name, deadline_s):
        own = Candidate(kind=kind, sign=1 if metric.wants_more else -1)
        began_s = time.monotonic()
        if candidates and began_s + longest_s > deadline_s:
            own = replace(own, problem="no time was left")
        else:
            own = _tried(own, plan, table, estimator, [*limits, *_measures(metric.name)], work)
        longest_s = max(longest_s, time.monotonic() - began_s)
        candidates.append(own)
        tell(str(own))
    candidates.sort(key=lambda own: own.losses)
    outcome = Outcome(metric.name, table.findings, candidates)
    if (winner := next((own for own in candidates if not own.problem), None)) is None:
        return outcome
    bundle = load(work / winner.kind)
    judged = _checked(bundle, _measures(metric.name)[:1], None).results[0].value
    return replace(outcome, winner=winner, bundle=bundle, judged=judged)


def _measures(metric: str) -> list[Criterion]:
    """Quality, latency and size, as criteria that every figure meets."""
    from bascule.release import Criterion

    return [
        Criterion(metric, ">", -math.inf), Criterion("latency_p50", "<", math.inf, batch=1),
        Criterion("size", "<", math.inf),
    ]  # fmt: skip


def _tried(
    own: Candidate, plan: Plan, table: Examined, estimator: Any, criteria: Sequence[Criterion],
    work: Path,
) -> Candidate:  # fmt: skip
    """The candidate, fitted on the rows of the search, packed with those that judge, measured."""
    from sklearn.pipeline import make_pipeline

    from bascule.packing import pack

    train = table.split(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = make_pipeline(_preparation(table), estimator).fit(*train)
        name = plan.model or plan.target
        bundle = pack(model, name=name, train=train, test=table.split(2), to=work / own.kind)
        *limits, quality, latency, size = _checked(bundle, criteria, table.split(1)).results
    except (BasculeError, ValueError) as problem:
        return replace(own, problem=first_line(problem))
    return replace(
        own, quality=quality.value, latency_ms=latency.value, size_mb=size.value,
        problem="; ".join(each.reason for each in (*limits, quality) if not each.passed),
    )  # fmt: skip


def _checked(bundle: Bundle, criteria: Sequence[Criterion], rows: Any) -> GateReport:
    """Measure, and record nothing: these are no gates."""
    from bascule.release import check

    now = datetime.now(UTC)
    return check(bundle, criteria, test=rows, now=now, by=user_name(), record=lambda _: None)


def _searched(plan: Plan, table: Examined, metric: str, deadline_s: float) -> list[tuple[str, Any]]:
    """The best of each kind that FLAML had time for, best first, and a linear one; not fitted."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    try:
        from flaml import AutoML
    except ImportError:
        raise MissingExtra("FLAML is missing", hint="pip install 'bascule[automl]'") from None
    rows, truth = table.split(0)
    # XGBoost takes no other labels, and a bundle answers with those of the table.
    takes_all = not table.classes or sorted(truth.unique()) == list(range(table.classes))
    kinds = [kind for kind in _TREES if takes_all or kind != "xgboost"]
    split: dict[str, Any] = {"split_type": "time"} if plan.time else {}
    if plan.group and not plan.time:
        split = {"split_type": "group", "groups": table.parts[0][plan.group].to_numpy()}
    numbers = _preparation(table).fit_transform(rows)
    left_s = deadline_s - time.monotonic()
    engine = AutoML()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine.fit(
            numbers, truth.to_numpy(), metric=_FLAML[metric],
            task="classification" if table.classes else "regression",
            time_budget=max(1.0, left_s - min(left_s * _PACKING_SHARE, _PACKING_MOST_S)),
            estimator_list=kinds, n_jobs=os.cpu_count(), seed=0, verbose=0, log_file_name="",
            retrain_full=False, **split,
        )  # fmt: skip
    losses = engine.best_loss_per_estimator
    best = {kind: engine.best_model_for_estimator(kind) for kind in sorted(kinds, key=losses.get)}
    models = [(kind, own.estimator_class(**own.params)) for kind, own in best.items() if own]
    linear = LogisticRegression(max_iter=1_000) if table.classes else Ridge()
    models.insert(1, ("linear", make_pipeline(StandardScaler(), linear)))
    return models


def _preparation(table: Examined) -> Any:
    """Numbers with their median where they are missing; the frequent texts each as a flag."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import OneHotEncoder

    rows, _ = table.split(0)
    numbers = [name for name in table.inputs if rows[name].dtype.kind in "iuf"]
    texts = [name for name in table.inputs if name not in numbers]
    flags = OneHotEncoder(
        handle_unknown="infrequent_if_exist", max_categories=_MOST_CATEGORIES, sparse_output=False
    )
    return ColumnTransformer(
        [("numbers", SimpleImputer(strategy="median"), numbers), ("texts", flags, texts)]
    )
