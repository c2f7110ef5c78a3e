"""What the control API does with a document of the configuration."""

from __future__ import annotations

from bascule.configuring.applying import Applied
from bascule.operations import Operation

# Which endpoints, schedules, keys and silences is in the body: asked then.
CONFIGURE = Operation("PUT configuration", "deploy", "", Applied, thing="settings")
