"""Asks a recorded request again: of the version that answered it, or of another one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from bascule.bundle import Bundle, open_program, pinned_program, take
from bascule.bundle.explaining import read_explanation, waterfall_plot
from bascule.core import Columns, Field, Invalid, NotFound
from bascule.documents import Plot
from bascule.monitoring.ledger import Ledger, quoted
from bascule.monitoring.recorded import MAX_ID, request_of

_EXPLAINED_ROWS = 3


@dataclass(frozen=True, slots=True)
class Replayed:
    """A recorded answer and the one of now.

    Attributes:
        id: The prediction id.
        version: That answered, `MODEL/VERSION`.
        on: That answers now.
        rows: How many rows of the request were recorded.
        inputs: The recorded inputs.
        then: The recorded outputs.
        now: The outputs of now.
        differing: By output: the rows with other bits.
        largest: By output of numbers: the largest absolute difference.
    """

    id: str
    version: str
    on: str
    rows: int
    inputs: Columns
    then: Columns
    now: Columns
    differing: dict[str, int]
    largest: dict[str, float]

    @property
    def is_same(self) -> bool:
        """Whether every output has the same bits."""
        return not any(self.differing.values())

    def to_json(self) -> dict[str, Any]:
        columns = {"inputs": self.inputs, "then": self.then, "now": self.now}
        plain = {
            what: {name: values.tolist() for name, values in part.items()}
            for what, part in columns.items()
        }
        return {
            "id": self.id, "version": self.version, "on": self.on, "rows": self.rows,
            "is_same": self.is_same, "differing": self.differing, "largest": self.largest, **plain,
        }  # fmt: skip


def replay_prediction(
    ledger: Ledger,
    prediction_id: str,
    open_version: Callable[[str], Bundle],
    *,
    on: str = "",
) -> Replayed:
    """Ask again what a prediction id asked, with the program that a server runs.

    Args:
        ledger: Where it was recorded.
        prediction_id: Of the request, or `ID#ROW` of one of its rows; the newest request where
            several have it.
        open_version: Opens `MODEL/VERSION`.
        on: The version to ask. If empty, the version of the recorded answer.

    Raises:
        NotFound: The ledger has no such id, or the version is gone.
        Invalid: A field of the request was not recorded.
    """
    prediction_id = request_of(prediction_id)
    answered, rows = _rows(ledger, prediction_id)
    bundle = open_version(on or answered)
    inputs = recorded_columns(rows, "input.", bundle.signature.inputs)
    then = recorded_columns(rows, "output.", _answered(rows, bundle.signature.outputs))
    now = _run(bundle, inputs, tuple(then))
    return Replayed(
        prediction_id, answered, on or answered, rows.num_rows, inputs, then, now,
        *_differences(then, now),
    )  # fmt: skip


def explain_prediction(
    ledger: Ledger, prediction_id: str, open_version: Callable[[str], Bundle]
) -> list[Plot]:
    """Why the first rows of a recorded request were answered so, by the version that did.

    Raises as `replay_prediction`; `Invalid` also where the bundle has no explanations.
    """
    prediction_id = request_of(prediction_id)
    answered, rows = _rows(ledger, prediction_id)
    bundle = open_version(answered)
    inputs = recorded_columns(rows, "input.", bundle.signature.inputs)
    few = take(inputs, slice(_EXPLAINED_ROWS))
    outputs = dict(bundle.predict(few, parameters={"explain": True}))
    explanation = read_explanation(bundle.path, bundle.manifest)
    assert explanation is not None
    return [
        waterfall_plot(explanation, outputs, bundle.signature, few, row)
        for row in range(len(next(iter(few.values()))))
    ]


def _rows(ledger: Ledger, prediction_id: str) -> tuple[str, pa.Table]:
    """The version that answered the newest request of an id, and its rows."""
    if not 0 < len(prediction_id) <= MAX_ID:
        raise Invalid(f"a prediction id has 1 to {MAX_ID} characters, not {len(prediction_id)}")
    asked = quoted(prediction_id)
    found = ledger.query(
        f"SELECT model, version, time FROM predictions WHERE id = {asked} "
        "ORDER BY time DESC LIMIT 1"
    ).to_pylist()
    if not found:
        raise NotFound(
            f"the ledger has no prediction {prediction_id!r}",
            hint="bascule ledger query 'select id from predictions order by time desc limit 5'",
        )
    model, version, at = found[0]["model"], found[0]["version"], found[0]["time"]
    rows = ledger.query(
        f"SELECT * FROM predictions WHERE id = {asked} AND version = '{version}' "
        f"AND time = TIMESTAMPTZ '{at.isoformat()}' ORDER BY row",
        model=model,
    )
    return f"{model}/{version}", rows


def _run(bundle: Bundle, inputs: Columns, outputs: tuple[str, ...]) -> Columns:
    from bascule.bundle import for_program, read_manifest

    manifest = read_manifest(bundle.path)
    program = open_program(
        bundle.path, manifest, name=pinned_program(bundle.path, manifest), threads=1
    )
    try:
        return program.run(for_program(inputs, program.inputs), outputs)
    finally:
        program.close()


def _answered(rows: pa.Table, fields: tuple[Field, ...]) -> tuple[Field, ...]:
    """The outputs that the caller asked for."""
    return tuple(one for one in fields if f"output.{one.name}" in rows.column_names)


def recorded_columns(rows: pa.Table, prefix: str, fields: tuple[Field, ...]) -> Columns:
    """The columns of fields in rows of the ledger; raises `Invalid` for one that it has not."""
    columns: Columns = {}
    for field in fields:
        name = prefix + field.name
        if name not in rows.column_names:
            raise Invalid(
                f"field {field.name!r} was not recorded",
                hint="fields in monitoring.private, and those with many values, are left out",
            )
        values = rows[name].to_pylist()
        if np.dtype(field.dtype.numpy).kind == "O":
            column = np.empty(len(values), object)
            column[:] = values
        else:
            column = np.array([np.nan if one is None else one for one in values], field.dtype.numpy)
        columns[field.name] = column
    return columns


def _differences(then: Columns, now: Columns) -> tuple[dict[str, int], dict[str, float]]:
    differing: dict[str, int] = {}
    largest: dict[str, float] = {}
    for name, before in then.items():
        after = now[name].reshape(before.shape)
        is_number = before.dtype.kind == "f"
        same = before == after
        if is_number:
            same |= np.isnan(before) & np.isnan(after)
            gaps = np.abs(np.where(same, 0.0, after.astype(float) - before))
            largest[name] = float(gaps.max(initial=0.0))
        differing[name] = int((~same.reshape(len(same), -1)).any(axis=1).sum())
    return differing, largest
