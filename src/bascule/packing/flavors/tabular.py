"""What flavors of models on tables and matrices share: from rows to fields, and back."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import MATRIX, Kind, Table, conform, read_table, tables
from bascule.bundle.disk import TRUTHS, Target
from bascule.bundle.originals import Frame
from bascule.core import Columns, DType, Field, Invalid, Signature
from bascule.packing.compilers import label_dtype
from bascule.packing.imported import Rows


def table_names(train: Any) -> tuple[str, ...]:
    """The column names of a table that a matrix model was trained on; else none."""
    data = train[0] if isinstance(train, tuple) else train
    table = read_table(data)
    return () if table.is_matrix else tuple(table.columns)


def plain_label(label: Any) -> str | int | float | bool:
    value = label.item() if isinstance(label, np.generic) else label
    if not isinstance(value, str | int | float | bool):
        raise Invalid(
            f"class {value!r} is neither text nor a number",
            hint="fit the model on labels that are: y.astype(str)",
        )
    return value


def read_inputs(data: Any, what: str) -> Table:
    """The rows of X, or of (X, y); raises `Invalid` where there are none."""
    if data is None:
        raise Invalid(
            f"{what} is missing",
            hint=f"pass the {what}ing rows, {what}=X or {what}=(X, y): the signature is inferred "
            "from them",
            field=what,
        )
    if isinstance(data, tuple) and len(data) != 2:
        raise Invalid(
            f"{what} is a tuple of {len(data)}, not of X and y", hint=f"pass {what}=(X, y)"
        )
    table = read_table(data[0] if isinstance(data, tuple) else data)
    if table.is_matrix and table.columns[MATRIX].ndim != 2:
        raise Invalid(
            f"{what} has {table.columns[MATRIX].ndim} dimensions, and a matrix of rows has two",
            hint="pass a matrix of shape (rows, columns), or a table",
        )
    if not table.rows:
        raise Invalid(f"{what} has no rows", hint="pass the rows that fit was given")
    return table


def read_truth(
    data: Any, what: str, *, rows: int, targets: int = 1, task: str = ""
) -> NDArray[Any] | None:
    """What was true, of shape (rows,) or (rows, targets); None where it was not given.

    Of a task whose truths are two columns it is None as well where there is another number of them,
    such as the times of XGBoost, below 0 where they are censored.

    Args:
        data: X, or (X, y).
        what: What the caller calls it.
        rows: How many there are in X.
        targets: How many things are predicted: y has as many columns.
        task: What the model is for.
    """
    truth = data[1] if isinstance(data, tuple) else None
    if truth is None:
        return None
    pair = TRUTHS.get(task, ())
    truth = tables.read_truth(truth, pair) if pair else _read_truth(truth, what, targets)
    if len(truth) != rows:
        raise Invalid(
            f"{what} has {rows} rows in X and {len(truth)} in y",
            hint=f"pass {what}=(X, y) of the same rows",
        )
    return None if pair and truth.shape != (rows, len(pair)) else truth


def names_of_targets(count: int, train: Any, test: Any) -> list[str]:
    """What each of several predicted things is called: its column of y, or a number from 0."""
    known: list[str] = []
    for data in (train, test):
        truth = data[1] if isinstance(data, tuple) else None
        columns = truth if isinstance(truth, Mapping) else getattr(truth, "columns", ())
        known = known or [str(name) for name in columns]
    return known if len(set(known)) == count else [str(place) for place in range(count)]


def _read_truth(truth: Any, what: str, targets: int) -> NDArray[Any]:
    values = tables.read_truth(truth)
    if targets > 1:
        if values.ndim != 2 or values.shape[1] != targets:
            raise Invalid(
                f"y of {what} has shape {list(values.shape)}, and the model predicts "
                f"[rows, {targets}]",
                hint="pass y as it was passed to fit; of quantiles of one truth, once for each: "
                f"numpy.column_stack([y] * {targets})",
            )
        return values
    if values.ndim == 2 and values.shape[1] == 1:
        values = values.ravel()
    if values.ndim != 1:
        raise Invalid(
            f"y of {what} has shape {list(values.shape)}, and the model predicts [rows]",
            hint="pass y as it was passed to fit",
        )
    return values


def as_trained(names: Sequence[str] | None, count: int | None, table: Table) -> Table:
    """The table with the columns that the model was fitted on, in that order; or its matrix.

    Args:
        names: What the model calls its columns; None for one that was fitted on a matrix.
        count: How many it has, where it knows.
        table: The rows as they were handed in.
    """
    if names is None and not table.is_matrix and count == len(table.columns):
        columns = list(table.columns.values())
        if all(column.dtype.kind in "biuf" for column in columns):
            return Table({MATRIX: np.column_stack(columns)}, "numpy")
    if table.is_matrix:
        values = table.columns[MATRIX]
        if count is not None and values.shape[1] != count:
            raise Invalid(
                f"the rows have {values.shape[1]} columns, and the model was trained on {count}",
                hint="pass the same columns as to fit",
            )
        if names is None:
            return table
        return Table(
            {str(name): values[:, i] for i, name in enumerate(names)},
            "dict",
            {str(name): Kind(str(values.dtype)) for name in names},
        )
    if names is None:
        return table
    absent = [str(name) for name in names if name not in table.columns]
    if absent:
        raise Invalid(
            f"column {absent[0]!r} is missing, and the model was trained with it",
            hint="pass the same columns as to fit",
            field=absent[0],
        )
    chosen = [str(name) for name in names]
    return Table(
        {name: table.columns[name] for name in chosen},
        table.source,
        {name: table.kinds[name] for name in chosen},
        table.integer_names,
    )


def frame_of(table: Table) -> Frame:
    if table.is_matrix:
        return Frame("numpy", {}, str(table.columns[MATRIX].dtype))
    if table.source in ("texts", "dicts"):
        return Frame(table.source, dict(table.kinds))
    container = "polars" if table.source == "polars" else "pandas"
    return Frame(container, dict(table.kinds), integer_names=table.integer_names)


def fields_of(table: Table) -> tuple[Field, ...]:
    if table.is_matrix:
        values = table.columns[MATRIX]
        return (Field(MATRIX, DType.of(values.dtype), (values.shape[1],)),)
    made = []
    for name, values in table.columns.items():
        if values.ndim != 1:
            raise Invalid(
                f"column {name!r} is a matrix",
                hint="give each of its columns a name of its own, as in training",
                field=name,
            )
        kind = table.kinds[name]
        dtype = DType.of(values.dtype)
        made.append(Field(name, dtype, booleans=kind.booleans, dates=kind.dates))
    return tuple(made)


def optional_booleans(table: Table) -> set[str]:
    """The columns of pandas' types of booleans that have a missing value among theirs."""
    return {n for n, kind in table.kinds.items() if kind.dtype in ("boolean", "bool[pyarrow]")}


