"""What the parts of a composition do: from columns by key to the columns of their outputs.

Made by `planning`, which has checked types. Nothing here keeps state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.compositions.expressions import Expression, Values
from bascule.bundle.disk import Label, Target
from bascule.bundle.tables import as_dtype, conform
from bascule.core import Columns, DType, Field, Signature


class Running(Protocol):
    """A run of a composition."""

    def part(self, name: str, values: Values, rows: int) -> Columns:
        """What a part answers."""

    def program(self, name: str, columns: Columns) -> Columns:
        """What the program of a part that is a model answers."""


Run = Callable[[Values, int, Running], Columns]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A part: what it gives, what is recorded beside (`notes`), and how; see `Manifest`."""

    name: str
    run: Run
    outputs: tuple[Field, ...]
    task: str = "other"
    classes: tuple[Label, ...] | None = None
    targets: tuple[Target, ...] = ()
    notes: tuple[Field, ...] = ()


@dataclass(frozen=True, slots=True)
class Feed:
    """An input of a model: the expression that gives it, and the type that its program reads."""

    field: Field
    dtype: DType
    source: Expression
    is_checked: bool

    def of(self, values: Values, rows: int) -> NDArray[Any]:
        """Raises `Invalid` for a value that the model does not take."""
        column = as_dtype(self.source.of(values, rows), self.field.dtype)
        if self.is_checked:
            self._check(column)
        return as_dtype(column, self.dtype)

    def _check(self, column: NDArray[Any]) -> None:
        if column.dtype.kind == "f" and self.field.categories is None:
            least, most = self.field.bounds or (-np.inf, np.inf)
            if ((column >= least) & (column <= most)).all():
                return
        data = column if self.field.shape else {self.field.name: column}
        conform(data, Signature((self.field,), ()))


def ask_model(name: str, feeds: Sequence[Feed]) -> Run:
    """Asks the program of a bundle."""
    return lambda values, rows, running: running.program(
        name, {feed.field.name: feed.of(values, rows) for feed in feeds}
    )


def average(
    members: Sequence[str], weights: Sequence[float], fields: Sequence[Field],
    classes: Sequence[Any] | None, *, is_vote: bool,
) -> Run:  # fmt: skip
    """The weighted mean of members, or the label with the most weight; the first of equals."""
    labels = None if classes is None else np.array(classes, fields[0].dtype.numpy)
    output = "prediction" if labels is None else "label" if is_vote else "probabilities"

    def run(values: Values, _rows: int, _running: Running) -> Columns:
        total: Any = 0.0
        for member, weight in zip(members, weights, strict=True):
            given = values[member, output]
            given = given[:, None] == labels if is_vote else given
            total = total + weight * given.astype(np.float64, copy=False)
        mean = total / sum(weights)
        if labels is None:
            return {"prediction": mean}
        return {"label": labels[np.argmax(mean, axis=1)], "probabilities": mean}

    return run


def route(conditions: Sequence[Expression], parts: Sequence[str], outputs: Sequence[Field]) -> Run:
    """Has one part answer each row: of the first condition that holds, or the last part."""
    # A part may stand in several rows of the table: it runs once.
    names = list(dict.fromkeys(parts))
    numbers = np.array([names.index(name) for name in parts])

    def run(values: Values, rows: int, running: Running) -> Columns:
        chosen = numbers[first_true(conditions, values, rows)]
        made: Columns = {"part": np.array(names, object)[chosen]}
        for number in np.unique(chosen).tolist():
            mine = chosen == number
            count = int(mine.sum())
            few = values if count == rows else {key: all_[mine] for key, all_ in values.items()}
            answered = running.part(names[number], few, count)
            for field in outputs:
                found = answered[field.name]
                if field.name not in made:
                    made[field.name] = np.empty((rows, *found.shape[1:]), found.dtype)
                made[field.name][mine] = found
        return made

    return run


def decide(
    conditions: Sequence[Expression], then: Mapping[str, Sequence[Expression]],
    outputs: Sequence[Field],
) -> Run:  # fmt: skip
    """A rule table with hit policy *first* (DMN 1.3, section 8.2.8): the first row that holds."""
    tables = {
        field.name: np.array([cell.run({}) for cell in then[field.name]], field.dtype.numpy)
        for field in outputs
        if not any(cell.reads for cell in then[field.name])
    }

    def run(values: Values, rows: int, _running: Running) -> Columns:
        hit = first_true(conditions, values, rows)
        made: Columns = {"rule": hit + 1}
        for field in outputs:
            if field.name in tables:
                made[field.name] = tables[field.name][hit]
                continue
            made[field.name] = column = np.empty(rows, field.dtype.numpy)
            for number in np.unique(hit).tolist():
                mine = hit == number
                column[mine] = then[field.name][number].of(values, rows)[mine]
        return made

    return run


def first_true(conditions: Sequence[Expression], values: Values, rows: int) -> NDArray[np.int64]:
    """For each row, the place of the first condition that holds; their number where none does."""
    first = np.full(rows, len(conditions))
    for place in range(len(conditions) - 1, -1, -1):
        first[conditions[place].of(values, rows)] = place
    return first
