"""Alerts: what is wrong, for how long, and which receivers are notified of it.

Sources find (`sources/`), `advancing` and `routing` decide, `store` keeps, sinks send (`sinks/`),
and `watcher` runs all of it in the control process.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
