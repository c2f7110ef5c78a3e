"""Addresses as people may see them: defined in `bascule_client.masking`, whose errors name some."""

from __future__ import annotations

from bascule_client.masking import (
    masked as masked,
    masked_text as masked_text,
    without_secrets as without_secrets,
)
