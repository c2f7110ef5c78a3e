"""Smaller versions of a model for a device: made, judged against their parent, and packed."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
