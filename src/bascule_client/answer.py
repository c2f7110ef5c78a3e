"""What a model answers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bascule_client.errors import MissingExtra
from bascule_client.fields import Columns

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_SHOWN_ROWS = 5

Places = Mapping[str, Sequence[Any]]
"""What the values in a row of an output are called, by the output's name; `""` is any other."""


class Answer(Mapping[str, NDArray[Any]]):
    """The outputs by name, with the rows along the first axis.

    `np.asarray(answer)` is the first output: the labels of a classifier, the numbers of a
    regressor. `to_pandas` has all of them; `pandas.DataFrame(answer)` has the first alone, because
    pandas makes an array of what is neither a dict nor a list.
    """

    __slots__ = ("_outputs", "places", "program", "requests", "version")

    def __init__(
        self,
        outputs: Columns,
        program: str = "",
        version: str = "",
        places: Places | None = None,
        requests: Sequence[tuple[str, int]] = (),
    ) -> None:
        self._outputs = dict(outputs)
        self.places: Places = places or {}
        """The classes that the values in a row of an output stand for."""
        self.program = program
        """The name of the program that gave it."""
        self.version = version
        """The version that a server answered with; empty where a bundle in the hand did."""
        self.requests = tuple(requests)
        """The prediction id and the rows of each request; empty where a bundle in the hand did."""

    def __getitem__(self, name: str) -> NDArray[Any]:
        try:
            return self._outputs[name]
        except KeyError:
            known = ", ".join(map(repr, self._outputs))
            raise KeyError(f"no output {name!r}; the outputs are {known}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._outputs)

    def __len__(self) -> int:
        return len(self._outputs)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        first = next(iter(self._outputs.values()))
        return np.array(first, dtype=dtype, copy=copy)

    @property
    def ids(self) -> list[str]:
        """The id of each row for outcomes, `ID#ROW`; empty where a bundle in the hand answered."""
        return [f"{id_}#{row}" for id_, rows in self.requests for row in range(rows)]

    def columns(self) -> Columns:
        """All outputs as the columns of a table: of probabilities one column for each class.

        They are named after the classes, `probabilities_setosa`, and numbered from 0 where no
        classes are known, as of a server of another project.
        """
        return flattened(self._outputs, self.places)

    def to_pandas(self) -> pd.DataFrame:
        """All outputs as a DataFrame; see `columns`. Raises `MissingExtra` without pandas."""
        try:
            import pandas
        except ImportError:
            raise MissingExtra("pandas is not installed", hint="pip install pandas") from None
        return pandas.DataFrame(self.columns())

    def to_arrow(self) -> pa.Table:
        """All outputs as an Arrow table; see `columns`. Raises `MissingExtra` without pyarrow."""
        try:
            import pyarrow
        except ImportError:
            raise MissingExtra("pyarrow is not installed", hint="pip install pyarrow") from None
        return pyarrow.table({name: pyarrow.array(v) for name, v in self.columns().items()})

    def __repr__(self) -> str:
        parts = ", ".join(
            f"{name}: {value.dtype}{list(value.shape)}" for name, value in self._outputs.items()
        )
        return f"Answer({parts})"

    def _repr_html_(self) -> str:
        """The first rows, for notebooks."""
        from html import escape

        columns = flattened(
            {name: values[:_SHOWN_ROWS] for name, values in self._outputs.items()}, self.places
        )
        rows = len(next(iter(self._outputs.values())))
        head = "".join(f"<th>{escape(name)}</th>" for name in columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(_shown(value))}</td>" for value in row) + "</tr>"
            for row in zip(*(values.tolist() for values in columns.values()), strict=True)
        )
        by = f", by {escape(self.program)}" if self.program else ""
        return (
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            f"<p>{rows:,} row{'' if rows == 1 else 's'}{by}</p>"
        )


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def labels_of(name: str, shape: tuple[int, ...], places: Places) -> Sequence[Any]:
    """What the values in a row of an output are called; empty where that is not known.

    Args:
        name: The output.
        shape: Of one row.
        places: What is known of the outputs.
    """
    known = places.get(name, places.get("", ()))
    return known if shape and len(known) == math.prod(shape) else ()


def flattened(outputs: Mapping[str, NDArray[Any]], places: Places) -> Columns:
    """Outputs as columns of one axis: of a matrix one per place, `NAME_PLACE`."""
    made: Columns = {}
    for name, values in outputs.items():
        if values.ndim == 1:
            made[name] = values
            continue
        rows = values.reshape(len(values), -1)
        labels = labels_of(name, values.shape[1:], places)
        for index, place in enumerate(labels or range(rows.shape[1])):
            made[f"{name}_{place}"] = np.ascontiguousarray(rows[:, index])
    return made
