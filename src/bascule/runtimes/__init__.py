"""A bundle's program for other runtimes, each equal to it on real and adversarial rows.

One function each, one line each in `exporting.RUNTIMES`.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
