"""The parts of a composition, ready to run: from columns by key to the columns of their outputs.

A step is made by `planning`, which has checked types, and keeps no state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.compositions.expressions import Expression, Key, Values
from bascule.bundle.disk import Label, Target
from bascule.bundle.tables import as_dtype, conform
from bascule.core import Columns, DType, Field, Invalid, Program, Signature

RunPart = Callable[[str, Values, int], Columns]
"""Runs the part of a name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(ABC):
    """One part.

    Attributes:
        name: Of the part.
        outputs: What it gives.
        task: As in a manifest.
        classes: As in a manifest.
        targets: As in a manifest.
        reads: The columns that it needs.
        notes: What it tells the ledger beside its outputs: a text or number for each row.
    """

    name: str
    outputs: tuple[Field, ...]
    task: str = "other"
    classes: tuple[Label, ...] | None = None
    targets: tuple[Target, ...] = ()
    reads: tuple[Key, ...] = ()
    notes: tuple[Field, ...] = ()

    @abstractmethod
    def run(self, values: Values, rows: int, run_part: RunPart) -> Columns:
        """Its outputs, and its notes, for so many rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """An input of a model: the expressions that give it, several for the columns of a matrix."""

    field: Field
    dtype: DType
    sources: tuple[Expression, ...]
    is_checked: bool

    def of(self, values: Values, rows: int) -> NDArray[Any]:
        """As the program reads it. Raises `Invalid` for a value that the model does not take."""
        if self.field.shape and not self.sources[0].field.shape:
            found = np.column_stack([one.of(values, rows) for one in self.sources])
        else:
            found = self.sources[0].of(values, rows)
        found = as_dtype(found, self.field.dtype)
        if self.is_checked:
            self._check(found)
        return as_dtype(found, self.dtype)

    def _check(self, found: NDArray[Any]) -> None:
        bounds, categories = self.field.bounds, self.field.categories
        if found.dtype.kind == "f" and categories is None:
            least, most = bounds or (-np.inf, np.inf)
            if ((found >= least) & (found <= most)).all():
                return
        data = found if self.field.shape else {self.field.name: found}
        conform(data, Signature((self.field,), ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStep(Step):
    """Runs the program of a bundle."""

    feeds: tuple[Feed, ...]
    digest: str

    def run(self, values: Values, rows: int, run_part: RunPart) -> Columns:
        raise NotImplementedError  # a program is bound by `bound`

    def run_program(self, program: Program, values: Values, rows: int) -> Columns:
        columns = {feed.field.name: feed.of(values, rows) for feed in self.feeds}
        answered = program.run(columns)
        for field in self.outputs:
            if len(answered[field.name]) != rows:
                raise Invalid(f"it answers {len(answered[field.name])} rows for {rows}")
        return answered


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleStep(Step):
    """The weighted mean of members, or the label with the most weight; the first of equals."""

    members: tuple[str, ...]
    weights: tuple[float, ...]
    how: str

    def run(self, values: Values, rows: int, run_part: RunPart) -> Columns:  # noqa: ARG002
        if self.classes is None:
            return {"prediction": self._mean(values, "prediction").astype(np.float64, copy=False)}
        labels = np.array(self.classes, self.outputs[0].dtype.numpy)
        if self.how == "vote":
            total = np.zeros((rows, len(labels)))
            for member, weight in zip(self.members, self.weights, strict=True):
                total += weight * (values[member, "label"][:, None] == labels)
            shares = total / sum(self.weights)
        else:
            shares = self._mean(values, "probabilities")
        made = {"label": labels[np.argmax(shares, axis=1)], "probabilities": shares}
        return {field.name: as_dtype(made[field.name], field.dtype) for field in self.outputs}

    def _mean(self, values: Values, output: str) -> NDArray[Any]:
        total: Any = 0.0
        for member, weight in zip(self.members, self.weights, strict=True):
            total = total + weight * values[member, output].astype(np.float64, copy=False)
        return np.asarray(total / sum(self.weights))


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterStep(Step):
    """Has one part answer each row: of the first condition that holds, or the last part."""

    conditions: tuple[Expression, ...]
    parts: tuple[str, ...]

    def run(self, values: Values, rows: int, run_part: RunPart) -> Columns:
        chosen = first_true(self.conditions, values, rows)
        made: Columns = {}
        # A part may stand in several rows of the table: it runs once.
        parts = list(dict.fromkeys(self.parts))
        place = np.array([parts.index(name) for name in self.parts])[chosen]
        for number, name in enumerate(parts):
            mine = place == number
            count = int(mine.sum())
            if count == rows:
                made = {one.name: found for one, found in self._asked(name, values, rows, run_part)}
                break
            if not count:
                continue
            few = {key: column[mine] for key, column in values.items()}
            for one, found in self._asked(name, few, count, run_part):
                if one.name not in made:
                    made[one.name] = np.empty((rows, *found.shape[1:]), found.dtype)
                made[one.name][mine] = found
        made["part"] = np.array(parts, object)[place]
        return made

    def _asked(
        self, name: str, values: Values, rows: int, run_part: RunPart
    ) -> list[tuple[Field, NDArray[Any]]]:
        answered = run_part(name, values, rows)
        return [(one, answered[one.name]) for one in self.outputs]


@dataclass(frozen=True, slots=True, kw_only=True)
class RulesStep(Step):
    """A rule table with hit policy *first* (DMN 1.3, section 8.2.8): the first row that holds.

    `then`: by output, the value of each row of the table.
    """

    conditions: tuple[Expression, ...]
    then: Mapping[str, tuple[Expression, ...]]

    def run(self, values: Values, rows: int, run_part: RunPart) -> Columns:  # noqa: ARG002
        hit = first_true(self.conditions, values, rows)
        made: Columns = {}
        for field in self.outputs:
            cells = self.then[field.name]
            if all(cell.is_constant for cell in cells):
                table = np.array([cell.run(values) for cell in cells], field.dtype.numpy)
                made[field.name] = table[hit]
                continue
            made[field.name] = column = np.empty(rows, field.dtype.numpy)
            for number in np.unique(hit).tolist():
                mine = hit == number
                column[mine] = cells[number].of(values, rows)[mine]
        made["rule"] = hit + 1
        return made


def first_true(conditions: Sequence[Expression], values: Values, rows: int) -> NDArray[np.int64]:
    """For each row, the place of the first condition that holds; their number where none does."""
    first = np.full(rows, len(conditions))
    for place in range(len(conditions) - 1, -1, -1):
        first[conditions[place].of(values, rows)] = place
    return first
