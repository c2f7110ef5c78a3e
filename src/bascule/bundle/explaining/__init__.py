"""Why a model answers as it does: what each input column adds to an answer, at serving time."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
