"""Rollouts over the control API of a server. Rules are kept there."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from bascule.endpoints import Deployed
from bascule.operations import Remote, fields_of
from bascule.release.rollouts import operations
from bascule.release.rollouts.asking import RolloutRequest
from bascule.release.rollouts.deciding import Command
from bascule.release.rollouts.forecast import Begun
from bascule.release.rollouts.plan import Decision, StoredDecision, StoredRollout

if TYPE_CHECKING:
    from bascule.release.rollouts.asking import Rollouts
    from bascule.release.rollouts.valuing import SteeredValues


class RemoteRollouts(Remote):
    """See `asking.Rollouts`."""

    def deploy(self, asked: RolloutRequest, *, by: str, dry_run: bool = False) -> Deployed | Begun:
        made = self.ask(operations.DEPLOY, fields_of(asked, dry_run=dry_run), by=by)
        deployed = made.deployed or made.begun
        assert deployed is not None
        return deployed

    def delete_endpoint(self, name: str, *, by: str, reason: str) -> str:
        return self.ask(operations.DELETE_ENDPOINT, by=by, endpoint=name, reason=reason).sentence

    def rollouts(self, endpoint: str | None = None) -> list[StoredRollout]:
        return self.items(operations.ROLLOUTS, endpoint=endpoint)[::-1]

    def get(self, name: str) -> StoredRollout:
        return self.ask(operations.ROLLOUT, rollout=name)

    def decisions(self, name: str) -> list[StoredDecision]:
        return self.items(operations.DECISIONS, rollout=name)

    def evidence(self, name: str) -> list[float | None]:
        return self.ask(operations.EVIDENCE, rollout=name).log_e

    def command(
        self, name: str, command: Command, *, by: str, reason: str, allow_answers: bool = False
    ) -> Decision:
        body = {"reason": reason, **({"allow_answers": True} if allow_answers else {})}
        return self.ask(operations.COMMAND, body, by=by, rollout=name, command=command)

    def replay(self, name: str) -> list[str]:
        return self.ask(operations.REPLAY, rollout=name).differing

    def values(self, name: str) -> SteeredValues:
        return self.ask(operations.VALUES, rollout=name)


RolloutBook: TypeAlias = "Rollouts | RemoteRollouts"
"""What both can do; see `Rollouts` for the methods."""
