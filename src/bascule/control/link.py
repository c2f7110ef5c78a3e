"""The server that the control API speaks of: the one beside this process, or none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from bascule.core import NotFound
from bascule.serving import ModelSpec, ModelSpecs
from bascule.serving.telemetry import Counters, MetricLabels, Pulse, Totals
from bascule.serving.workers import ModelState, Peer, WorkerStatus

_ANSWER_S = 5.0
_CHANGE_S = 150.0
_TURN_S = 130.0
"""Until then the workers have turned to a change, or it is abandoned. The rest of `_CHANGE_S` is
for the answer, so a change that is reported as failed is not made later."""


class ServerLink:
    """What the API needs of a server. Where there is none, nothing is served or can be changed.

    Whatever is asked of the supervisor may raise `Unavailable`.
    """

    def __init__(
        self, counters: Counters, peer: Peer | None = None, *, host: str = "", port: int = 0
    ) -> None:
        """Nothing is asked yet.

        Args:
            counters: What the server's workers write.
            peer: The supervisor; None where there is no server.
            host: Where predictions are answered.
            port: Likewise.
        """
        self._counters = counters
        self._peer = peer
        self._address = host, port
        self._changing = threading.Lock()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of predictions; raises `NotFound` if there is no server."""
        self._connected()
        return self._address

    @property
    def services(self) -> ModelSpecs:
        """What is served now."""
        return tuple(map(ModelSpec.from_json, self._ask("services")))

    @property
    def labels(self) -> list[MetricLabels]:
        """What is counted: everything else, and each version that was ever served."""
        return self._counters.labels()

    def totals(self) -> list[Totals]:
        """What all workers have counted, in the order of `labels`."""
        return self._counters.totals()

    def pulse(self) -> Pulse:
        """How the processes are."""
        return self._counters.pulse()

    def statuses(self) -> list[WorkerStatus]:
        """The workers."""
        return [WorkerStatus(**one) for one in self._ask("statuses")]

    def models(self) -> list[ModelState]:
        """How the models of each worker that answers are."""
        return [ModelState(**one) for one in self._ask("models")]

    def change(self, wish: Callable[[ModelSpecs], ModelSpecs]) -> ModelSpecs:
        """Serve what `wish` makes of what is served, in all workers or in none.

        Computed here and compared there: what else was changed meanwhile is not overwritten.

        Raises:
            BasculeError: What `wish` raises, or what kept a worker from loading.
            Unavailable: It could not be made in time, and is not made later.
            NotFound: There is no server.
        """
        peer = self._connected()
        with self._changing:
            while True:
                before = self.services
                after = wish(before)
                lists = {
                    which: [one.to_json() for one in specs]
                    for which, specs in (("before", before), ("after", after))
                }
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
