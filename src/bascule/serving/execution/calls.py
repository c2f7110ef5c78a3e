"""What every protocol makes of a request: one call of one model."""

from __future__ import annotations

from typing import NamedTuple

from bascule.core.fields import Columns
from bascule.serving.execution.confidence import Asked


class Call(NamedTuple):
    """Rows for a model, and what is wanted of it.

    Attributes:
        columns: In the names and dtypes that the program reads, every value checked.
        rows: How many, 1 or more.
        outputs: The outputs wanted, in that order; None for all.
        asked: The confidence wanted beside them; `Confidence.by_default` where nothing was said.
    """

    columns: Columns
    rows: int
    outputs: tuple[str, ...] | None = None
    asked: Asked | None = None
