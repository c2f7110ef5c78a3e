"""Answers that people look at: which are chosen, who has which, and what they say is true."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
