"""What `bascule serve` and `bascule control` run in the foreground: processes, wired from settings.

They say nothing to a person: a command gives them a function that tells what is served.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
