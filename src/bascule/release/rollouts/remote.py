"""Rollouts over the control API of a server. Rules are kept there."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import msgspec

from bascule.endpoints import Deployed, deployed_of
from bascule.release.rollouts.asking import Begun, RolloutRequest
from bascule.release.rollouts.deciding import Command
from bascule.release.rollouts.plan import Decision, StoredDecision
from bascule.release.rollouts.store import StoredRollout
from bascule_client.control import ControlClient, path_of

if TYPE_CHECKING:
    from bascule.release.rollouts.asking import Rollouts


class RemoteRollouts:
    """See `asking.Rollouts`; errors are those that it raises on the server."""

    def __init__(self, client: ControlClient) -> None:
        self._client = client

    def deploy(self, asked: RolloutRequest, *, by: str, dry_run: bool = False) -> Deployed | Begun:
        body = {**msgspec.to_builtins(asked), "dry_run": dry_run}
        said = self._client.ask("POST", path_of("deployments"), body, user=by)
        if said["deployed"] is not None:
            return deployed_of(said["deployed"])
        return msgspec.convert(said["begun"], Begun)

    def delete_endpoint(self, name: str, *, by: str, reason: str) -> str:
        path = path_of("endpoints", name)
        said: str = self._client.ask("DELETE", path, user=by, reason=reason)["sentence"]
        return said

    def rollouts(self, endpoint: str | None = None) -> list[StoredRollout]:
        found = self._client.items(path_of("rollouts"), endpoint=endpoint)
        return msgspec.convert(list(found), list[StoredRollout])[::-1]

    def get(self, name: str) -> StoredRollout:
        return msgspec.convert(self._client.ask("GET", path_of("rollouts", name)), StoredRollout)

    def decisions(self, name: str) -> list[StoredDecision]:
        found = list(self._client.items(path_of("rollouts", name, "decisions")))
        return msgspec.convert(found, list[StoredDecision])

    def evidence(self, name: str) -> list[float | None]:
        said = self._client.ask("GET", path_of("rollouts", name, "evidence"))
        found: list[float | None] = said["log_e"]
        return found

    def command(
        self, name: str, command: Command, *, by: str, reason: str, allow_answers: bool = False
    ) -> Decision:
        path = path_of("rollouts", name, command)
        body = {"reason": reason, **({"allow_answers": True} if allow_answers else {})}
        return msgspec.convert(self._client.ask("POST", path, body, user=by), Decision)

    def replay(self, name: str) -> list[str]:
        found: list[str] = self._client.ask("GET", path_of("rollouts", name, "replay"))["differing"]
        return found


RolloutBook: TypeAlias = "Rollouts | RemoteRollouts"
"""What both can do; see `Rollouts` for the methods."""
