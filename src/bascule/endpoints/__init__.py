"""Endpoints and their plans: which versions answer a public name, with which shares.

Importing this room imports no database library: workers need the plans alone.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
