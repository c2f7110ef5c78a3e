"""What is known of a model in production, on one screen and on one page.

`facts` reads the ledger, `overview` is one screen, `page` is HTML.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
