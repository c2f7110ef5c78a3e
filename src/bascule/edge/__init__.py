"""What runs on a device: bundles from a signed repository, verified."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
