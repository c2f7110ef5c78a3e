"""Addresses as people may see them: defined in `bascule_client.masking`, whose errors name some."""

from __future__ import annotations

from bascule_client.masking import masked, masked_text, without_secrets

__all__ = ["masked", "masked_text", "without_secrets"]
