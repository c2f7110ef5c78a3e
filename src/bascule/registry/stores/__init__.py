"""The records of the registry in the catalogue, and the port of its bundles with its adapters."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
