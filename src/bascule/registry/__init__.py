"""Bundles by name and number, and the names that move between them, with history.

Importing this room imports no database library; `open_registry` does, and touches nothing on disk.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
