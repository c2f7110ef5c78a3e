"""Compositions: a bundle whose program runs those of other bundles, with rules around them."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
