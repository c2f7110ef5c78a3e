"""Bundles by name and number, and the names that move between them, with history.

Importing this room imports no database library; `open_registry` does, and touches nothing on disk.
"""

from __future__ import annotations

from bascule.registry.registry import Registry, open_registry
from bascule.registry.versions import Alias, Event, Gates, Model, Version

__all__ = [
    "Alias",
    "Event",
    "Gates",
    "Model",
    "Registry",
    "Version",
    "open_registry",
]
