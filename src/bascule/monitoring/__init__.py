"""Monitoring: how what a model is asked, and what it answers, differs from its baseline."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
