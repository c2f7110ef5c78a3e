"""Addresses, as people may see them."""

from __future__ import annotations

import re


def masked(value: object) -> str:
    """A value for people to see, without what may be a password in it."""
    return re.sub(r"(://)[^/]*@|([?&][^=&]*=)[^&]*", r"\1\2***@", str(value))
