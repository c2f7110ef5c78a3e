"""Which answers are reviewed, as the settings say. Imports nothing that reads a ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewRule:
    """Which answers of a model are reviewed: a section `[reviews.MODEL]`.

    Attributes:
        outlier_p: Rows with this `outlier_p` or a smaller one are outlying; 0 for none.
        score_band: Rows whose largest probability is from the first to the second of two numbers
            are uncertain.
        set_size: Rows whose `prediction_set` has more classes are uncertain.
        rate: The share of outlying and uncertain rows that is reviewed.
        base_rate: The share of all others that is reviewed.
        seed: Of the draws. Callers choose ids: a seed that they do not know keeps them from
            choosing whether they are reviewed.
    """

    outlier_p: Annotated[float, Ge(0), Le(1)] = 0.01
    score_band: tuple[float, float] = (0.0, 0.0)
    set_size: Annotated[int, Ge(1)] = 1
    rate: Annotated[float, Gt(0), Le(1)] = 1.0
    base_rate: Annotated[float, Gt(0), Le(1)] = 0.01
    seed: str = ""
