"""Statistics: conformal prediction, profiles, comparisons, sequential tests, drift. Pure: no I/O.

Import what is needed from its module. `conformal` and `sketches` need numpy alone, so that a
serving worker can use them.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
