"""Quality of an order: of the rows of each query by relevance, and of subjects by their risk."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import Columns

Floats = NDArray[np.float64]

RANKING, SURVIVAL = "ranking", "survival"
"""Tasks whose truths are two columns: relevance and group, time and event."""

NDCG = {"ndcg": None, **{f"ndcg_{first}": first for first in (1, 3, 5, 10, 20, 50, 100)}}
"""The metrics of rankings, and how many rows of a group each looks at; None is all of them."""
CONCORDANCE = "concordance"


def order_score(name: str, truth: NDArray[Any], answers: Columns) -> float:
    """One of `NDCG`, or `CONCORDANCE`; raises ValueError where it cannot be measured.

    Args:
        name: The metric.
        truth: Shape (rows, 2): relevance and group, or time and event (1, or 0 where censored).
        answers: The outputs: `risk`, larger for what ends sooner; or the first one, larger for a
            row that is more relevant or lasts longer.
    """
    if truth.ndim != 2 or truth.shape[1] != 2:
        needed = "time and event" if name == CONCORDANCE else "relevance and group"
        raise ValueError(f"{name} needs a truth of two columns, {needed}")
    first = truth[:, 0].astype(np.float64)
    scores = np.asarray(answers.get("risk", next(iter(answers.values()))), np.float64).reshape(-1)
    if name == CONCORDANCE:
        risks = scores if "risk" in answers else -scores
        return concordance(first, truth[:, 1].astype(np.float64) != 0, risks)
    _, groups = np.unique(truth[:, 1].astype(str), return_inverse=True)
    return ndcg(first, scores, groups, NDCG[name])


def ndcg(
    relevance: Floats, scores: Floats, groups: NDArray[np.int64], first: int | None = None
) -> float:
    """The normalised discounted cumulative gain, as a mean over the groups.

    The gain of a group is the sum of relevance / log2(place + 1) over its first rows by score, as a
    share of that of the best order (Jaervelin and Kekaelaeinen 2002, 3.2, with the linear gain of
    scikit-learn's `ndcg_score`). Rows of one score have the mean of their gains (McSherry and
    Najork 2008, section 3). A group without a relevant row is left out, with a warning.

    Args:
        relevance: Not below 0. Shape (rows,).
        scores: Larger is ranked higher. Shape (rows,).
        groups: The query of each row, as numbers from 0. Shape (rows,).
        first: How many places count; all if None.
    """
    if not (relevance >= 0).all():
        raise ValueError("a relevance is below 0, or missing")
    by_group = np.argsort(groups, kind="stable")
    parts = np.split(by_group, np.cumsum(np.bincount(groups))[:-1])
    values = [
        _of_group(relevance[rows], scores[rows], first) for rows in parts if relevance[rows].any()
    ]
    if not values:
        raise ValueError("no group has a relevant row")
    if len(values) < len(parts):
        warnings.warn(
            f"{len(parts) - len(values)} of {len(parts)} groups have no relevant row", stacklevel=2
        )
    return float(np.mean(values))


def _of_group(gains: Floats, scores: Floats, first: int | None) -> float:
    discounts = 1 / np.log2(np.arange(len(gains)) + 2)
    discounts[len(gains) if first is None else first :] = 0
    _, ties, counts = np.unique(-scores, return_inverse=True, return_counts=True)
    shared = np.add.reduceat(discounts, np.cumsum(counts) - counts)
    reached = float(np.bincount(ties, gains) / counts @ shared)
    return reached / float(np.sort(gains)[::-1] @ discounts)


def concordance(times: Floats, events: NDArray[np.bool_], risks: Floats) -> float:
    """Harrell's C: how often, of two subjects, the one that ended first had the higher risk.

    A pair counts if the shorter time ended with the event; of equal times, the event is before the
    censored one, and two events do not count. Equal risks are half right (Harrell et al. 1982).
    Every pair is looked at: a second for 20,000 rows.

    Args:
        times: When each was last seen. Shape (rows,).
        events: Whether it ended then; else it is censored. Shape (rows,).
        risks: Larger ends sooner. Shape (rows,).
    """
    _, place = np.unique(times, return_inverse=True)
    key = 2 * place + ~events  # the events of a time are before what is censored then
    order = np.argsort(key, kind="stable")
    key, risks = key[order], risks[order]
    later = np.searchsorted(key, key, side="right")
    right = pairs = 0.0
    for row in np.flatnonzero(events[order]):
        others = risks[later[row] :]
        right += np.count_nonzero(others < risks[row]) + np.count_nonzero(others == risks[row]) / 2
        pairs += len(others)
    if not pairs:
        raise ValueError("no two rows can be compared: every time is censored, or equal")
    return float(right / pairs)
