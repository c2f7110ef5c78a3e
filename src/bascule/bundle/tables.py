"""Tables to the columns that a model takes: defined in `bascule_client.tables`, for both sides.

A client reads the caller's table as a bundle in the hand does, with the same errors.
"""

from __future__ import annotations

from bascule_client.tables import (
    FIRST_SHARED,
    MATRIX,
    TEXT,
    Kind,
    Table,
    are_wide,
    as_dtype,
    conform,
    for_program,
    is_missing,
    read_table,
    read_truth,
    recombined,
    take,
    take_rows,
)

__all__ = [
    "FIRST_SHARED",
    "MATRIX",
    "TEXT",
    "Kind",
    "Table",
    "are_wide",
    "as_dtype",
    "conform",
    "for_program",
    "is_missing",
    "read_table",
    "read_truth",
    "recombined",
    "take",
    "take_rows",
]
