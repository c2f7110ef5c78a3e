"""What runs on a device: bundles from a signed repository, verified, served and reported on.

`deltas` makes archives and differences, `trusting` verifies metadata, `fetching` brings a bundle.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
