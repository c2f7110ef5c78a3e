"""Packing: read a fitted model, compile it, compare it with the original, measure and seal it.

What is packed is read by `bascule.bundle`, which imports nothing of this room. Names are imported
when they are first used.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
