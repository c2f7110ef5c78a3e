"""Metrics, the request log, spans and the recorder: what a server reports of its answers."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
