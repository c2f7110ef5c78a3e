"""What every room speaks of: names, digests, fields, programs, errors."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
