"""Performance of a model: its predictions against the truth that came later, or without any.

`measuring` is the story; `ledger_rows` and `table_rows` read; `delays`, `judging` and `estimating`
are pure: they take arrays and decide.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
