"""Long work: submitted, listed, followed, cancelled, resumed, retried and scheduled in one way.

`records` and `due` decide, `store` keeps jobs in the catalogue, `running` is what a control process
does, `holding` what the process of a job does. The kinds themselves are above this room.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
