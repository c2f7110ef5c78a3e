"""The protocols of the server: each turns the bytes of a request into a call, and answers back."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
