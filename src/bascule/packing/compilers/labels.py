"""The type in which labels are answered."""

from __future__ import annotations

from typing import Any

import numpy as np

from bascule.core import DType


def label_dtype(classes: Any) -> DType:
    """Text, booleans, doubles; whole numbers of any width are INT64."""
    kind = np.asarray(classes).dtype.kind
    return {"b": DType.BOOL, "i": DType.INT64, "u": DType.INT64, "f": DType.FP64}.get(
        kind, DType.BYTES
    )
