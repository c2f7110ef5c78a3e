"""Callers whose queries look like a search for the model (`stats.queries`), alone or together.

Tests are of the queries of a UTC day, in blocks: a caller is tested again when it has another
`QUERIES` of them. The false alarms of a day have a budget, of which the k-th test of the r-th
caller of the day, all callers together being the first, gets the share 36 / (pi^2 r k)^2: all tests
that could be made have the budget together. A finding ends when the newest block raises no alarm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import BasculeError, Columns
from bascule.monitoring.alerts.findings import Finding, Observation, Source
from bascule.monitoring.ledger import Ledger, quoted
from bascule.monitoring.replaying import recorded_columns
from bascule.stats import MIN_KNOWN, MOST_QUERIES, QUERIES, KnownRows

if TYPE_CHECKING:
    from bascule.bundle import Bundle

QUERIES_SOURCE = "queries"
_ALL_CALLERS = "*"
_COUNTS = """
SELECT caller, count(*) AS queries, min(time) AS first, max_by(version, time) AS version
FROM (SELECT coalesce(caller, '') AS caller, time, version FROM predictions WHERE {where})
GROUP BY ROLLUP (caller) ORDER BY caller IS NOT NULL, first, caller
"""
_NEWEST = """
SELECT * FROM (
    SELECT * FROM predictions WHERE {where}
    ORDER BY time DESC, id DESC, row DESC LIMIT {rows} OFFSET {later}
) ORDER BY time, id, row
"""


class QueriesSource(Source):
    """Looks at the queries that models have answered today."""

    name = QUERIES_SOURCE
    every_s = 60.0

    def __init__(
        self, ledger: Ledger, models: Collection[str], open_version: Callable[[str], Bundle],
        false_alarms_a_year: float, name_of: Callable[[str], str] = str,
    ) -> None:  # fmt: skip
        """`false_alarms_a_year` are of each model; `name_of` a key by its id."""
        self._ledger, self._models = ledger, models
        self._level = false_alarms_a_year / 365 * 36 / math.pi**4
        self._name_of = name_of
        self._known = lru_cache(maxsize=16)(lambda version: _known(open_version(version)))
        self._tested: dict[tuple[str, str | None], tuple[str, int, float]] = {}

    def look(self, now: datetime) -> Sequence[Observation]:
        looked = []
        for model in self._models:
            try:
                found = tuple(self._found(model, str(now.astimezone(UTC).date()), now))
            except (BasculeError, ValueError):
                # There are no answers, fields are private, or a version is gone.
                found = ()
            looked.append(Observation(QUERIES_SOURCE, "", model, found))
        return looked

    def _found(self, model: str, day: str, now: datetime) -> Iterator[Finding]:
        of_day = f"status = 200 AND time >= TIMESTAMPTZ '{day} 00:00:00+00'"
        counts = self._ledger.query(_COUNTS.format(where=of_day), model=model, days=(day, day))
        for place, row in enumerate(counts.to_pylist(), 1):
            caller, (blocks, later) = row["caller"], divmod(row["queries"], QUERIES)
            if (
                caller == ""
                or not blocks
                or (of := self._known(f"{model}/{row['version']}")) is None
            ):
                continue
            where = of_day if caller is None else f"{of_day} AND caller = {quoted(caller)}"
            rows = min(blocks * QUERIES, MOST_QUERIES)
            tested = self._tested.get((model, caller))
            if tested is None or tested[:2] != (day, blocks):
                newest = _NEWEST.format(where=where, rows=rows, later=later)
                p_value = _p_value(*of, self._ledger.query(newest, model=model, days=(day, day)))
                tested = self._tested[model, caller] = (day, blocks, p_value)
            p_value, level = tested[2], self._level / (place * blocks) ** 2
            if p_value <= level:
                who = "all callers together" if caller is None else f"key {self._name_of(caller)}"
                yield Finding(
                    QUERIES_SOURCE, "suspicious_queries", model, "warning",
                    f"the last {rows} queries of {who} are unlike held-out rows of {model} "
                    f"(p = {p_value:.2g}, level {level:.2g}): they may be made to copy it",
                    p_value, level, now, column=caller or _ALL_CALLERS,
                    evidence=f'bascule ledger query "SELECT * FROM predictions WHERE {where}"',
                )  # fmt: skip


def throttled_counters(
    findings: Iterable[Finding], models: Collection[str]
) -> list[tuple[str, str]]:
    """The callers and groups of these models that were found, as servers count them."""
    return [
        (each.model, ("group:" if each.column == _ALL_CALLERS else "key:") + each.column)
        for each in findings
        if each.source == QUERIES_SOURCE and each.model in models
    ]


def _known(bundle: Bundle) -> tuple[Bundle, KnownRows] | None:
    """The held-out rows of a version; None where it has too few."""
    test = bundle.test_data()
    if test is None or len(next(iter(test[0].values()))) < MIN_KNOWN:
        return None
    return bundle, KnownRows(test[0], _classes(bundle, test[0]))


def _p_value(bundle: Bundle, known: KnownRows, queries: Any) -> float:
    inputs = recorded_columns(queries, "input.", bundle.signature.inputs)
    return known.p_value(inputs, _classes(bundle, inputs))


def _classes(bundle: Bundle, inputs: Columns) -> NDArray[Any]:
    """What the model answers: labels; a regression has one class."""
    answers = bundle.predict(inputs)
    labels = answers["label"] if "label" in answers else np.zeros(len(next(iter(inputs.values()))))
    return np.asarray(labels).astype(str)
