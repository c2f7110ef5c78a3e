"""Bundles: the folder of a packed model, verified, opened and asked.

`bascule.packing` makes bundles; nothing here imports it. Names are imported when they are first
used, so that a server loads only what it uses.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
