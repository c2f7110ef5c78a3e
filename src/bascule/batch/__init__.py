"""Batch scoring: a table in, the same table with predictions out, exactly once.

`jobs` is what a user asks for, `manifest` decides, `running` is the story; `sources` and `sinks`
are one file each behind `ports`.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
