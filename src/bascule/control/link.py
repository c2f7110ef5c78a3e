"""The server that the control API speaks of: the one beside it, or none."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from bascule.core.errors import NotFound
from bascule.serving import MetricLabels, ModelSpec, ModelState, Totals, WorkerStatus
from bascule.serving.specs import ModelSpecs
from bascule.serving.telemetry.counters import Counters, Pulse
from bascule.serving.workers.peer import Peer

_ANSWER_S = 5.0
_CHANGE_S = 150.0
"""More than a supervisor gives its workers to load and to turn."""

Change = Callable[[ModelSpecs], ModelSpecs]


class ServerLink(Protocol):
    """What the API needs of a server; each member may raise `Unavailable`."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...

    @property
    def services(self) -> ModelSpecs:
        """What is served now."""

    @property
    def labels(self) -> Sequence[MetricLabels]:
        """What is counted: everything else, and each version that was ever served."""

    def totals(self) -> Sequence[Totals]:
        """What all workers have counted, in the order of `labels`."""

    def pulse(self) -> Pulse:
        """How its processes are."""

    def statuses(self) -> list[WorkerStatus]:
        """Its workers."""

    def models(self) -> list[ModelState]:
        """How the models of each worker that answers are."""

    def change(self, wish: Change) -> ModelSpecs:
        """Serve what `wish` makes of what is served, in all workers or in none."""


class Supervised:
    """The server of the supervisor that started this process."""

    def __init__(self, peer: Peer, counters: Counters, *, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._peer = peer
        self._counters = counters
        self._changing = threading.Lock()

    @property
    def services(self) -> ModelSpecs:
        return tuple(map(ModelSpec.from_json, self._peer.ask("services", _ANSWER_S)))

    @property
    def labels(self) -> list[MetricLabels]:
        return self._counters.labels()

    def totals(self) -> list[Totals]:
        return self._counters.totals()

    def pulse(self) -> Pulse:
        return self._counters.pulse()

    def statuses(self) -> list[WorkerStatus]:
        return [WorkerStatus(**one) for one in self._peer.ask("statuses", _ANSWER_S)]

    def models(self) -> list[ModelState]:
        return [ModelState(**one) for one in self._peer.ask("models", _ANSWER_S)]

    def change(self, wish: Change) -> ModelSpecs:
        """Computed here and compared there: what else was changed meanwhile is not overwritten."""
        with self._changing:
            while True:
                before = self.services
                after = wish(before)
                lists = {
                    which: [one.to_json() for one in specs]
                    for which, specs in (("before", before), ("after", after))
                }
                if self._peer.ask("replace", _CHANGE_S, **lists):
                    return after


class NoServer:
    """For a control process that is alone: nothing is served, and nothing can be changed."""

    services: ModelSpecs = ()

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    @property
    def host(self) -> str:
        raise self._alone()

    @property
    def port(self) -> int:
        raise self._alone()

    @property
    def labels(self) -> list[MetricLabels]:
        return self._counters.labels()

    def totals(self) -> list[Totals]:
        return self._counters.totals()

    def pulse(self) -> Pulse:
        return self._counters.pulse()

    def statuses(self) -> list[WorkerStatus]:
        return []

    def models(self) -> list[ModelState]:
        return []

    def change(self, wish: Change) -> ModelSpecs:  # noqa: ARG002 -- a link's signature
        raise self._alone()

    def _alone(self) -> NotFound:
        return NotFound(
            "no server runs beside this control process",
            hint="ask the control port of a `bascule serve`",
        )
