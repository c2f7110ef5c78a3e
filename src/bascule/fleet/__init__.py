"""The server's side of devices: what is published to them.

`places` is where a repository lies, `repository` its metadata, `publishing` what goes into it.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
