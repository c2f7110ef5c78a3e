"""Extra outputs: more fields of an answer, made from the rows and the model's own outputs."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
