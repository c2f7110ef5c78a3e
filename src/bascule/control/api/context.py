"""What the routes of a control process work with: the server, and what the settings choose.

`control_app` keeps the context in the state of the application, where the console's pages find it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from bascule.control.api.rights import Authorise
from bascule.control.link import ServerLink
from bascule.control.parts import Parts
from bascule.control.recorded import RecordedPredictions
from bascule.core import BasculeError, NotFound
from bascule.serving import default_of

if TYPE_CHECKING:  # the registry is loaded when it is first asked for
    from bascule.batch import Places
    from bascule.catalogue import Catalogue
    from bascule.configuring import Books
    from bascule.control.approvals import Approvals
    from bascule.control.people.cookies import FindSession
    from bascule.control.people.sessions import Sessions
    from bascule.endpoints import Approve, Endpoints
    from bascule.fleet import Fleet
    from bascule.jobs import JobRunner, Schedules
    from bascule.monitoring import UsageAsked
    from bascule.monitoring.alerts import AlertStore
    from bascule.monitoring.ledger import Usage
    from bascule.monitoring.reviews import ReviewStore
    from bascule.registry import Keys, Registry
    from bascule.release.rollouts import Rollouts

Part = TypeVar("Part")


def _there(part: Part | None, name: str) -> Part:
    if part is None:
        raise NotFound(f"this server keeps no {name}", hint="run bascule control over the registry")
    return part


@dataclass(frozen=True, slots=True)
class ControlContext:
    """Opens each part when it is used; one that this server lacks is `NotFound`.

    Attributes:
        server: The server that the control process speaks for.
        parts: See `Parts`.
        authorise: Raises `Refused` unless the caller of a request may do this to a model.
        asks_for_keys: Whether callers need keys.
        predictions: The ledger.
    """

    server: ServerLink
    parts: Parts
    authorise: Authorise
    asks_for_keys: bool
    predictions: RecordedPredictions

    @property
    def find_session(self) -> FindSession | None:
        """Finds the session of a token; None on a server without sessions."""
        return None if self.parts.sessions is None else self.parts.sessions.find

    @property
    def places(self) -> Places | None:
        """Where jobs of callers may read and write; None for anywhere."""
        from bascule.batch import Places

        return Places(self.parts.places) if self.asks_for_keys else None

    def approvals(self) -> Approvals:
        from bascule.control.approvals import Approvals

        return Approvals(_there(self.parts.open_catalogue, "approvals"), self.parts.approval_lasts)

    def registry(self) -> Registry:
        return self.parts.open_registry()

    def catalogue(self) -> Catalogue:
        return _there(self.parts.open_catalogue, "history")()

    def keys(self) -> Keys:
        return _there(self.parts.open_keys, "keys")()

    def alerts(self) -> AlertStore:
        return _there(self.parts.open_alerts, "alerts")()

    def reviews(self) -> ReviewStore:
        from bascule.monitoring.reviews import ReviewStore

        return ReviewStore(self.catalogue(), _there(self.parts.home, "reviews"))

    def fleet(self) -> Fleet:
        return _there(self.parts.open_fleet, "devices")()

    def sessions(self) -> Sessions:
        return _there(self.parts.sessions, "sessions")

    def jobs(self) -> JobRunner:
        return _there(self.parts.open_jobs, "jobs")()

    def schedules(self) -> Schedules:
        from bascule.jobs import Schedules

        return Schedules(_there(self.parts.open_catalogue, "schedules")())

    def endpoints(self, approve: Approve | None = None) -> Endpoints:
        """The endpoints; without `approve` nothing is changed that takes an approval."""
        from bascule.endpoints import Endpoints

        store = _there(self.parts.open_endpoints, "endpoints")()
        found = Endpoints(store, self.registry, serves_now=self._serves_now)
        return self._rollouts(found, approve).endpoints if self.parts.open_catalogue else found

    def rollouts(self, approve: Approve | None = None) -> Rollouts:
        """The rollouts; `approve` as of `endpoints`."""
        return self._rollouts(self.endpoints(), approve)

    def _rollouts(self, endpoints: Endpoints, approve: Approve | None) -> Rollouts:
        from bascule.endpoints import by_nobody
        from bascule.release.rollouts import Rollouts, RolloutStore

        store = RolloutStore(_there(self.parts.open_catalogue, "rollouts")())
        return Rollouts(
            store, endpoints, defaults=self.parts.rollout_defaults,
            prepare=self.parts.prepare_rollout, approve=approve or by_nobody,
            open_ledger=lambda: self.predictions.ledger,
        )  # fmt: skip

    def usage(self, asked: UsageAsked, sees: Callable[[str], bool]) -> Usage:
        """See `read_usage`."""
        from bascule.monitoring import read_usage

        ledger, terms = self.predictions.ledger, self.parts.usage
        return read_usage(ledger, asked, terms, lambda: self.keys().stored(), sees)

    def books(self, approve: Approve | None = None) -> Books:
        """What a document of the configuration is compared with; `approve` as of `endpoints`."""
        from bascule.configuring import Books
        from bascule.registry import CatalogueKeys
        from bascule.registry.stores import Records

        book, registry, catalogue = self.rollouts(approve), self.registry(), self.catalogue()
        return Books(
            book, lambda reference: str(registry.resolve(reference)), self.schedules(),
            CatalogueKeys(Records(catalogue), self.parts.usage.projects), self.alerts(),
            datetime.now(UTC),
        )  # fmt: skip

    def _serves_now(self, name: str) -> str:
        """The version that answers a name without a plan; empty for none, and for a folder."""
        spec = default_of(tuple(one for one in self.server.services if not one.is_planned), name)
        if spec is None:
            return ""
        try:
            return str(self.registry().resolve(f"{spec.model}/{spec.version}"))
        except BasculeError:
            return ""
