"""Ships a version or an endpoint: files for containers, clusters, meshes and clouds."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
