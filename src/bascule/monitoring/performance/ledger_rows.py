"""Predictions of the ledger with their truths, as `newest_predictions` joins them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bascule.bundle.statements import flat_columns
from bascule.core import Columns, Invalid, NotFound
from bascule.monitoring.ledger import Ledger, quoted
from bascule.monitoring.performance.reference import Reference
from bascule.monitoring.performance.rows import PredictionRows, Sampling

_ABOUT = ("id", "row", "caller", "endpoint", "arm", "protocol")
"""Columns of the ledger by which rows can be sliced, beside those of the model."""
_ROWS = """
SELECT version, time, kept_share, hash(id, "row") / 2.0 ** 64 AS draw, {columns},
    truth, truth_number, review_probability,
    date_diff('microsecond', time, truth_first_received_at) / 1e6 AS delay_s
FROM newest_predictions
WHERE model = {model} AND status BETWEEN 200 AND 299 {since}
ORDER BY time, id, "row"
"""


def read_ledger(
    home: Path,
    model: str,
    reference_of: Callable[[str], Reference | None],
    *,
    since: datetime | None,
    columns: Sequence[str],
) -> list[tuple[Reference, PredictionRows]]:
    """The rows of each version that has a bundle, the oldest version first.

    Raises:
        NotFound: The ledger has no answers of the model.
        Invalid: Its outputs are not recorded, or a column is not there.
    """
    ledger = Ledger(home)
    literal = quoted(model)
    after = "" if since is None else f"AND time >= TIMESTAMPTZ '{since.isoformat()}'"
    sql = f"SELECT DISTINCT version FROM predictions WHERE model = {literal} {after}"
    versions = sorted(ledger.query(sql, model=model)["version"].to_pylist(), key=_number)
    if not versions:
        raise NotFound(
            f"the ledger has no answers of {model!r} in this time",
            hint="give a longer --since, or record answers with monitoring.ledger",
        )
    known = {version: reference_of(version) for version in versions}
    references = {version: one for version, one in known.items() if one is not None}
    needs_inputs = any(one.bundle.task == "regression" for one in references.values())
    there = ledger.query("SELECT * FROM predictions LIMIT 0", model=model).column_names
    wanted = [name for name in there if name.startswith("output.")]
    if not wanted:
        raise Invalid(
            f"the ledger has no outputs of {model}", hint="leave them out of the private fields"
        )
    inputs = [name for name in there if name.startswith("input.")]
    if needs_inputs or any(name not in _ABOUT for name in columns):
        wanted += inputs
    wanted += [name for name in _ABOUT if name in columns and name in there]
    fields = ", ".join('"' + name.replace('"', '""') + '"' for name in wanted)
    sql = _ROWS.format(columns=fields, model=literal, since=after)
    table = ledger.query(sql, model=model)
    parts = [
        (version, one, table.filter(pc.equal(table["version"], version)))
        for version, one in references.items()
    ]
    return [(one, _rows(part, version, one, columns)) for version, one, part in parts if len(part)]


def _number(version: str) -> tuple[int, str]:
    return (int(version), "") if version.isdecimal() else (0, version)


def _rows(
    table: pa.Table, version: str, reference: Reference, columns: Sequence[str]
) -> PredictionRows:
    bundle = reference.bundle
    table = table.filter(_is_answered(table, reference))
    outputs = _arrays(table, "output.")
    if reference.task == "classification" and "label" not in outputs:
        outputs["label"] = np.full(len(table), None, object)
    shares, draws = (np.asarray(table[name]) for name in ("kept_share", "draw"))
    if shares.min() < shares.max():
        reference.notes.append(
            f"the ledger kept {shares.min():.1%} to {shares.max():.1%} of the answers: each window "
            "is thinned to its least share, so that its rows are a uniform sample"
        )
    known = table["truth"].is_valid().to_numpy(zero_copy_only=False)
    of_numbers = bundle.task == "regression"
    truth = table["truth_number" if of_numbers else "truth"].to_numpy(zero_copy_only=False)
    read = _arrays(table, "input.")
    signature = bundle.signature
    is_whole = all(one.name in read for one in signature.inputs)
    flat = flat_columns(read, signature) if is_whole else read
    about = {name: _array(table[name]) for name in _ABOUT if name in table.column_names}
    times = table["time"].cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    if of_numbers:
        is_number = ~np.isnan(truth.astype(np.float64))
        _note_texts(table.filter(pa.array(known & ~is_number)), reference)
        known = known & is_number
    chances = table["review_probability"].to_numpy(zero_copy_only=False).astype(np.float64)
    reviewed, labelled = known & ~np.isnan(chances), reference.labelled(truth, outputs)
    if reviewed.any():
        labelled = replace(labelled, weights=1 / np.where(reviewed, chances, 1.0))
        reference.notes.append(
            f"{int(reviewed.sum()):,} truths are of reviews: each counts by 1 / the probability "
            "with which its row was chosen"
        )
    # Reviews come for few rows, and say nothing of how long the other truths take.
    delays = table["delay_s"].to_numpy(zero_copy_only=False).astype(np.float64)
    return PredictionRows(
        version,
        labelled,
        known,
        np.asarray(times),
        np.where(reviewed, np.nan, delays),
        {**about, **{name: flat[name] for name in columns if name in flat}},
        flat if is_whole else None,
        Sampling(shares, draws),
    )


def _note_texts(table: pa.Table, reference: Reference) -> None:
    """Say that truths of a regression which are no numbers are left out."""
    if len(table):
        example = str(table["truth"][0])[:40]
        reference.notes.append(
            f"truths that are no numbers, such as {example!r}, are left out: {len(table):,}; sent "
            "again as a number, the newest one counts"
        )


def _is_answered(table: pa.Table, reference: Reference) -> pa.Array:
    """Where the ledger has an answer: a caller may have asked for other outputs alone.

    Raises:
        Invalid: No row has one.
    """
    names = [one.name for one in reference.bundle.signature.outputs][:1]
    if reference.task == "classification":
        names = ["label", "probabilities"]
    there = [
        pc.is_valid(table[f"output.{n}"]) for n in names if f"output.{n}" in table.column_names
    ]
    found = functools.reduce(pc.or_, there) if there else pa.array([False] * len(table))
    if not pc.any(found).as_py():
        raise Invalid(
            f"the ledger has no {' or '.join(names)} of {reference.bundle.name}",
            hint="leave it out of the private fields",
        )
    return found


def _arrays(table: pa.Table, prefix: str) -> Columns:
    """The fields of one kind that a version has: others have no value in any row."""
    return {
        name.removeprefix(prefix): _array(table[name])
        for name in table.column_names
        if name.startswith(prefix) and table[name].null_count < table.num_rows
    }


def _array(column: pa.ChunkedArray) -> NDArray[Any]:
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        values = column.combine_chunks()
        there = values.is_valid().to_numpy(zero_copy_only=False)
        flat = np.asarray(values.drop_null().flatten())
        filled = np.full((len(values), len(flat) // max(1, int(there.sum()))), np.nan)
        filled[there] = flat.reshape(int(there.sum()), -1)
        return filled
    made: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return made
