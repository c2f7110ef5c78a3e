"""Real rows of a bundle, as many as a measurement needs. Light: a measured process imports it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bascule.bundle import take
from bascule.bundle.disk import EXAMPLE, Manifest, columns_of, read_file
from bascule.core import Columns, Program


def example_rows(path: Path, manifest: Manifest, program: Program) -> Columns:
    """The rows of the example request that every bundle carries, as `program` reads them."""
    return columns_of(read_file(path, manifest, EXAMPLE), program.inputs)


def batch_of(columns: Columns, rows: int, *, start: int = 0) -> Columns:
    """`rows` rows from row `start` on, beginning again at the first one after the last."""
    available = len(next(iter(columns.values())))
    return take(columns, (np.arange(rows) + start) % available)
