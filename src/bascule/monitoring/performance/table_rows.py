"""Predictions and truths of a table from anywhere; the bundle answers where it has none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.statements import flat_columns
from bascule.bundle import as_arrow, conform
from bascule.core import Columns, Invalid
from bascule.monitoring.performance.reference import Reference, is_known
from bascule.monitoring.performance.rows import PredictionRows
