"""Compliance documents from evidence: lists of sections, facts, and what people must write.

A list is a file of `lists`, or a user's own in the same form; see `drafting.read_list`.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
