"""Rollouts: evidence decides whether a candidate replaces the current version. Pure, no I/O.

`decide` takes a rollout, where it stands, and counts of intervals; the controller that gathers the
counts and applies the decision is in `control`.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
