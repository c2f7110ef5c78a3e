"""Measures how often prediction sets and intervals hold the truth, on rows that did not make them.

Rows that calibrated cannot be asked. Taken as they are, k = ceil((n + 1) c) of n are inside,
because that is how the threshold was chosen. Leaving one out at a time does not help: without ties,
ceil(n c) of n are inside for any model and any rows. So rows that calibrated are left out
by their hashes, and where no others are left nothing is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import take
from bascule.bundle.statements import CALIBRATION_KIND, hashes_of, row_hashes
from bascule.core import Columns, Invalid
from bascule.release.gates import Measured
from bascule.stats import Calibration, beta_binomial_below, exact_interval

if TYPE_CHECKING:
    from bascule.bundle import Bundle

_HINT = "give others with --test, or pack the model with calibration=(X, y)"


def conformal_coverage(
    bundle: Bundle,
    columns: Columns,
    truth: NDArray[Any],
    confidence: float,
    *,
    ask: Callable[[Columns], Columns],
) -> Measured:
    """The share of the rows whose truth is inside, by the method that answers usually have.

    Args:
        bundle: What is measured.
        columns: Rows in the signature's dtypes.
        truth: What was true for them.
        confidence: What the sets or intervals are asked with.
        ask: The program's answers for rows.

    Raises:
        Invalid: There is no calibration, or too small a one for the confidence, or no row that
            did not calibrate it.
    """
    calibration = bundle.calibration
    if calibration is None:
        raise Invalid("the bundle has no calibration; pack it with calibration=(X, y)")
    others = np.flatnonzero(~_calibrated(bundle, calibration, columns))
    left_out = len(truth) - len(others)
    if not len(others):
        raise Invalid(
            f"the rows are those that it was calibrated on, of which it holds what was asked "
            f"for any model; {_HINT}"
        )
    answers, known = ask(take(columns, others)), truth[others]
    added = calibration.added(answers, confidence)
    inside = calibration.holds(added, known, bundle.classes)
    covered, asked = int(inside.sum()), len(known)
    lower, upper = exact_interval(covered, asked)
    rank = calibration.rank(confidence)
    chance = beta_binomial_below(covered, asked, rank, calibration.rows + 1 - rank)
    without = f" ({left_out:,} that calibrated it are left out)" if left_out else ""
    return Measured(
        covered / asked,
        f"{covered:,} of {asked:,} rows that did not calibrate it{without}, so this calibration "
        f"covers {lower:.4g} to {upper:.4g} of such rows (Clopper-Pearson, 95%); of calibrations "
        f"on {calibration.rows:,} like rows, {chance:.2g} cover so few or fewer (their coverage "
        f"is Beta({rank}, {calibration.rows + 1 - rank}))",
    )


def _calibrated(bundle: Bundle, calibration: Calibration, columns: Columns) -> NDArray[np.bool_]:
    """Which of the rows calibrated the bundle; raises `Invalid` if that is unknown."""
    asked = row_hashes(columns)
    if calibration.source == "test" and (held_out := bundle.test_data()) is not None:
        return np.isin(asked, row_hashes(held_out[0]))
    said = bundle.statements(CALIBRATION_KIND)
    kept = hashes_of(said[-1].body) if said else None
    if kept is None:
        raise Invalid("nothing says which rows it was calibrated on; pack the model again")
    found = np.isin(asked, kept.hashes)
    if found.any() and not kept.is_whole:
        raise Invalid(
            f"some of the rows are among the {calibration.rows:,} that it was calibrated on, and "
            "of so many it is not kept which they are; give others with --test"
        )
    return found
