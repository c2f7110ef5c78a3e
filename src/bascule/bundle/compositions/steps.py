"""What the parts of a composition do: from columns by key to the columns of their outputs.

Made by `planning`, which has checked types. Nothing here keeps state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.compositions.expressions import Expression, Key, Values
from bascule.bundle.disk import Label, Target
from bascule.bundle.tables import as_dtype, conform
from bascule.core import Columns, Field, Signature


class Running(Protocol):
    """A run of a composition."""

    def part(self, name: str, values: Values, rows: int) -> Columns:
        """What a part answers."""

    def program(self, name: str, columns: Columns) -> Columns:
        """What the program of a part that is a model answers."""


Run = Callable[[Values, int, Running], Columns]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A part; see `Manifest` for `task`, `classes` and `targets`.

    Attributes:
        name: Of the part.
        run: What it does.
        outputs: What it gives.
        notes: What is recorded beside.
        sources: By output that is made of columns, and not by a model: these columns.
    """

    name: str
    run: Run
    outputs: tuple[Field, ...]
    task: str = "other"
    classes: tuple[Label, ...] | None = None
    targets: tuple[Target, ...] = ()
    notes: tuple[Field, ...] = ()
    sources: Mapping[str, Sequence[Key]] = field(default_factory=dict)


def ask_model(name: str, feeds: Sequence[tuple[Field, Expression]], own: Sequence[str]) -> Run:
    """Asks the program of a bundle.

    Args:
        name: Of the part.
        feeds: Inputs of the model that expressions give; a value that it does not take is
            `Invalid`, as in a request.
        own: Inputs that are columns of the request, which are checked when it comes.
    """

    def run(values: Values, rows: int, running: Running) -> Columns:
        columns = {name: values["", name] for name in own}
        for takes, source in feeds:
            columns[takes.name] = column = as_dtype(source.of(values, rows), takes.dtype)
            least, most = takes.bounds or (-np.inf, np.inf)
            is_plain = column.dtype.kind == "f" and takes.categories is None
            if not (is_plain and ((column >= least) & (column <= most)).all()):
                data = column if takes.shape else {takes.name: column}
                conform(data, Signature((takes,), ()))
        return running.program(name, columns)

    return run


def average(
    members: Sequence[str], weights: Sequence[float], answer: Field, classes: Sequence[Any] | None,
    *, is_vote: bool,
) -> Run:  # fmt: skip
    """The weighted mean of members, or the label with the most weight; the first of equals."""
    labels = None if classes is None else np.array(classes, answer.dtype.numpy)
    output = "prediction" if labels is None else "label" if is_vote else "probabilities"

    def run(values: Values, _rows: int, _running: Running) -> Columns:
        total: Any = 0.0
        for member, weight in zip(members, weights, strict=True):
            column = values[member, output]
            column = column[:, None] == labels if is_vote else column
            total = total + weight * column.astype(np.float64, copy=False)
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
        chosen = numbers[_first_true(conditions, values, rows)]
        columns: Columns = {"part": np.array(names, object)[chosen]}
        for number in np.unique(chosen).tolist():
            mine = chosen == number
            count = int(mine.sum())
            few = values if count == rows else {key: all_[mine] for key, all_ in values.items()}
            answered = running.part(names[number], few, count)
            for output in outputs:
                column = answered[output.name]
                empty = np.empty((rows, *column.shape[1:]), column.dtype)
                columns.setdefault(output.name, empty)[mine] = column
        return columns

    return run


def decide(
    conditions: Sequence[Expression], then: Mapping[str, Sequence[Expression]],
    outputs: Sequence[Field],
) -> Run:  # fmt: skip
    """A rule table with hit policy *first* (DMN 1.3, section 8.2.8): the first row that holds."""

    def run(values: Values, rows: int, _running: Running) -> Columns:
        hit = _first_true(conditions, values, rows)
        numbers = np.unique(hit).tolist()
        columns: Columns = {"rule": hit + 1}
        for output in outputs:
            columns[output.name] = column = np.empty(rows, output.dtype.numpy)
            for number in numbers:
                mine = hit == number
                column[mine] = then[output.name][number].of(values, rows)[mine]
        return columns

    return run


def _first_true(conditions: Sequence[Expression], values: Values, rows: int) -> NDArray[np.int64]:
    """For each row, the place of the first condition that holds; their number where none does."""
    first = np.full(rows, len(conditions))
    for place in range(len(conditions) - 1, -1, -1):
        first[conditions[place].of(values, rows)] = place
    return first