def check_texts(values: NDArray[Any], name: str) -> None:
    """Raise `Invalid` for a text that no file can hold: half of a surrogate pair."""
    texts = values.tolist() if values.dtype.kind == "O" else ()
    try:
        "".join(text for text in texts if text is not None).encode()
    except UnicodeEncodeError as problem:
        half = problem.object[problem.start]
        said = f"column {name!r} holds {half!r}, half of a surrogate pair, which is no text"
        raise Invalid(said, hint="decode its bytes with errors='replace'", field=name) from None


def outputs_of(classes: tuple[Any, ...] | None, *, probabilities: bool) -> tuple[Field, ...]:
    if classes is None:
        return (Field("prediction", DType.FP64),)
    label = Field("label", label_dtype(np.asarray(classes)))
    if not probabilities:
        return (label,)
    return (label, Field("probabilities", DType.FP64, (len(classes),)))


def outputs_of_targets(targets: Sequence[Target], *, probabilities: bool) -> tuple[Field, ...]:
    """The outputs of a model that predicts several things: all answers proper, then the shares."""
    if targets[0].classes is None:
        return tuple(Field(f"prediction.{target.name}", DType.FP64) for target in targets)
    labels = [
        Field(f"label.{target.name}", label_dtype(np.asarray(target.classes))) for target in targets
    ]
    shares = [
        Field(f"probabilities.{target.name}", DType.FP64, (len(target.classes or ()),))
        for target in targets
    ]
    return (*labels, *(shares if probabilities else ()))


def outputs_of_detector() -> tuple[Field, ...]:
    """A detector of outliers: 1 for an inlier and -1 for an outlier, and what decides it."""
    return (Field("label", DType.INT64), Field("score", DType.FP64))


def rows_of(
    table: Table, truth: NDArray[Any] | None, signature: Signature, data: Any = None
) -> Rows:
    """The rows of a table, read; `data` is X or (X, y) as the caller handed it over."""
    given = data[0] if isinstance(data, tuple) else data
    for name, values in table.columns.items():
        check_texts(values, name)
    columns = table.columns[MATRIX] if signature.is_matrix else dict(table.columns)
    return Rows(conform(columns, signature), truth, given)


def must_answer(ask: Any, columns: Columns, *, targets: int = 1) -> None:
    """Raise `Invalid` for a model that does not give `targets` answers for each training row."""
    asked = min(3, len(next(iter(columns.values()))))
    few = {name: column[:asked] for name, column in columns.items()}
    try:
        with warnings.catch_warnings(action="ignore"):
            answer = np.asarray(ask(few))
    except Exception as problem:
        raise Invalid(
            f"the model does not answer for its training rows: {problem}",
            hint="pass train as it was passed to fit",
        ) from problem
    if len(answer) != asked:
        raise Invalid(
            f"the model gives {len(answer)} answers for {asked} rows",
            hint="pass train as it was passed to fit",
        )
    if targets > 1 and answer.shape != (asked, targets):
        raise Invalid(
            f"the model answers in the shape {list(answer.shape)}, not [{asked}, {targets}]",
            hint="pass train as it was passed to fit",
        )
    if targets == 1 and answer.ndim > 1 and answer.shape[1] != 1:
        raise Invalid(
            f"the model predicts {answer.shape[1]} outputs, and one is supported",
            hint="pack one model per output",
        )


def parameters_of(model: Any) -> dict[str, str]:
    """Settings that are plain values; nested estimators are spelled out under their own names."""
    return {
        name: repr(value)
        for name, value in sorted(model.get_params(deep=True).items())
        if value is None or isinstance(value, str | int | float | bool | list | tuple | dict)
        if "<" not in repr(value)[:2000] and len(repr(value)) <= 2000
    }
