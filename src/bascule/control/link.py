"""The server that the control API manages: the one beside this process, or none."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from bascule.core import NotFound
from bascule.endpoints import Plan
from bascule.serving import ModelSpec, ModelSpecs, Plans
from bascule.serving.telemetry import ArmTotals, Counters, Event, MetricLabels, Pulse, Totals
from bascule.serving.workers import ModelState, Peer, WorkerStatus

_ANSWER_S = 5.0
_CHANGE_S = 150.0
_TURN_S = 130.0
"""Until then the workers have turned to a change, or it is abandoned. The rest of `_CHANGE_S` is
for the answer, so a change that is reported as failed is not made later."""


class ServerLink:
    """What the API needs of a server. Without a server, nothing is served or can be changed.

    Each method that asks the supervisor may raise `Unavailable`.
    """

    def __init__(
        self,
        counters: Counters,
        peer: Peer | None = None,
        *,
        host: str = "",
        port: int = 0,
        token: str = "",
    ) -> None:
        """Asks nothing yet.

        Args:
            counters: Those that the server's workers write.
            peer: The supervisor; None without a server.
            host: Of the address that answers predictions.
            port: Of the same address.
            token: Of a key that may ask it for predictions; empty where none is needed or known.
        """
        self._counters = counters
        self._peer = peer
        self._address = host, port
        self.token = token
        self._changing = threading.Lock()
        self.unserved: dict[str, str] = {}
        """By endpoint without a rollout: why its plan is not served here, in words."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of predictions; raises `NotFound` if there is no server."""
        self._connected()
        return self._address

    @property
    def place(self) -> str:
        """The server in words, as alerts and rollouts name it: host and port."""
        return f"{socket.gethostname()}:{self._address[1]}"

    @property
    def services(self) -> ModelSpecs:
        """What is served now."""
        return tuple(map(ModelSpec.from_json, self._ask("services")))

    @property
    def names(self) -> frozenset[str]:
        """Of the models and endpoints that are served now."""
        models = [spec.model for spec in self.services if not spec.is_planned]
        return frozenset([*models, *(plan.endpoint for plan in self.plans)])

    @property
    def plans(self) -> Plans:
        """The plans of the endpoints that are served now."""
        return tuple(map(Plan.from_json, self._ask("plans")))

    def arm_totals(self, compared: Collection[tuple[str, int]] = ()) -> list[ArmTotals]:
        """What all workers have counted for each arm; see `ArmCounters.totals`."""
        return self._counters.arms.totals(compared)

    def answer_events(self, endpoint: str, plan: int, arm: str) -> tuple[Event, ...] | None:
        """What tells other answers from those of an arm of a rollout; None while too few came."""
        return self._counters.arms.events(endpoint, plan, arm)

    def compare_answers(self, endpoint: str, plan: int, events: Sequence[Event]) -> None:
        """Have the workers count the answers of a plan by these events."""
        self._counters.arms.set_events(endpoint, plan, events)

    @property
    def labels(self) -> list[MetricLabels]:
        """The labels of all metric series: one for each version ever served, one for the rest."""
        return self._counters.labels()

    def totals(self) -> list[Totals]:
        """What all workers have counted, in the order of `labels`."""
        return self._counters.totals()

    def pulse(self) -> Pulse:
        """The health of the processes."""
        return self._counters.pulse()

    def statuses(self) -> list[WorkerStatus]:
        """The workers."""
        return [WorkerStatus(**one) for one in self._ask("statuses")]

    def models(self) -> list[ModelState]:
        """The state of the models, for each worker that answers."""
        return [ModelState(**one) for one in self._ask("models")]

    def change(self, edit: Callable[[ModelSpecs], ModelSpecs]) -> ModelSpecs:
        """Replace the served versions by what `edit` returns for them; see `change_all`."""
        return self.change_all(lambda now, plans: (edit(now), plans))

    def change_all(
        self, edit: Callable[[ModelSpecs, Plans], tuple[ModelSpecs, Plans]]
    ) -> ModelSpecs:
        """Replace served versions and plans by what `edit` returns, in all workers or in none.

        Computed here and compared by the supervisor: another change meanwhile is not overwritten.

        Raises:
            BasculeError: What `edit` raises, or why a worker could not load a version.
            Unavailable: The change could not be made in time, and is not made later.
            NotFound: There is no server.
        """
        peer = self._connected()
        with self._changing:
            while True:
                before, plans_before = self.services, self.plans
                after, plans_after = edit(before, plans_before)
                lists = {
                    which: [one.to_json() for one in values]
                    for which, values in (
                        ("before", before), ("after", after),
                        ("plans_before", plans_before), ("plans_after", plans_after),
                    )
                }  # fmt: skip
                # By the monotonic clock, which all processes of a machine share.
                turn_by_s = time.monotonic() + _TURN_S
                if peer.ask("replace", _CHANGE_S, **lists, turn_by_s=turn_by_s):
                    return after

    def _ask(self, what: str) -> Any:
        return [] if self._peer is None else self._peer.ask(what, _ANSWER_S)

    def _connected(self) -> Peer:
        if self._peer is None:
            raise NotFound(
                "no server runs beside this control process",
                hint="ask the control port of a `bascule serve`",
            )
        return self._peer
