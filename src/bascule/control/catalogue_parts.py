"""Opens the parts of a catalogue when they are used; one that a server lacks is `NotFound`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from bascule.control.link import ServerLink
from bascule.control.sessions import Sessions
from bascule.core import BasculeError, NotFound
from bascule.serving import default_of

if TYPE_CHECKING:  # the registry is loaded when it is first asked for
    from bascule.batch import Schedules
    from bascule.catalogue import Catalogue
    from bascule.configuring import Books
    from bascule.endpoints import Approve, Endpoints, EndpointStore
    from bascule.monitoring.alerts import AlertStore
    from bascule.registry import Keys, Registry
    from bascule.release.rollouts import Rollout, Rollouts

Part = TypeVar("Part")


def _there(part: Part | None, name: str) -> Part:
    if part is None:
        raise NotFound(f"this server keeps no {name}", hint="run bascule control over the registry")
    return part


@dataclass(frozen=True, slots=True)
class CatalogueParts:
    """What opens each part; see the arguments of `control_app`."""

    server: ServerLink
    registry: Callable[[], Registry]
    open_catalogue: Callable[[], Catalogue] | None = None
    open_endpoints: Callable[[], EndpointStore] | None = None
    open_keys: Callable[[], Keys] | None = None
    open_alerts: Callable[[], AlertStore] | None = None
    known_sessions: Sessions | None = None
    rollout_defaults: Mapping[str, Any] | None = None
    prepare_rollout: Callable[[Rollout], Rollout] | None = None

    def catalogue(self) -> Catalogue:
        return _there(self.open_catalogue, "history")()

    def keys(self) -> Keys:
        return _there(self.open_keys, "keys")()

    def alerts(self) -> AlertStore:
        return _there(self.open_alerts, "alerts")()

    def sessions(self) -> Sessions:
        return _there(self.known_sessions, "sessions")

    def schedules(self) -> Schedules:
        from bascule.batch import Schedules

        return Schedules(_there(self.open_catalogue, "schedules")())

    def endpoints(self, approve: Approve | None = None) -> Endpoints:
        """The endpoints; without `approve` nothing is changed that takes an approval."""
        from bascule.endpoints import Endpoints

        store = _there(self.open_endpoints, "endpoints")()
        found = Endpoints(store, self.registry, serves_now=self._serves_now)
        return self._rollouts(found, approve).endpoints if self.open_catalogue else found

    def rollouts(self, approve: Approve | None = None) -> Rollouts:
        """The rollouts; `approve` as of `endpoints`."""
        return self._rollouts(self.endpoints(), approve)

    def _rollouts(self, endpoints: Endpoints, approve: Approve | None) -> Rollouts:
        from bascule.endpoints import by_nobody
        from bascule.release.rollouts import Rollouts, RolloutStore

        store = RolloutStore(_there(self.open_catalogue, "rollouts")())
        return Rollouts(
            store, endpoints, defaults=self.rollout_defaults, prepare=self.prepare_rollout,
            approve=approve or by_nobody,
        )  # fmt: skip

    def books(self, approve: Approve | None = None) -> Books:
        """What a document of the configuration is compared with; `approve` as of `endpoints`."""
        from bascule.configuring import Books
        from bascule.registry import CatalogueKeys
        from bascule.registry.stores import Records

        book, registry, catalogue = self.rollouts(approve), self.registry(), self.catalogue()
        return Books(
            book, lambda reference: str(registry.resolve(reference)), self.schedules(),
            CatalogueKeys(Records(catalogue)), self.alerts(), datetime.now(UTC),
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
