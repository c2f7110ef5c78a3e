"""Tables to the columns that a model takes: defined in `bascule_client.tables`, for both sides.

A client reads the caller's table as a bundle in the hand does, with the same errors.
"""

from __future__ import annotations

from bascule_client.tables import (
    BOOLEAN_OBJECTS as BOOLEAN_OBJECTS,
    DATE_OBJECTS as DATE_OBJECTS,
    FIRST_SHARED as FIRST_SHARED,
    MATRIX as MATRIX,
    TEXT as TEXT,
    Kind as Kind,
    Table as Table,
    are_wide as are_wide,
    as_dtype as as_dtype,
    conform as conform,
    for_program as for_program,
    is_missing as is_missing,
    missing as missing,
    read_table as read_table,
    read_truth as read_truth,
    recombined as recombined,
    take as take,
    take_rows as take_rows,
    warn_of_extra as warn_of_extra,
)
