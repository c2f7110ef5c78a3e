"""A search for a model of a table: candidates by quality and by what it costs to serve them.

An engine searches; the best of each kind of model is fitted on all rows of the search, packed,
timed and held to the limits. A linear model is always among them. The budget is for all of it: what
takes longer than its part is cut, and said.
"""

from __future__ import annotations

import math
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.charts import Series, lines, non_dominated
from bascule.core import Invalid, first_line
from bascule.training.engines import SEARCHED, Engine, Problem, engine_named
from bascule.training.tables import Examined, Plan, examined

if TYPE_CHECKING:
    from bascule.bundle import Bundle
    from bascule.release import Criterion, GateReport

_PACKS = 1.5
"""How many times the time of the linear model another candidate is expected to take."""
_GRACE = 1.1
_AGAIN_S = 2.0
_MOST_OF = 0.8
"""Of the budget, what the linear model may take."""


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
        return next((candidate for candidate in self.candidates if not candidate.problem), None)

    def to_json(self) -> dict[str, Any]:
        """With the chart of latency and quality: the front as a line, each candidate as a dot."""
        measured = [candidate for candidate in self.candidates if candidate.losses[0] < math.inf]
        best = non_dominated([candidate.losses for candidate in measured])
        points = [(candidate.losses[1], candidate.quality or 0.0) for candidate in measured]
        dots = [Series([point], "line c2") for point in points]
        line = Series(sorted(points[place] for place in best))
        chart = lines([line, *dots], ("ms for one row", self.metric), "; ".join(map(str, measured)))
        rows = [
            {**asdict(candidate), "on_front": place in best, "is_chosen": candidate is self.winner}
            for place, candidate in enumerate(self.candidates)
        ]
        facts = {"metric": self.metric, "findings": self.findings, "judged": self.judged}
        return {**facts, "candidates": rows, "chart": chart}


def automl(
    plan: Plan, work: Path, tell: Callable[[str], object] = lambda _: None, *, spent_s: float = 0.0
) -> Outcome:
    """Search for the best model of a table that is within limits of cost.

    The bundles of the candidates are in `work`, by their kinds; `tell` hears each finding and
    candidate. `spent_s` of the budget were spent before. Signals keep the budget, so it is to be
    called in the main thread. Raises `Invalid` for a table, limit or metric that cannot be used,
    `MissingExtra`.
    """
    began_s = time.monotonic() - spent_s
    search = engine_named(plan.engine)
    from bascule.batch import read_place
    from bascule.bundle import load
    from bascule.metrics import METRICS
    from bascule.release import Criterion

    costs = [limit for limit in map(Criterion.parse, plan.limits) if limit.unit]
    if plan.metric and plan.metric not in SEARCHED:
        raise Invalid(f"no search by {plan.metric!r}", hint=f"metrics are {', '.join(SEARCHED)}")
    is_number = METRICS[plan.metric].of_numbers if plan.metric else None
    table = examined(plan, read_place(plan.table), is_number=is_number)
    for sentence in table.findings:
        tell(sentence)
    metric = METRICS[plan.metric or {0: "rmse", 2: "roc_auc"}.get(table.classes, "accuracy")]
    if table.classes > 2 and metric.with_more_classes:
        metric = METRICS[metric.with_more_classes]
    candidates: list[Candidate] = []

    def attempt(kind: str, estimator: Any, limit_s: float) -> None:
        attempted = Candidate(kind, 1 if metric.wants_more else -1)
        try:
            with _within(limit_s):
                facts = _measures(plan, table, estimator, costs, metric.name, work / kind)
                attempted = replace(attempted, **facts)
        except _TimeUp:
            problem = f"cut after {max(limit_s, 0):.0f} s: no time was left"
            attempted = replace(attempted, problem=problem)
        except Exception as error:  # libraries may raise anything
            attempted = replace(attempted, problem=first_line(error))
        candidates.append(attempted)
        tell(str(attempted))

    linear_s = time.monotonic()
    attempt("linear", _linear(table), _MOST_OF * plan.budget_s - (linear_s - began_s))
    # What is done for the linear model is done for the winner again: judgement, push and gates.
    linear_s = time.monotonic() - linear_s
    deadline_s = began_s + plan.budget_s - linear_s
    models = _searched(search, plan, table, metric.name, deadline_s, linear_s, tell)
    for place, (kind, estimator) in enumerate(models.items()):
        left_s = deadline_s - time.monotonic()
        shares = place < len(models) - 1 and left_s > 2 * _PACKS * linear_s
        attempt(kind, estimator, left_s / 2 if shares else left_s)
    candidates.sort(key=lambda candidate: candidate.losses)
    outcome = Outcome(metric.name, table.findings, candidates)
    if outcome.winner is None:
        return outcome
    report = _measured(load(work / outcome.winner.kind), [], metric.name, None)
    return replace(outcome, judged=report.results[0].value)


