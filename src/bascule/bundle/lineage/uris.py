"""Where something is, without what only its owner may know."""

from __future__ import annotations

import re

_USER = re.compile(r"(\w+://)[^/@\s\"']*@")
_QUERY = re.compile(r"(\w+://[^?\s\"']*)\?[^\s\"']*")


def without_secrets(text: str) -> str:
    """Every URI in a text without its user, its password and its query, which may hold a key."""
    return _QUERY.sub(r"\1", _USER.sub(r"\1", text))
