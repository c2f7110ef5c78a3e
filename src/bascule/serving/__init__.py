"""Answers requests for models: workers on one port, and the supervisor that keeps them alive.

The life of a request: `http` (bytes to an exchange, its route) -> `protocols` (an exchange to a
call) -> `models`, `engine` (inline or batched) -> `protocols` (outputs to bytes) -> `http` (one
write, one count). `plane` holds the models and asks every protocol for its routes.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
