"""Endpoints over the control API of a server. Rules are kept there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from bascule.endpoints.changes import PlanChanges
from bascule.endpoints.deploying import Deployed
from bascule.endpoints.plans import Plan
from bascule.endpoints.records import Endpoint, PlanEvent, StoredPlan
from bascule_client.control import ControlClient, path_of

if TYPE_CHECKING:
    from bascule.endpoints.deploying import Endpoints


class RemoteEndpoints:
    """See `deploying.Endpoints`; errors are those that it raises on the server."""

    def __init__(self, client: ControlClient) -> None:
        self._client = client

    def endpoints(self) -> list[Endpoint]:
        return [Endpoint.from_json(one) for one in self._client.items(path_of("endpoints"))]

    def plans(self, endpoint: str) -> list[StoredPlan]:
        found = self._client.items(path_of("endpoints", endpoint, "plans"))
        return [StoredPlan.from_json(one) for one in found]

    def history(self, endpoint: str) -> list[PlanEvent]:
        found = self._client.items(path_of("endpoints", endpoint, "history"))
        return msgspec.convert(list(found), list[PlanEvent])[::-1]

    def change(
        self, endpoint: str, changes: PlanChanges, *, by: str, reason: str, dry_run: bool = False
    ) -> Deployed:
        body = {**msgspec.to_builtins(changes), "reason": reason, "dry_run": dry_run}
        path = path_of("endpoints", endpoint)
        return deployed_of(self._client.ask("PATCH", path, body, user=by))

    def roll_back(self, endpoint: str, *, by: str, reason: str, to: int | None = None) -> Deployed:
        body = {"to": to, "reason": reason}
        path = path_of("endpoints", endpoint, "rollback")
        return deployed_of(self._client.ask("POST", path, body, user=by))


EndpointBook: TypeAlias = "Endpoints | RemoteEndpoints"
"""What both can do; see `Endpoints` for the methods."""


def deployed_of(said: Mapping[str, Any]) -> Deployed:
    """A deployment, as the control API shows it."""
    before = said["before"]
    return Deployed(
        Plan.from_json(said["plan"]),
        None if before is None else Plan.from_json(before),
        said["sentence"],
    )
