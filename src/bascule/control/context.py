"""What a control process works with: what the settings choose, and the context of its routes.

`control_app` keeps the context in the state of the application, where the console's pages find it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bascule.control.ledger_routes import RecordedPredictions
from bascule.control.link import ServerLink
from bascule.control.rights import Authorise
from bascule.core import BasculeError, NotFound
from bascule.serving import default_of

if TYPE_CHECKING:  # the registry is loaded when it is first asked for
    from fastapi import FastAPI

    from bascule.batch import Places
    from bascule.catalogue import Catalogue, Requests
    from bascule.configuring import Books
    from bascule.control.people import FindSession
    from bascule.control.rollouts import CountOutcomes
    from bascule.control.sessions import Sessions
    from bascule.control.shown import SettingsShown
    from bascule.endpoints import Approve, Endpoints, EndpointStore
    from bascule.jobs import JobRunner, Schedules
    from bascule.monitoring.alerts import AlertStore
    from bascule.registry import Keys, Registry
    from bascule.release.rollouts import Rollout, Rollouts
    from bascule.serving.transports import Tls

Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class Parts:
    """What the settings choose for a control process; what is None, this one lacks.

    Attributes:
        open_registry: Opens the registry when it is first asked for; one that is away is answered
            503 then, and no reason not to serve.
        open_keys: Opens the keys of callers, in the catalogue.
        keys_stale_s: How long keys hold that cannot be read again.
        check_signature: Raises `Untrusted` for a bundle that no required key has signed.
        tls: What connections are encrypted with; None for not at all.
        allowed_hosts: Names that are answered; see `serving.transports.hosts`.
        open_requests: Opens what keeps answers for `Idempotency-Key`; without it that is refused.
        open_endpoints: Opens the endpoints in the catalogue.
        open_catalogue: Opens the catalogue, where rollouts are.
        outcome_cohorts: Counts the outcomes of a rollout; see `rollouts.CountOutcomes`.
        rollout_defaults: Fields of requests for rollouts, from the settings.
        prepare_rollout: Fixes the scales of a rollout's guards; see `preparing.prepare`.
        open_rollouts: Opens what deploys when a followed alias is moved.
        home: Where outcomes are kept.
        open_alerts: Opens the alerts, in the catalogue.
        jobs: Runs jobs, each in a process of its own.
        places: Where batch jobs of callers with keys may read and write.
        sessions: The sessions of people, in the catalogue.
        shown: What the settings say, without secrets.
        add_console: Adds the pages for people to the application; None for none.
    """

    open_registry: Callable[[], Registry]
    open_keys: Callable[[], Keys]
    keys_stale_s: float
    check_signature: Callable[[Path], None]
    tls: Tls | None = None
    allowed_hosts: tuple[str, ...] = ()
    open_requests: Callable[[], Requests] | None = None
    open_endpoints: Callable[[], EndpointStore] | None = None
    open_catalogue: Callable[[], Catalogue] | None = None
    outcome_cohorts: CountOutcomes | None = None
    rollout_defaults: Mapping[str, Any] | None = None
    prepare_rollout: Callable[[Rollout], Rollout] | None = None
    open_rollouts: Callable[[], Rollouts] | None = None
    home: Path | None = None
    open_alerts: Callable[[], AlertStore] | None = None
    jobs: JobRunner | None = None
    places: Sequence[str] = ()
    sessions: Sessions | None = None
    shown: SettingsShown | None = None
    add_console: Callable[[FastAPI], None] | None = None


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

    def registry(self) -> Registry:
        return self.parts.open_registry()

    def catalogue(self) -> Catalogue:
        return _there(self.parts.open_catalogue, "history")()

    def keys(self) -> Keys:
        return _there(self.parts.open_keys, "keys")()

    def alerts(self) -> AlertStore:
        return _there(self.parts.open_alerts, "alerts")()

    def sessions(self) -> Sessions:
        return _there(self.parts.sessions, "sessions")

    def jobs(self) -> JobRunner:
        return _there(self.parts.jobs, "jobs")

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
        )  # fmt: skip

    def books(self, approve: Approve | None = None) -> Books:
        """What a document of the configuration is compared with; `approve` as of `endpoints`."""
        from bascule.configuring import Books
        from bascule.registry import CatalogueKeys
        from bascule.registry.stores import SqlRecords

        book, registry, catalogue = self.rollouts(approve), self.registry(), self.catalogue()
        return Books(
            book, lambda reference: str(registry.resolve(reference)), self.schedules(),
            CatalogueKeys(SqlRecords(catalogue)), self.alerts(), datetime.now(UTC),
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
