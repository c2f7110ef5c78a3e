"""Tables to the columns that a model takes: defined in `bascule_client.tables`, for both sides.

A client reads the caller's table as a bundle in the hand does, with the same errors.
"""

from __future__ import annotations

from bascule_client.tables import FIRST_SHARED as FIRST_SHARED
from bascule_client.tables import MATRIX as MATRIX
from bascule_client.tables import TEXT as TEXT
from bascule_client.tables import Kind as Kind
from bascule_client.tables import Table as Table
from bascule_client.tables import are_wide as are_wide
from bascule_client.tables import as_dtype as as_dtype
from bascule_client.tables import conform as conform
from bascule_client.tables import for_program as for_program
from bascule_client.tables import is_missing as is_missing
from bascule_client.tables import read_table as read_table
from bascule_client.tables import read_truth as read_truth
from bascule_client.tables import recombined as recombined
from bascule_client.tables import take as take
from bascule_client.tables import take_rows as take_rows
