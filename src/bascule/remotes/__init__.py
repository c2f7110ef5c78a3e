"""Bundles that lie in a bucket, fetched to a local folder: the port, and its adapters beside it.

Rules that this room keeps for every kind of remote:

- What is listed is judged before a byte is read: names, number and sizes.
- An object is read in the state in which it was listed, and written to a file that was not there.
- The bundle is verified as a whole before it has its name; until then there is nothing.

Importing this room imports no client of any place.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
