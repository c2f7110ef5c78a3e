"""Measures quality on slices and in other states, and what the data themselves say.

`measure` hands on what is not a plain quality, a cost or parity. Each fact is under the
criterion's `measure`; what cannot be measured carries the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import is_missing, take
from bascule.bundle.statements import flat_columns
from bascule.core import BasculeError, Columns, Invalid, counted, first_line
from bascule.metrics import DISPARITIES, Disparity, GroupedRows, disparity, group_rows
from bascule.monitoring.performance import Reference
from bascule.release.conditions import Change, Confidence, Each, Groups, Missing, Noise, Slice
from bascule.release.covering import conformal_coverage
from bascule.release.criteria import DATA, QUALITIES, ROBUST, Criterion
from bascule.release.gates import Measured
from bascule.release.leakage import coverage, overlap, target_in_features
from bascule.release.states import in_state

if TYPE_CHECKING:
    from bascule.bundle import Bundle

MAX_SLICES = 1_000
"""Values of a column that is sliced by; one with more is no grouping."""
_MISSING = "missing"

Ask = Callable[[Columns], Columns]
Score = Callable[[str, Columns, NDArray[Any]], Measured]


def attempted(take: Callable[[], Measured], *, failing: str = "") -> Measured:
    """The fact that `take` gives, or why there is none: any failure of a model fails its gates.

    `failing` stands before the reason.
    """
    try:
        return take()
    except ImportError:
        return Measured(None, "scikit-learn is missing: pip install 'bascule[sklearn]'")
    except BasculeError as problem:
        return Measured(None, failing + ": ".join(filter(None, (problem.message, problem.hint))))
    except Exception as problem:  # a model, or a scorer, may raise anything
        return Measured(None, failing + first_line(problem))


class Conditional:
    """What is needed to measure under a condition, asked for once.

    Args:
        bundle: What is measured.
        columns: The held-out rows, in the signature's dtypes.
        truth: What was true for them; None if unknown.
        ask: The program's answers for rows.
        score: A quality of answers, by the name of its metric.
        attributes: Protected attributes of the rows that are no columns of the model.
    """

    def __init__(
        self,
        bundle: Bundle,
        columns: Columns,
        truth: NDArray[Any] | None,
        *,
        ask: Ask,
        score: Score,
        attributes: Columns | None = None,
    ) -> None:
        self._bundle = bundle
        self._columns = columns
        self._truth = truth
        self._ask = ask
        self._score = score
        self._attributes = {name: np.asarray(values) for name, values in (attributes or {}).items()}
        self._answers: dict[str, Columns] = {}

    def measure(self, criteria: Iterable[Criterion]) -> dict[str, Measured]:
        """A fact for each of the criteria that `is_conditional`."""
        facts: dict[str, Measured] = {}
        for criterion in criteria:
            if is_conditional(criterion) and criterion.measure not in facts:
                facts[criterion.measure] = attempted(partial(self._fact, criterion))
        return facts

    def _fact(self, criterion: Criterion) -> Measured:
        match criterion.metric:
            case "conformal_coverage":
                assert isinstance(criterion.condition, Confidence)
                return conformal_coverage(
                    self._bundle,
                    self._columns,
                    self._needed_truth(),
                    criterion.condition.level,
                    ask=self._ask,
                )
            case "coverage":
                return coverage(self._bundle, self._columns)
            case "train_test_overlap":
                return overlap(self._bundle, self._columns)
            case "target_in_features":
                return target_in_features(self._bundle, self._columns, self._needed_truth())
            case "finite":
                return _finite(self._in(criterion))
            case "stability":
                return _stability(self._in(None), self._in(criterion))
        condition = criterion.condition
        if isinstance(condition, Groups):
            return of_disparity(disparity(criterion.metric, self.grouped(condition.columns)))
        if isinstance(condition, Change):
            return self._robust(criterion.metric, condition)
        if isinstance(condition, Slice):
            return self._slice(criterion.metric, condition)
        if isinstance(condition, Each):
            return self._worst(criterion, condition)
        return self._score(criterion.metric, self._in(criterion), self._needed_truth())

    def _in(self, criterion: Criterion | None) -> Columns:
        """The answers for the rows as they are, or in the state of the criterion."""
        state = None if criterion is None else criterion.condition
        if str(state) not in self._answers:
            rows = self._columns
            if isinstance(state, Missing | Noise):
                kind = type(state).__name__.lower()
                rows = in_state(rows, self._bundle.signature, kind, state.percent / 100)
            self._answers[str(state)] = self._ask(rows)
        return self._answers[str(state)]

    def _needed_truth(self) -> NDArray[Any]:
        if self._truth is None:
            raise Invalid("the held-out rows come without their truth; pack with test=(X, y)")
        return self._truth

    def grouped(self, attributes: Sequence[str], positive: Any = None) -> GroupedRows:
        """The answers with their truth, in groups of the rows by attributes crossed."""
        rows = Reference(self._bundle).labelled(self._needed_truth(), self._in(None))
        texts = {name: texts_of(self._column(name)) for name in attributes}
        return group_rows(rows, texts, positive=positive)

    def _robust(self, metric: str, change: Change) -> Measured:
        from bascule.release.robustness import Robustness

        rows = Robustness(self._bundle, self._columns, self._needed_truth(), self._ask)
        return rows.certified(change.size) if metric == "certified_accuracy" else rows.of(change)

    def _column(self, name: str) -> NDArray[Any]:
        columns = flat_columns(self._columns, self._bundle.signature) | self._attributes
        if name not in columns:
            known = ", ".join(list(columns)[:20])
            raise Invalid(
                f"the held-out rows have no column {name!r}; they have {known}",
                hint="join what the model does not take with --attributes FILE --id COLUMN",
            )
        return columns[name]

    def _slice(self, metric: str, condition: Slice) -> Measured:
        rows = np.flatnonzero(texts_of(self._column(condition.column)) == _as_text(condition.value))
        if not len(rows):
            raise Invalid(f"no held-out row has {condition}")
        found = self._of(metric, rows)
        note = f"{counted(len(rows), 'row')}" + (f"; {found.note}" if found.note else "")
        return Measured(found.value, note)

    def _of(self, metric: str, rows: NDArray[np.intp]) -> Measured:
        return self._score(metric, take(self._in(None), rows), self._needed_truth()[rows])

    def _worst(self, criterion: Criterion, condition: Each) -> Measured:
        texts = texts_of(self._column(condition.column))
        values, inverse = np.unique(texts, return_inverse=True)
        if len(values) > MAX_SLICES:
            raise Invalid(
                f"column {condition.column!r} has {len(values):,} values, and one of at most "
                f"{MAX_SLICES:,} can be sliced by"
            )
        found: dict[str, Measured] = {}
        sizes: dict[str, int] = {}
        for index, value in enumerate(values.tolist()):
            rows = np.flatnonzero(inverse == index)
            found[value], sizes[value] = self._of(criterion.metric, rows), len(rows)
            fact = found[value]
            if fact.value is None or not np.isfinite(fact.value):
                return Measured(
                    None,
                    f"{condition.column}={value} with {counted(len(rows), 'row')}: "
                    f"{fact.note or 'the value is no number'}",
                )
        choose = min if criterion.wants_more else max
        worst = choose(found, key=lambda value: found[value].value or 0.0)
        return Measured(
            found[worst].value,
            f"{condition.column}={worst} with {counted(sizes[worst], 'row')}, the worst of "
            f"{len(values)}",
        )


def is_conditional(criterion: Criterion) -> bool:
    """Whether it is measured here."""
    return criterion.metric in {*DATA, *ROBUST, *DISPARITIES} or (
        criterion.metric in QUALITIES and criterion.condition is not None
    )


def of_disparity(found: Disparity) -> Measured:
    """The fact of a disparity; its interval and the groups that it is of are in the note."""
    others = f"too few rows to say: {', '.join(found.too_few)}" if found.too_few else ""
    if found.value is None or found.lower is None or found.upper is None:
        return Measured(None, "; ".join(filter(None, (found.note, others))))
    told = (
        f"{found.rate} of {found.least} is least and of {found.most} most, 95 % interval "
        f"{found.lower:.4g} to {found.upper:.4g}"
    )
    return Measured(found.value, "; ".join(filter(None, (told, others))))


def _finite(answers: Mapping[str, NDArray[Any]]) -> Measured:
    """The share of rows in whose answers every number is one."""
    count = len(next(iter(answers.values())))
    good = np.ones(count, bool)
    for values in answers.values():
        if values.dtype.kind == "f":
            good &= np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    return Measured(float(good.mean()), f"{int(good.sum()):,} of {counted(count, 'row')}")


def _stability(before: Columns, after: Columns) -> Measured:
    """Classes: the share of labels that stay. Numbers: 1 less the mean change in deviations."""
    name = next(iter(before))
    was, now = before[name], after[name]
    if was.dtype.kind != "f":
        same = was == now
        return Measured(float(np.mean(same)), f"{int(np.sum(~same)):,} labels change")
    spread = float(np.std(was))
    if not spread:
        return Measured(None, "every answer is the same")
    change = float(np.mean(np.abs(now - was)))
    return Measured(1 - change / spread, f"answers change by {change:.4g} on average")


def texts_of(values: NDArray[Any]) -> NDArray[Any]:
    """Each value as people write it: 3 for 3.0, true for True."""
    missing = is_missing(values).tolist()
    return np.array(
        [
            _MISSING if absent else _as_text(value)
            for value, absent in zip(values.tolist(), missing, strict=True)
        ],
        dtype=object,
    ).astype(str)


def _as_text(value: Any) -> str:
    text = str(value)
    if isinstance(value, bool) or text in ("True", "False"):
        return text.lower()
    try:
        return f"{float(text):.12g}"
    except ValueError:
        return text
