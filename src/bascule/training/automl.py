"""A search for a model of a table: candidates by quality and by what it costs to serve them.

FLAML (Wang, Wu, Weimer and Zhu 2021) searches; the best of each kind of model is fitted on all rows
of the search, packed, timed and held to the limits. A linear model is always among them.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.charts import Series, lines, non_dominated
from bascule.core import BasculeError, Invalid, MissingExtra, first_line
from bascule.training.tables import Examined, Plan, examined

if TYPE_CHECKING:
    from bascule.bundle import Bundle
    from bascule.release import Criterion, GateReport

_FLAML = {
    "accuracy": "accuracy", "average_precision": "ap", "f1": "f1", "f1_macro": "macro_f1",
    "log_loss": "log_loss", "mae": "mae", "mape": "mape", "mse": "mse", "r2": "r2", "rmse": "rmse",
    "roc_auc": "roc_auc", "roc_auc_ovr": "roc_auc_ovr",
}  # fmt: skip
"""By metric, what FLAML calls it."""
_TREES = ("lgbm", "xgboost", "rf", "extra_tree")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model, and what was measured of it; None where it could not be.

    Attributes:
        quality: The metric on the rows that choose; better when larger where `sign` is 1, not -1.
        latency_ms: Median for one row, on this machine.
        size_mb: What a server reads, in 10^6 bytes.
        problem: Why it is not chosen; empty where it is within the limits.
    """

    kind: str
    sign: int
    quality: float | None = None
    latency_ms: float | None = None
    size_mb: float | None = None
    problem: str = ""

    @property
    def losses(self) -> tuple[float, float, float]:
        """What is made small; infinite where it was not measured."""
        if self.quality is None or self.latency_ms is None or self.size_mb is None:
            return math.inf, math.inf, math.inf
        return -self.sign * self.quality, self.latency_ms, self.size_mb

    def __str__(self) -> str:
        loss, latency_ms, size_mb = self.losses
        figures = f"{-self.sign * loss:.4g}, {latency_ms:.3g} ms, {size_mb:.3g} MB"
        return f"{self.kind}: {self.problem or figures}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a search: the candidates, the best first, and what was found in the table.

    `judged` is the metric of the winner on the rows that nothing has seen.
    """

    metric: str
    findings: Sequence[str]
    candidates: Sequence[Candidate]
    judged: float | None = None

    @property
    def winner(self) -> Candidate | None:
        """The best within the limits."""
        return next((own for own in self.candidates if not own.problem), None)

    def to_json(self) -> dict[str, Any]:
        """With the chart of latency and quality: the front as a line, each candidate as a dot."""
        measured = [own for own in self.candidates if own.losses[0] < math.inf]
        best = non_dominated([own.losses for own in measured])
        points = [(own.losses[1], own.quality or 0.0) for own in measured]
        dots = [Series([point], "line c2") for point in points]
        line = Series(sorted(points[place] for place in best))
        chart = lines([line, *dots], ("ms for one row", self.metric), "; ".join(map(str, measured)))
        rows = [
            {**asdict(own), "on_front": place in best, "is_chosen": own is self.winner}
            for place, own in enumerate(self.candidates)
        ]
        facts = {"metric": self.metric, "findings": self.findings, "judged": self.judged}
        return {**facts, "candidates": rows, "chart": chart}


def automl(plan: Plan, work: Path, tell: Callable[[str], object] = lambda _: None) -> Outcome:
    """Search for the best model of a table that is within limits of cost.

    The bundles of the candidates are in `work`, by their kinds; `tell` hears each finding and
    candidate. Raises `Invalid` for a table, limit or metric that cannot be used, `MissingExtra`.
    """
    try:
        from flaml import AutoML
    except ImportError:
        raise MissingExtra("FLAML is missing", hint="pip install 'bascule[automl]'") from None
    from bascule.batch import read_place
    from bascule.bundle import load
    from bascule.metrics import METRICS
    from bascule.release import Criterion

    deadline_s = time.monotonic() + plan.budget_s
    costs = [limit for limit in map(Criterion.parse, plan.limits) if limit.unit]
    if plan.metric and plan.metric not in _FLAML:
        raise Invalid(f"no search by {plan.metric!r}", hint=f"metrics are {', '.join(_FLAML)}")
    is_number = METRICS[plan.metric].of_numbers if plan.metric else None
    table = examined(plan, read_place(plan.table), is_number=is_number)
    for sentence in table.findings:
        tell(sentence)
    metric = METRICS[plan.metric or {0: "rmse", 2: "roc_auc"}.get(table.classes, "accuracy")]
    if table.classes > 2 and metric.with_more_classes:
        metric = METRICS[metric.with_more_classes]
    candidates: list[Candidate] = []
    longest_s = 0.0
    for kind, estimator in _models(AutoML(), plan, table, metric.name, deadline_s):
        own, began_s = Candidate(kind, 1 if metric.wants_more else -1), time.monotonic()
        if len(candidates) > 1 and began_s + longest_s > deadline_s:
            own = replace(own, problem="no time was left")
        else:
            own = _tried(own, plan, table, estimator, costs, metric.name, work / kind)
        longest_s = max(longest_s, time.monotonic() - began_s)
        candidates.append(own)
        tell(str(own))
    outcome = Outcome(metric.name, table.findings, sorted(candidates, key=lambda own: own.losses))
    if outcome.winner is None:
        return outcome
    report = _measured(load(work / outcome.winner.kind), [], metric.name, None)
    return replace(outcome, judged=report.results[0].value)


def _tried(
    own: Candidate, plan: Plan, table: Examined, estimator: Any, costs: Sequence[Criterion],
    metric: str, to: Path,
) -> Candidate:  # fmt: skip
    """The candidate, fitted on the rows of the search, packed with those that judge, measured."""
    from sklearn.pipeline import make_pipeline

    from bascule.packing import pack

    train = table.split(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = make_pipeline(_preparation(table), estimator).fit(*train)
        bundle = pack(model, name=plan.model, train=train, test=table.split(2), to=to)
        results = _measured(bundle, costs, metric, table.split(1)).results
    except (BasculeError, ValueError) as error:
        return replace(own, problem=first_line(error))
    problem = "; ".join(result.reason for result in results if not result.passed)
    quality, latency, size = (result.value for result in results[:3])
    return replace(own, quality=quality, latency_ms=latency, size_mb=size, problem=problem)


def _measured(bundle: Bundle, costs: Sequence[Criterion], metric: str, rows: Any) -> GateReport:
    """Quality, latency and size, then the limits of cost; nothing is recorded: it is no gate."""
    from bascule.release import Criterion, check

    criteria = [
        Criterion(metric, ">", -math.inf), Criterion("latency_p50", "<", math.inf, batch=1),
        Criterion("size", "<", math.inf), *costs,
    ]  # fmt: skip
    now = datetime.now(UTC)
    return check(bundle, criteria, test=rows, now=now, by="", record=lambda _: None)


def _models(
    engine: Any, plan: Plan, table: Examined, metric: str, deadline_s: float
) -> Iterator[tuple[str, Any]]:
    """A linear model, then the best of each kind that FLAML has time for, best first; not fitted.

    The time that the caller takes for the first is kept for each; the search has the rest, and a
    quarter at least.
    """
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    began_s = time.monotonic()
    linear = LogisticRegression(max_iter=1_000) if table.classes else Ridge()
    yield "linear", make_pipeline(StandardScaler(), linear)
    rows, truth = table.split(0)
    # XGBoost takes no other labels, and a bundle answers with those of the table.
    takes_all = not table.classes or sorted(truth.unique()) == list(range(table.classes))
    kinds = [kind for kind in _TREES if takes_all or kind != "xgboost"]
    split: dict[str, Any] = {"split_type": "time"} if plan.time else {}
    if plan.group and not plan.time:
        split = {"split_type": "group", "groups": table.parts[0][plan.group].to_numpy()}
    now_s = time.monotonic()
    left_s = deadline_s - now_s
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine.fit(
            _preparation(table).fit_transform(rows), truth.to_numpy(), metric=_FLAML[metric],
            task="classification" if table.classes else "regression",
            time_budget=max(1.0, left_s / 4, left_s - len(kinds) * (now_s - began_s)),
            estimator_list=kinds, n_jobs=os.cpu_count(), seed=0, verbose=0, log_file_name="",
            retrain_full=False, **split,
        )  # fmt: skip
    for kind in sorted(kinds, key=engine.best_loss_per_estimator.get):
        if (best := engine.best_model_for_estimator(kind)) is not None:
            yield kind, best.estimator_class(**best.params)


def _preparation(table: Examined) -> Any:
    """Numbers with their median where they are missing; the frequent texts each as a flag."""
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import OneHotEncoder

    rows, _ = table.split(0)
    numbers = [name for name in table.inputs if rows[name].dtype.kind in "iuf"]
    texts = [name for name in table.inputs if name not in numbers]
    flags = OneHotEncoder(
        handle_unknown="infrequent_if_exist", max_categories=32, sparse_output=False
    )
    return make_column_transformer((SimpleImputer(strategy="median"), numbers), (flags, texts))
