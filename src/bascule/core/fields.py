"""Fields and signatures: defined in `bascule_client.fields`, which needs them without a server."""

from __future__ import annotations

from bascule_client.dates import (
    Dates as Dates,
    canonical_date as canonical_date,
    moments_of as moments_of,
)
from bascule_client.fields import (
    Columns as Columns,
    DType as DType,
    Field as Field,
    Signature as Signature,
)
