"""What the routes of a control process work with: the server, and what opens the catalogue's parts.

`control_app` keeps it in `app.state.control`, where the console's pages find it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bascule.control.link import ServerLink
from bascule.control.people import FindSession
from bascule.control.rights import Authorise

if TYPE_CHECKING:
    from bascule.catalogue import Catalogue
    from bascule.control.monitoring_routes import Measure
    from bascule.control.sessions import Sessions
    from bascule.control.shown import SettingsShown
    from bascule.endpoints import Endpoints
    from bascule.monitoring.alerts import AlertStore
    from bascule.registry import Keys, Registry
    from bascule.release.rollouts import Rollouts


Plots = Callable[[str], Sequence[Mapping[str, str]]]
"""Draws the plots of a version, `MODEL/NUMBER`: title, caption, svg and section of each."""


@dataclass(frozen=True, slots=True)
class ControlContext:
    """See the module. What opens something raises `NotFound` where this server keeps none of it.

    Attributes:
        server: The server that the control process speaks for.
        registry: Opens the registry.
        endpoints: Opens the endpoints.
        rollouts: Opens the rollouts.
        alerts: Opens the alerts.
        keys: Opens the keys of callers.
        catalogue: Opens the catalogue; None without one.
        authorise: Raises `Refused` unless the caller of a request may do this to a model.
        asks_for_keys: Whether callers need keys.
        home: Where ledger and outcomes are kept; None for a server without them.
        measure: Measures a model in production, in a process of its own; None for none.
        sessions: Opens the sessions of people.
        find_session: Finds the session of a token; None where nobody can sign in.
        shown: What the settings say, without secrets; None for nothing.
        plots: Draws the plots of a version, in a process of its own; None for none.
    """

    server: ServerLink
    registry: Callable[[], Registry]
    endpoints: Callable[[], Endpoints]
    rollouts: Callable[[], Rollouts]
    alerts: Callable[[], AlertStore]
    keys: Callable[[], Keys]
    catalogue: Callable[[], Catalogue] | None
    authorise: Authorise
    asks_for_keys: bool
    home: Path | None
    measure: Measure | None
    sessions: Callable[[], Sessions]
    find_session: FindSession | None
    shown: SettingsShown | None
    plots: Plots | None
