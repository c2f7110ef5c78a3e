"""Whether a version meets its criteria. Pure: `checking` measures, and this judges."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bascule.release.criteria import Criterion


@dataclass(frozen=True, slots=True)
class Measured:
    """A fact for one criterion.

    Attributes:
        value: In the unit of the criterion; None when it could not be measured.
        note: Without a value: why. With one: how it came about, where that is worth a word.
        is_waived: Whether there is nothing that could be measured, and the criterion asks for
            nothing then: it passes without a value, and says so.
        brief: The note in a few words, for tables; empty where the note is brief.
    """

    value: float | None
    note: str = ""
    is_waived: bool = False
    brief: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one criterion.

    Without a `value` it failed, because nothing was measured; or, where it asks for nothing yet,
    it passed, and `is_waived` says that nothing was judged.
    """

    criterion: Criterion
    value: float | None
    passed: bool
    reason: str

    @property
    def is_waived(self) -> bool:
        """Whether it passed without anything being judged."""
        return self.passed and self.value is None

    def to_json(self) -> dict[str, Any]:
        return {
            "criterion": str(self.criterion),
            "value": self.value,
            "limit": self.criterion.limit,
            "unit": self.criterion.unit,
            "passed": self.passed,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class GateReport:
    """The results, in the order of the criteria.

    Attributes:
        results: One for each criterion that was judged.
        unjudged: Configured criteria that are not among them; with any, the report is a trial,
            and no verdict of the gates.
    """

    results: tuple[Result, ...]
    unjudged: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every criterion was met. No criteria at all is no evidence, and no pass."""
        return bool(self.results) and all(result.passed for result in self.results)

    def __repr__(self) -> str:
        judged = "; ".join(f"{one.criterion}: {one.reason}" for one in self.results)
        return f"GateReport({'passed' if self.passed else 'failed'}: {judged})"

    def _repr_html_(self) -> str:
        from bascule.bundle import gates_table
        from bascule.documents import Text, notebook

        state = f"failed: {len(self.failures)} of {len(self.results)}"
        table = gates_table([result.to_json() for result in self.results])
        return notebook(Text("passed" if self.passed else state), table)

    @property
    def failures(self) -> tuple[Result, ...]:
        return tuple(result for result in self.results if not result.passed)

    def to_json(self) -> dict[str, Any]:
        """The body of a `gates` statement, or of a `trial`."""
        made = {"passed": self.passed, "results": [result.to_json() for result in self.results]}
        return made | {"unjudged": list(self.unjudged)} if self.unjudged else made


def evaluate(criteria: Sequence[Criterion], facts: Mapping[str, Measured]) -> GateReport:
    """Judge each criterion by its fact (`Criterion.measure` is the key). Pure.

    A criterion fails when its fact is missing or is not a finite number: a requirement that
    could not be evaluated is not met. The one exception is a fact that is marked as waived.
    """
    return GateReport(
        tuple(
            _judge(criterion, facts.get(criterion.measure, Measured(None, "no measurement of it")))
            for criterion in criteria
        )
    )


def _judge(criterion: Criterion, fact: Measured) -> Result:
    if fact.is_waived:
        return Result(criterion, None, True, f"passed without a comparison: {fact.note}")
    if fact.value is None:
        return Result(criterion, None, False, f"not measured: {fact.note}")
    if not math.isfinite(fact.value):
        note = f" ({fact.note})" if fact.note else ""
        return Result(criterion, None, False, f"measured {fact.value}, which is no number{note}")
    passed = criterion.accepts(fact.value)
    note = f"; {fact.note}" if fact.note else ""
    value, limit = _apart(fact.value, criterion.limit)
    unit = f" {criterion.unit}" if criterion.unit else ""
    stands = "is" if passed else "is not"
    return Result(
        criterion,
        fact.value,
        passed,
        f"{value}{unit} {stands} {criterion.operator} {limit}{unit}{note}",
    )


def _apart(value: float, limit: float) -> tuple[str, str]:
    """Both as text, with enough digits to tell them apart."""
    for digits in (4, 6, 9, 12):
        shown = f"{value:.{digits}g}", f"{limit:.12g}"
        if shown[0] != shown[1] or value == limit:
            return shown
    return repr(value), repr(limit)
