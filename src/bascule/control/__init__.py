"""The control process: the API of what is registered, served and counted, and what needs SQL.

It is a process of its own beside the workers (`process`), or alone (`bascule control`). FastAPI is
never on the prediction path; import from the modules: `references` is used where it is not loaded.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
