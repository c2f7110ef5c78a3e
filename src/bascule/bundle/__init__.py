"""Bundles: pack a fitted model, compile it, prove it equal, open it again.

Names are imported when they are first used, so that a server which only reads bundles
(`bascule.bundle.disk.folder`) does not load what only packing needs.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
