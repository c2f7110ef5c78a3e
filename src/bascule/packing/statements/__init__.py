"""What is measured or recorded while a model is packed, for the statements of its bundle."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
