"""Sends notifications: one file for each kind of receiver, and one line in `table`."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
