"""Bundles by name and number, and the names that move between them, with history.

Importing this room imports no database library; `open_registry` does, and touches nothing on disk.
"""

from __future__ import annotations

from bascule.registry.differences import Change
from bascule.registry.holding import Garbage
from bascule.registry.registry import Registry, open_registry
from bascule.registry.versions import (
    ANYTHING,
    Alias,
    Event,
    Found,
    Gates,
    Model,
    Retirement,
    Version,
)

__all__ = [
    "ANYTHING",
    "Alias",
    "Change",
    "Event",
    "Found",
    "Garbage",
    "Gates",
    "Model",
    "Registry",
    "Retirement",
    "Version",
    "open_registry",
]
