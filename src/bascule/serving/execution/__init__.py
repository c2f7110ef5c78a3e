"""A call to its answer: predictors, engine, placement, batch sizes, admission, resilience."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
