"""What flavors of networks share: named tensors in, named tensors out.

A network takes arrays of any number of axes, each under a name, with the rows along the first. It
takes no missing value: NaN would spread through all that it computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import MATRIX, Table, conform, read_table, take
from bascule.bundle.originals import AskNetwork
from bascule.core import (
    Columns,
    DType,
    Field,
    Invalid,
    Program,
    Signature,
    Unconvertible,
    first_line,
)
from bascule.packing.imported import Rows
from bascule.packing.statements import parity

_COMPARED_ROWS = 256
_SAVED_WITHIN = 1e-5


@dataclass(frozen=True, slots=True)
class Takes:
    """What a network can be asked with.

    Attributes:
        required: Names that it has to be given, in its order.
        optional: Names that it may be given, after those.
        any_name: Whether it takes any other name too.
        number: The type of its own numbers, in which it is handed numbers; None where it has none.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    any_name: bool = False
    number: DType | None = None


@dataclass(frozen=True, slots=True)
class NamedRows:
    """Rows as they were handed to `pack`, by the names that the network has for them.

    Attributes:
        columns: In the order of the network.
        names: What the columns of a table are called that was put together to one matrix.
        truth: What was true for each row, where it is known.
    """

    columns: Columns
    names: tuple[str, ...]
    truth: NDArray[Any] | None


def tried(ask: AskNetwork, columns: Columns) -> Mapping[str, NDArray[Any]]:
    """What a network answers for its training rows; raises `Invalid` where it does not."""
    try:
        return ask(columns)
    except Invalid:
        raise
    except Exception as problem:  # as above
        raise Invalid(
            f"the model does not answer for its training rows: {first_line(problem)}",
            hint="pass train as the model takes it: the same names, types and shapes",
        ) from problem


def read_given(data: Any, what: str, takes: Takes) -> NamedRows:
    """Training or held-out rows: an array, a table, or a dict of arrays; or one and its truth.

    Raises:
        Invalid: They do not fit what the network takes; the message names the input.
    """
    if data is None:
        raise Invalid(
            f"{what} is missing, and it says what the model's inputs are",
            hint="pass some rows: an array, or a dict of arrays by the names of the inputs",
            field=what,
        )
    rows, truth = data if isinstance(data, tuple) else (data, None)
    if isinstance(data, tuple) and len(data) != 2:
        raise Invalid(
            f"{what} is a tuple of {len(data)}, not of X and y",
            hint="pass several inputs as a dict of arrays by their names",
        )
    table = read_table(rows)
    if not table.rows:
        raise Invalid(f"{what} has no rows", hint="pass rows of the shape that the model takes")
    columns, names = _named(table, what, takes)
    if truth is not None:
        if hasattr(truth, "detach"):
            truth = truth.detach().cpu()
        truth = np.asarray(truth)
        truth = truth.ravel() if truth.ndim == 2 and truth.shape[1] == 1 else truth
        if truth.shape[:1] != (table.rows,):
            raise Invalid(
                f"{what} has {table.rows} rows in X and {len(truth) if truth.ndim else 1} in y",
                hint=f"pass {what}=(X, y) of the same rows",
            )
    return NamedRows({name: _number(v, name, takes) for name, v in columns.items()}, names, truth)


def _named(table: Table, what: str, takes: Takes) -> tuple[Columns, tuple[str, ...]]:
    known = (*takes.required, *takes.optional)
    alone = takes.required[:1] or takes.optional[:1] or (MATRIX,)
    if table.is_matrix:
        if len(takes.required) > 1:
            raise Invalid(
                f"{what} is one array, and the model takes {', '.join(takes.required)}",
                hint="pass a dict of arrays by these names",
            )
        return {alone[0]: table.columns[MATRIX]}, ()
    is_flat = all(v.ndim == 1 and v.dtype.kind in "biuf" for v in table.columns.values())
    if len(takes.required) < 2 and is_flat and not set(known) & set(table.columns):
        return {alone[0]: np.column_stack(list(table.columns.values()))}, tuple(table.columns)
    for name in takes.required:
        if name not in table.columns:
            raise Invalid(
                f"{what} has no {name!r}, and the model takes {', '.join(known)}",
                hint="pass a dict of arrays by these names",
                field=name,
            )
    strange = [name for name in table.columns if name not in known]
    if strange and not takes.any_name:
        raise Invalid(
            f"{what} has {strange[0]!r}, and the model takes {', '.join(known)}",
            hint="leave it out, or rename it",
            field=strange[0],
        )
    order = [name for name in known if name in table.columns] + strange
    return {name: table.columns[name] for name in order}, ()


