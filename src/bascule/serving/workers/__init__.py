"""Processes: the supervisor, its workers, the models that they have loaded, the control child."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
