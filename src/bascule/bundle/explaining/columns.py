"""The columns of a tabular model as its users name them."""

from __future__ import annotations

from typing import Any, NamedTuple

from numpy.typing import NDArray

from bascule.core import Columns, Field, Signature

IMPORTANCE_KIND = "importance"
"""Of the statement with global importances and partial dependence."""


class ColumnPlace(NamedTuple):
    """Where a column is: its name, its field, and its place in the matrix if the field is one."""

    name: str
    field: Field
    place: int | None = None

    def values(self, columns: Columns) -> NDArray[Any]:
        """Of all rows."""
        values = columns[self.field.name]
        return values if self.place is None else values[:, self.place]

    def replaced(self, columns: Columns, values: Any) -> Columns:
        """The rows with other values, or one value for all, in this column."""
        changed = columns[self.field.name].copy()
        changed[... if self.place is None else (..., self.place)] = values
        return {**columns, self.field.name: changed}


def column_places(signature: Signature) -> tuple[ColumnPlace, ...]:
    """In the order of the signature; none for a model that takes other arrays."""
    first = signature.inputs[0]
    if signature.is_matrix and first.shape[0] > 0:
        names = signature.columns or [f"{first.name}.{k}" for k in range(first.shape[0])]
        return tuple(ColumnPlace(name, first, k) for k, name in enumerate(names))
    if any(field.shape for field in signature.inputs):
        return ()
    return tuple(ColumnPlace(field.name, field) for field in signature.inputs)
