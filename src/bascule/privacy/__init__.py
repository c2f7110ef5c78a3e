"""Privacy: what is held about a person is erased with a proof, or given out."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
