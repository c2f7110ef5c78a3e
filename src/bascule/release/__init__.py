"""Gates: the requirements that a version must meet to move on, and the measuring behind them."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
