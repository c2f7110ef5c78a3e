"""How much a model's answers depend on a column: permutation (Breiman 2001), on answers.

A column of the held-out rows is shuffled, and the answers are compared with the answers to the
unchanged rows. No truth is needed. A column that the model ignores has influence 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import Bundle
from bascule.core import Columns
from bascule.stats import field_of_projection

MAX_ROWS = 2_000


def influences(bundle: Bundle, names: Iterable[str]) -> Mapping[str, float]:
    """The mean change of the answers when a column is shuffled, by the name of the column.

    For numbers in deviations of the answers, for probabilities as total variation, for labels the
    share that changes. Empty where the bundle has no held-out rows.
    """
    held_out = bundle.test_data()
    if held_out is None:
        return {}
    rows = {name: values[:MAX_ROWS] for name, values in held_out[0].items()}
    plain = dict(bundle.predict(rows))
    order = np.random.default_rng(0).permutation(len(next(iter(rows.values()))))
    made = {}
    for name in names:
        shuffled = _shuffled(rows, name, order, bundle)
        if shuffled is not None:
            made[name] = _change(plain, dict(bundle.predict(shuffled)))
    return made


def _shuffled(rows: Columns, name: str, order: NDArray[np.int64], bundle: Bundle) -> Columns | None:
    field = name if name in rows else field_of_projection(name)
    if field in rows:
        return {**rows, field: rows[field][order]}
    signature = bundle.signature
    (only, matrix), *rest = rows.items()
    if rest or matrix.ndim != 2:
        return None
    names = signature.columns or tuple(f"{only}.{place}" for place in range(matrix.shape[1]))
    if name not in names:
        return None
    made = matrix.copy()
    made[:, names.index(name)] = matrix[order, names.index(name)]
    return {only: made}


def _change(before: Columns, after: Columns) -> float:
    name = next((one for one in before if one.startswith("probabilities")), next(iter(before)))
    old, new = before[name], after[name]
    if old.dtype.kind != "f":
        return float((old != new).mean())
    moved = np.abs(new.astype(np.float64) - old)
    if name.startswith("probabilities"):
        return float(moved.sum(axis=-1).mean()) / 2
    deviation = float(np.std(old.astype(np.float64)))
    return float(moved.mean()) / deviation if deviation > 0 else 0.0
