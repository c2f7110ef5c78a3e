"""Acts on moves of the aliases that endpoints follow: a move deploys the version, once.

A move is acted on in the transaction that begins its rollout, makes its plan, or records that it
was refused: killed anywhere, the next controller goes on. Of several moves the last one counts.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from bascule.core import BasculeError, Conflict, Unavailable
from bascule.endpoints import Move, PlanEvent, StoredEndpoint, request_of
from bascule.release.rollouts.asking import RolloutRequest, Rollouts
from bascule.release.rollouts.plan import StoredRollout

if TYPE_CHECKING:
    from bascule.catalogue import Lease, events


class AliasFollower:
    """See the module."""

    def __init__(self, rollouts: Rollouts) -> None:
        self._rollouts = rollouts
        self._store = rollouts.store
        self._endpoints = rollouts.endpoints

    def moves(self) -> dict[str, events.Event]:
        """By endpoint, the last move of its alias, if it was not acted on yet."""
        return self._endpoints.moves()

    def act(self, name: str, event: events.Event, lease: Lease) -> None:
        """Act on a move. A `Conflict` means that something else changed: look again.

        Raises:
            Conflict: Another change came first, or the lease is not held.
            Unavailable: The registry cannot be reached.
        """
        assert event.id is not None
        endpoint, move = self._endpoints.endpoint(name), Move(event.id, lease)
        number = event.body.get("to_number")
        if number is None:
            keeps = f"endpoint {name} goes on with plan {endpoint.current.plan.number}"
            self._note(endpoint, event, move, f"{endpoint.follows} was dropped: {keeps}")
            return
        target = f"{event.subject.name}/{number}"
        running = next((one for one in self._store.active() if one.rollout.endpoint == name), None)
        if running is not None and running.rollout.candidate != target:
            self._abort(running, endpoint, event, target)
        elif running is not None or endpoint.current.plan.current.version == target:
            self._note(endpoint, event, move, "")  # it is on its way, or there
        else:
            self._deploy(endpoint, event, move, target)

    def _abort(
        self, running: StoredRollout, endpoint: StoredEndpoint, event: events.Event, target: str
    ) -> None:
        """End the rollout of another version; the next turn acts on the move."""
        reason = f"{endpoint.follows} was moved to {target}"
        self._rollouts.command(running.rollout.id, "abort", by=event.actor, reason=reason)

    def _deploy(
        self, endpoint: StoredEndpoint, event: events.Event, move: Move, target: str
    ) -> None:
        why = f"{endpoint.follows} was moved to {target}"
        asked = request_of(
            RolloutRequest, target,
            {
                **endpoint.following, "endpoint": endpoint.name,
                "reason": f"{why}: {event.reason}" if event.reason else why,
            },
        )  # fmt: skip
        try:
            self._rollouts.deploy(asked, by=event.actor, move=move)
        except (Conflict, Unavailable):
            raise
        except BasculeError as error:
            self._note(endpoint, event, move, f"{why}, and that was refused: {error.message}")

    def _note(
        self, endpoint: StoredEndpoint, event: events.Event, move: Move, sentence: str
    ) -> None:
        said = PlanEvent("followed", datetime.now(UTC), event.actor, event.reason, sentence)
        self._store.refuse_move(endpoint.name, move, said)
