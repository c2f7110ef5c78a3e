"""Fields and signatures: defined in `bascule_client.fields`, which needs them without a server."""

from __future__ import annotations

from bascule_client.fields import Columns as Columns
from bascule_client.fields import DType as DType
from bascule_client.fields import Field as Field
from bascule_client.fields import Signature as Signature