def _number(values: NDArray[Any], name: str, takes: Takes) -> NDArray[Any]:
    if values.dtype.kind == "O":
        raise Invalid(
            f"{name} holds text, and a network takes numbers",
            hint="turn the texts into numbers first, for example their places in a vocabulary",
            field=name,
        )
    if takes.number is not None and values.dtype.kind == "f":
        with np.errstate(over="ignore"):
            values = values.astype(takes.number.numpy, copy=False)
    return np.ascontiguousarray(values)


def input_fields(given: NamedRows) -> tuple[Field, ...]:
    return tuple(
        Field(name, DType.of(values.dtype), values.shape[1:])
        for name, values in given.columns.items()
    )


def rows_of(given: NamedRows, signature: Signature) -> Rows:
    return Rows(conform(given.columns, signature), given.truth)


def output_fields(
    answers: Mapping[str, NDArray[Any]], rows: int, inputs: Sequence[str]
) -> tuple[Field, ...]:
    """The fields of what a network answered for so many rows.

    Raises:
        Invalid: One has no row for each row, or the name of an input.
    """
    for name, values in answers.items():
        if values.shape[:1] != (rows,):
            raise Invalid(
                f"the model answers {name} of shape {list(values.shape)} for {rows} rows",
                hint="answer tensors whose first dimension is the rows",
                field=name,
            )
        if name in inputs:
            raise Invalid(
                f"the model answers {name!r}, which is the name of an input",
                hint="give the output another name",
                field=name,
            )
    return tuple(
        Field(name, DType.of(values.dtype), values.shape[1:]) for name, values in answers.items()
    )


def task_of(outputs: Sequence[Field]) -> tuple[str, tuple[int, ...] | None]:
    """What the names of the outputs say: the task, and the classes 0, 1... of a classifier."""
    named = {field.name: field for field in outputs}
    label, shares = named.get("label"), named.get("probabilities")
    if (
        label is not None
        and shares is not None
        and label.dtype.is_integer
        and label.shape == ()
        and shares.dtype.is_float
        and len(shares.shape) == 1
    ):
        return "classification", tuple(range(shares.shape[0]))
    number = named.get("prediction")
    if number is not None and number.shape == () and number.dtype.is_float:
        return "regression", None
    return "other", None


def check_saved(again: Program, live: Program, rows: Rows) -> None:
    """Refuse a saved form that differs from the model on real rows, alone or in a batch.

    Args:
        again: The model as it was read back from what was saved.
        live: The model as it was handed in.
        rows: In the types of the signature.

    Raises:
        Invalid: The lengths of an answer depend on the rows.
        Unconvertible: The two differ.
    """
    columns = take(rows.columns, slice(_COMPARED_ROWS))
    for few in (columns, take(columns, slice(1))):
        expected = live.run(few)
        for field in live.outputs:
            if expected[field.name].shape[1:] != field.shape:
                raise Invalid(
                    f"the model answers {field.name} of shape {list(expected[field.name].shape)} "
                    f"here, and {['rows', *field.shape]} for other rows",
                    hint="answer tensors of one shape for each row, however many there are",
                    field=field.name,
                )
        judged = parity.compare(
            expected, again.run(few), tolerance=_SAVED_WITHIN, program="what is saved"
        )
        if not judged.passed:
            raise Unconvertible(
                f"the model cannot be saved: {judged.reason}",
                hint="leave out steps that depend on values or on the number of rows, or pack it "
                "as a bascule.PythonModel, which runs your own code",
            )
