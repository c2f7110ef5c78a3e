"""Addresses as people may see them: defined in `bascule_client.masking`, whose errors name some."""

from __future__ import annotations

from bascule_client.masking import masked as masked
from bascule_client.masking import masked_text as masked_text
from bascule_client.masking import without_secrets as without_secrets
