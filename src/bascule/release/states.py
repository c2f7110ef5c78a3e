"""Held-out rows in another state: values left out, noise added. The same ones every time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import Columns, Field, Invalid, Signature
from bascule.release.conditions import Missing, Noise

_SEED = 0


def in_state(columns: Columns, signature: Signature, state: Missing | Noise) -> Columns:
    """The rows with values left out or noise added.

    Args:
        columns: In the signature's dtypes. They are not changed.
        signature: Says which columns may be missing.
        state: What is done to them.

    Raises:
        Invalid: There is no column that it can be done to.
    """
    random = np.random.default_rng(_SEED)
    change = _left_out if isinstance(state, Missing) else _noisy
    made, touched = dict(columns), False
    for field in signature.inputs:
        changed = change(columns[field.name], field, state.percent / 100, random)
        if changed is not None:
            made[field.name] = changed
            touched = True
    if not touched:
        wanted = "takes missing values" if isinstance(state, Missing) else "holds fractions"
        raise Invalid(f"no column of the model {wanted}")
    return made


def _left_out(
    values: NDArray[Any], field: Field, share: float, random: np.random.Generator
) -> NDArray[Any] | None:
    if not field.nullable or values.dtype.kind not in "fO":
        return None
    made = values.copy()
    made[random.random(values.shape) < share] = np.nan if values.dtype.kind == "f" else None
    return made


def _noisy(
    values: NDArray[Any], field: Field, share: float, random: np.random.Generator
) -> NDArray[Any] | None:
    if values.dtype.kind != "f" or field.categories is not None:
        return None
    numbers = values.astype(np.float64)
    whole = np.all(np.isnan(numbers) | (numbers == np.round(numbers)), axis=0)
    if np.all(whole):  # counts and codes that pandas holds as fractions
        return None
    known = np.where(np.isfinite(numbers), numbers, np.nan)
    with np.errstate(invalid="ignore"):
        spread = np.nan_to_num(np.nanstd(known, axis=0))
    noise = random.normal(size=values.shape) * np.where(whole, 0.0, spread * share)
    return (numbers + noise).astype(values.dtype)
