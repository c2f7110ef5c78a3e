"""Held-out rows in another state: values left out, noise added. The same ones every time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import Columns, Field, Invalid, Signature

_SEED = 0


def in_state(
    columns: Columns, signature: Signature, kind: str, share: float, *, seed: int = _SEED
) -> Columns:
    """The rows with values left out, noise added, or numbers moved beyond their range.

    Args:
        columns: In the signature's dtypes. They are not changed.
        signature: Says which columns may be missing.
        kind: `missing`, `noise` or `out_of_range`.
        share: Of the values; of a standard deviation for noise.
        seed: The same seed changes the same values.

    Raises:
        Invalid: There is no column that it can be done to.
    """
    random = np.random.default_rng(seed)
    change, lacking = _CHANGES[kind]
    changed = {
        field.name: values
        for field in signature.inputs
        if (values := change(columns[field.name], field, share, random)) is not None
    }
    if not changed:
        raise Invalid(f"no column of the model {lacking}")
    return {**columns, **changed}


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
    moving = movable(values, field)
    if moving is None:
        return None
    numbers, spread = moving
    return (numbers + random.normal(size=values.shape) * spread * share).astype(values.dtype)


def movable(
    values: NDArray[Any], field: Field
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """The numbers of an input, and the standard deviation of each place in it.

    Zero for whole numbers; None where there are no others.
    """
    if values.dtype.kind != "f" or field.categories is not None:
        return None
    numbers = values.astype(np.float64)
    whole = np.all(np.isnan(numbers) | (numbers == np.round(numbers)), axis=0)
    if np.all(whole):  # counts and codes that pandas holds as fractions
        return None
    known = np.where(np.isfinite(numbers), numbers, np.nan)
    with np.errstate(invalid="ignore"):
        spread = np.nan_to_num(np.nanstd(known, axis=0))
    return numbers, np.where(whole, 0.0, spread)


def _moved_out(
    values: NDArray[Any], field: Field, share: float, random: np.random.Generator
) -> NDArray[Any] | None:
    """With a share of the numbers moved one range beyond the range of their column."""
    if values.dtype.kind not in "if" or field.categories is not None:
        return None
    least, most = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    width = np.asarray(most, np.float64) - least
    beyond = np.where(random.random(values.shape) < 0.5, least - width, most + width)
    is_moved = (random.random(values.shape) < share) & (width > 0)
    return np.where(is_moved, beyond, values).astype(values.dtype)


_CHANGES = {
    "missing": (_left_out, "takes missing values"),
    "noise": (_noisy, "holds fractions"),
    "out_of_range": (_moved_out, "holds numbers"),
}
