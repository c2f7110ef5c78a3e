"""Fields and signatures: defined in `bascule_client.fields`, which needs them without a server."""

from __future__ import annotations

from bascule_client.fields import (
    Columns as Columns,
    DType as DType,
    Field as Field,
    Signature as Signature,
)
