"""Predictions and truths of a table from anywhere; the bundle answers where it has none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from bascule.bundle import conform
from bascule.bundle.statements import flat_columns
from bascule.core import BasculeError, Columns, Invalid
from bascule.monitoring.drift import acceptable, read_current, times_of
from bascule.monitoring.performance.reference import Reference, is_known
from bascule.monitoring.performance.rows import PredictionRows


@dataclass(frozen=True, slots=True)
class TableColumns:
    """What the columns of a table are called.

    Attributes:
        truth: A missing value is a truth that is not known.
        prediction: Labels or numbers; empty: the bundle answers.
        probability: Of the second of two classes; empty: one column of each class,
            as `bascule predict --output` writes them, where they are there.
        time: Of the predictions; empty: all rows are one window.
    """

    truth: str
    prediction: str = ""
    probability: str = ""
    time: str = ""


def read_performance_table(
    data: Any, reference: Reference, names: TableColumns, slices: Sequence[str]
) -> PredictionRows:
    """The rows of a table.

    Args:
        data: An Arrow table, a data frame, or a dict of columns.
        reference: Of the bundle that it is about.
        names: Of its columns.
        slices: Further columns that are needed.

    Raises:
        Invalid: A column is not there or cannot be read, or the model refuses every row.
    """
    table = _as_arrow(data)
    for option in TableColumns.__slots__:
        name = getattr(names, option)
        if name and name not in table.column_names:
            raise _no_column(table, f"{option}_column", name)
    if not table.num_rows:
        raise Invalid("the table has no rows", hint="give the rows of at least one window")
    if not names.prediction:
        table = _accepted(table, reference)
    inputs = _inputs(table, reference)
    answers = _answers(table, reference, names)
    truth = table[names.truth].to_numpy(zero_copy_only=False)
    task = reference.task
    try:
        labelled = reference.labelled(truth, answers)
        known = is_known(truth, task)
    except (TypeError, ValueError):
        raise Invalid(
            f"truth_column: {names.truth!r} or the predictions hold what is no number",
            hint="the model answers with numbers",
            field=names.truth,
        ) from None
    times = None
    if names.time:
        times = times_of(table, names.time).astype(np.int64)
    columns = {name: _slice_column(table, inputs, name) for name in slices}
    return PredictionRows("", labelled, np.asarray(known, bool), times, None, columns, inputs)


def _accepted(table: pa.Table, reference: Reference) -> pa.Table:
    """The rows that the model takes."""
    signature = reference.bundle.signature
    names = list(signature.columns) or [one.name for one in signature.inputs]
    absent = [name for name in names if name not in table.column_names]
    if absent:
        raise Invalid(
            f"the table has no column {absent[0]!r}, which the model needs to answer its rows",
            hint="add it, or name the answers with prediction_column",
            field=absent[0],
        )
    accepted = acceptable(read_current(table, signature).inputs, signature)
    refused = int((~accepted).sum())
    if refused == table.num_rows:
        raise Invalid(
            "the model refuses every row: values are missing, unknown, or out of bounds",
            hint="bascule drift shows which columns",
        )
    if refused:
        reference.notes.append(
            f"{refused:,} rows that the model refuses (missing, unknown, out of bounds) are left "
            "out"
        )
        return table.filter(pa.array(accepted))
    return table


def _as_arrow(data: Any) -> pa.Table:
    if isinstance(data, pa.Table):
        return data
    if hasattr(data, "to_arrow"):  # polars
        return data.to_arrow()
    try:
        if hasattr(data, "columns"):  # pandas
            return pa.Table.from_pandas(data, preserve_index=False)
        return pa.table(data)
    except (pa.ArrowException, TypeError, ValueError, AttributeError):
        raise Invalid(
            f"a {type(data).__name__} is no table with named columns",
            hint="give a data frame, an Arrow table, or a dict of columns",
        ) from None


def _no_column(table: pa.Table, option: str, name: str) -> Invalid:
    return Invalid(
        f"{option}: the table has no column {name!r}",
        hint=f"its columns are {', '.join(table.column_names[:20])}",
        field=name,
    )


def _inputs(table: pa.Table, reference: Reference) -> Columns | None:
    """What was asked, by column; None where the table does not have it."""
    signature = reference.bundle.signature
    names = list(signature.columns) or [one.name for one in signature.inputs]
    if any(name not in table.column_names for name in names):
        return None
    try:
        return flat_columns(conform(table.select(names), signature), signature)
    except BasculeError:
        return None


def _answers(table: pa.Table, reference: Reference, names: TableColumns) -> Columns:
    bundle = reference.bundle
    if not names.prediction:
        signature = bundle.signature
        wanted = list(signature.columns) or [one.name for one in signature.inputs]
        return dict(bundle.predict(table.select(wanted)))
    values = table[names.prediction].to_numpy(zero_copy_only=False)
    if bundle.task == "regression":
        return {"prediction": values}
    made: Columns = {"label": values}
    classes = reference.classes
    named = [f"probabilities.{label}" for label in classes]
    if names.probability and len(classes) == 2:
        chance = np.asarray(table[names.probability], np.float64)
        made["probabilities"] = np.column_stack([1 - chance, chance])
    elif all(name in table.column_names for name in named):
        made["probabilities"] = np.column_stack([np.asarray(table[name]) for name in named])
    return made


def _slice_column(table: pa.Table, inputs: Columns | None, name: str) -> Any:
    if name in table.column_names:
        return table[name].to_numpy(zero_copy_only=False)
    if inputs is not None and name in inputs:
        return inputs[name]
    raise _no_column(table, "slice", name)
