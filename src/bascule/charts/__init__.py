"""Charts from numbers, as inline SVG: for pages, cards, reports and notebooks. Pure."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
