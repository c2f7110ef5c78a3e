"""Bytes to arrays and back: JSON, raw tensors, protobuf, compression. Knows no protocol."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
