"""Keys and signatures: who may do what, and who vouches for a folder. Knows nothing of bundles.

Import `bascule.security.keys` or `bascule.security.signing`: a server needs the one alone.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
