"""Compositions: a bundle whose program runs the programs of other bundles, and rules around them."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
