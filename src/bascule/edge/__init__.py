"""What runs on a device: bundles from a signed repository, verified, served and reported on.

`agent` decides with `deciding` and keeps what `slots` says; `device` answers; `fetching` brings
bundles that `trusting` verified, by `deltas`.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
