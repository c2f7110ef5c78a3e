"""Endpoints over the control API of a server. Rules are kept there."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from bascule.endpoints import operations
from bascule.endpoints.changes import PlanChanges
from bascule.endpoints.records import Deployed, Endpoint, PlanEvent, StoredPlan
from bascule.operations import Remote, fields_of

if TYPE_CHECKING:
    from bascule.endpoints.deploying import Endpoints


class RemoteEndpoints(Remote):
    """See `deploying.Endpoints`."""

    def endpoints(self) -> list[Endpoint]:
        return self.items(operations.ENDPOINTS)

    def plans(self, endpoint: str) -> list[StoredPlan]:
        return self.items(operations.PLANS, endpoint=endpoint)

    def history(self, endpoint: str) -> list[PlanEvent]:
        return self.items(operations.HISTORY, endpoint=endpoint)[::-1]

    def change(
        self, endpoint: str, changes: PlanChanges, *, by: str, reason: str, dry_run: bool = False
    ) -> Deployed:
        body = fields_of(changes, reason=reason, dry_run=dry_run)
        return self.ask(operations.CHANGE, body, by=by, endpoint=endpoint)

    def roll_back(self, endpoint: str, *, by: str, reason: str, to: int | None = None) -> Deployed:
        body = {"reason": reason, "to": to}
        return self.ask(operations.ROLL_BACK, body, by=by, endpoint=endpoint)


EndpointBook: TypeAlias = "Endpoints | RemoteEndpoints"
"""What both can do; see `Endpoints` for the methods."""
