"""Drafts of postmortems, from what history, rollouts, alerts and the ledger record.

`draft` and `document_of` are pure; `gather` reads.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
