"""Files in a folder or in a bucket of S3: the port of both, and the client of buckets."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
