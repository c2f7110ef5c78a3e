"""Shows what is registered, served and counted; decides nothing.

The control API is apart from the prediction port, and FastAPI is never on the prediction path.
"""

from __future__ import annotations

from bascule.console.api import control_app
from bascule.console.door import ControlServer
from bascule.console.hosts import answering_to

__all__ = ["ControlServer", "answering_to", "control_app"]
