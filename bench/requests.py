"""What is sent to a server: a body, and the headers that say how to read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

JSON: Mapping[str, str] = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Request:
    """One POST."""

    body: bytes
    headers: Mapping[str, str]
