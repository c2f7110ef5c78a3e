"""The folder of a bundle: manifest, files, limits, held-out rows, example requests, signatures."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
