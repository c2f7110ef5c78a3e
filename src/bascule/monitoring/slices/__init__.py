"""Slices of rows in which a version answers worse: `measuring` reads, `finding` is pure."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
