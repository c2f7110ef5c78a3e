"""Quality of predictions from arrays: gates, cards and monitoring measure by the same functions.

`table` has the facts of every metric, `scores` gives a value, `estimates` a value with its
interval. Pure: nothing here reads a bundle or a file. scikit-learn is imported where a metric is
its scorer.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
