"""The kinds of jobs, one file for those that are alike, and the process that does one.

`kind_table` has a line for each kind.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
