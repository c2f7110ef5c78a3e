"""One way from facts to a page: facts make sections, a renderer makes text of them. Pure.

Rooms that know facts build the values of `documents.values` and write no markup; a renderer knows
one format and no fact, and is the one place where texts are escaped for it.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