class _TimeUp(BaseException):
    """No `Exception`: packing goes on where what it tries fails by one."""


@contextmanager
def _within(limit_s: float) -> Iterator[None]:
    """Raise `_TimeUp` in the block after so long; blocks are not nested."""

    def end(*_: object) -> None:
        raise _TimeUp

    if limit_s <= 0:
        raise _TimeUp
    before = signal.signal(signal.SIGALRM, end)
    try:
        # Again, for native code that calls Python drops what is raised there.
        signal.setitimer(signal.ITIMER_REAL, limit_s, _AGAIN_S)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _measures(
    plan: Plan, table: Examined, estimator: Any, costs: Sequence[Criterion], metric: str, to: Path
) -> dict[str, Any]:
    """Of a model that is fitted on the rows of the search, and packed with those that judge."""
    from sklearn.pipeline import make_pipeline

    from bascule.packing import pack

    train = table.split(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make_pipeline(_preparation(table), estimator).fit(*train)
    bundle = pack(model, name=plan.model, train=train, test=table.split(2), to=to)
    results = _measured(bundle, costs, metric, table.split(1)).results
    problem = "; ".join(result.reason for result in results if not result.passed)
    quality, latency, size = (result.value for result in results[:3])
    return {"quality": quality, "latency_ms": latency, "size_mb": size, "problem": problem}


def _measured(bundle: Bundle, costs: Sequence[Criterion], metric: str, rows: Any) -> GateReport:
    """Quality, latency and size, then the limits of cost; nothing is recorded: it is no gate."""
    from bascule.release import Criterion, check

    criteria = [
        Criterion(metric, ">", -math.inf), Criterion("latency_p50", "<", math.inf, batch=1),
        Criterion("size", "<", math.inf), *costs,
    ]  # fmt: skip
    now = datetime.now(UTC)
    return check(bundle, criteria, test=rows, now=now, by="", record=lambda _: None)


def _linear(table: Examined) -> Any:
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    linear = LogisticRegression(max_iter=1_000) if table.classes else Ridge()
    return make_pipeline(StandardScaler(), linear)


def _searched(
    search: Engine, plan: Plan, table: Examined, metric: str, deadline_s: float, linear_s: float,
    tell: Callable[[str], object],
) -> dict[str, Any]:  # fmt: skip
    """The best of each kind that a search has found, best first; not fitted.

    The search has what the candidates are not expected to need, and a quarter at least.
    """
    rows, truth = table.split(0)
    problem = Problem(
        rows=_preparation(table).fit_transform(rows), truth=truth.to_numpy(),
        classes=table.classes, metric=metric, is_in_time=bool(plan.time), budget_s=0,
        groups=table.parts[0][plan.group].to_numpy() if plan.group and not plan.time else None,
    )  # fmt: skip
    left_s = deadline_s - time.monotonic()
    budget_s = max(left_s / 4, left_s - _PACKS * linear_s * len(problem.kinds))
    if budget_s < 1:
        tell("no time was left to search: the linear model is the only candidate")
        return {}
    best: dict[str, Any] = {}
    try:
        with _within(_GRACE * budget_s), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            search(replace(problem, budget_s=budget_s), best)
    except Exception as error:  # libraries may raise anything
        tell(f"the search failed: {first_line(error)}")
    except _TimeUp:
        tell(f"the search was cut after {_GRACE * budget_s:.0f} s")
    return best


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
