"""What the routes of a control process work with: the server, and what opens the catalogue's parts.

`control_app` keeps it in the state of the application, where the console's pages find it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bascule.control.ledger_routes import RecordedPredictions
from bascule.control.link import ServerLink
from bascule.control.people import FindSession
from bascule.control.rights import Authorise

if TYPE_CHECKING:
    from bascule.batch import Places
    from bascule.catalogue import Catalogue
    from bascule.control.sessions import Sessions
    from bascule.control.shown import SettingsShown
    from bascule.endpoints import Endpoints
    from bascule.jobs import JobRunner
    from bascule.monitoring.alerts import AlertStore
    from bascule.registry import Keys, Registry
    from bascule.release.rollouts import Rollouts


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
        jobs: Opens what runs jobs.
        places: Where batch jobs of callers with keys may read and write.
        predictions: The ledger.
        sessions: Opens the sessions of people.
        find_session: Finds the session of a token; None on a server without sessions.
        shown: What the settings say, without secrets; None for nothing.
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
    jobs: Callable[[], JobRunner]
    places: Places
    predictions: RecordedPredictions
    sessions: Callable[[], Sessions]
    find_session: FindSession | None
    shown: SettingsShown | None
