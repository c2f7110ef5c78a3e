"""The figures that statements hold, by name, for searching and comparing. Nothing does I/O."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bascule.bundle.disk import Statement

_MEASURE = re.compile(r"\s*(.+?)\s*(?:>=|<=|==|>|<|$)")


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure and when it was stated, as in the statement."""

    value: float
    at: str


def metrics_of(statement: Statement) -> dict[str, float]:
    """The figures in one statement.

    Those of `provenance` are what the author said under `metrics`; those of `gates` are what was
    measured, each in the unit that its criterion is written in.
    """
    if statement.kind == "provenance":
        said = statement.body.get("metrics")
        found = dict(_numbers(said)) if isinstance(said, Mapping) else {}
    elif statement.kind == "gates":
        found = dict(_measured(statement.body.get("results")))
    else:
        found = {}
    return found


def metrics_of_all(statements: Iterable[Statement]) -> dict[str, Metric]:
    """The latest figure of each name; `statements` have the latest last."""
    return {
        name: Metric(value, statement.at)
        for statement in statements
        for name, value in metrics_of(statement).items()
    }


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                number = float(value)
            except OverflowError:
                continue
            if math.isfinite(number):
                yield str(name), number


def _measured(results: object) -> Iterator[tuple[str, float]]:
    for result in results if isinstance(results, list | tuple) else ():
        if isinstance(result, Mapping):
            match = _MEASURE.match(str(result.get("criterion", "")))
            if match is not None:
                yield from _numbers({match[1]: result.get("value")})
