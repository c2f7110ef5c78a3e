"""Windows from the rows of the ledger, for a version whose profiles no scribe has made."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bascule.bundle import Bundle
from bascule.bundle.statements import answer_columns, profile_columns, profile_of
from bascule.core import Columns, Field, NotFound
from bascule.monitoring.ledger import Ledger, quoted
from bascule.stats import Profile, WindowProfile


def windows_of_rows(home: Path, bundle: Bundle, model: str, version: str) -> list[WindowProfile]:
    """The windows of a version, oldest first; none where the ledger has no rows of it."""
    try:
        table = Ledger(home).query(
            "SELECT * FROM predictions "
            f"WHERE version = {quoted(version)} AND status < 400 ORDER BY time",
            model=model,
        )
    except NotFound:
        return []
    return list(_windows(table, bundle, model, version))


def _windows(table: pa.Table, bundle: Bundle, model: str, version: str) -> Iterator[WindowProfile]:
    days = np.asarray(table["time"].to_numpy()).astype("datetime64[D]")
    inputs = _fields(table, "input.", bundle.signature.inputs)
    outputs = _fields(table, "output.", bundle.signature.outputs)
    kept = np.asarray(table["kept_share"].to_numpy())
    manifest, baseline = bundle.manifest, bundle.baseline
    projected = frozenset[str]() if baseline is None else baseline.projected
    for day in np.unique(days):
        chosen = days == day
        asked = {name: values[chosen] for name, values in inputs.items()}
        told = {name: values[chosen] for name, values in outputs.items()}
        known = tuple(one for one in bundle.signature.inputs if one.name in asked)
        answered = tuple(one for one in bundle.signature.outputs if one.name in told)
        yield WindowProfile(
            model, version, str(day), round(float((1 / kept[chosen]).sum())), int(chosen.sum()),
            _profile(profile_columns(asked, known, bundle.signature.columns, projected)),
            _profile(answer_columns(told, answered, manifest.classes, manifest.targets, projected)),
        )  # fmt: skip


def _profile(columns: Columns) -> Profile:
    return profile_of(columns) if columns else Profile()


def _fields(table: pa.Table, prefix: str, fields: tuple[Field, ...]) -> Columns:
    return {
        one.name: as_array(table[prefix + one.name])
        for one in fields
        if prefix + one.name in table.column_names
    }


def as_array(column: pa.ChunkedArray) -> NDArray[Any]:
    """A column of the ledger as the array that was recorded; texts as objects.

    Segments hold lists whose length a type does not say; those of one version are equally long.
    """
    values = column.combine_chunks()
    shape = [len(values)]
    while pa.types.is_fixed_size_list(values.type) or pa.types.is_list(values.type):
        inside = values.flatten()
        shape.append(len(inside) // max(1, len(values)))
        values = inside
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(shape)


def day_of(window: WindowProfile) -> date:
    """Its UTC day."""
    return date.fromisoformat(window.day)
