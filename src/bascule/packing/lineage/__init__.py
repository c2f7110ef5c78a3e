"""Where a model came from, as other systems know it: an MLflow run, data that DVC tracks."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
