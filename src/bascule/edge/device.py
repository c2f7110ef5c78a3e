"""The model of a device: opened from its slot, asked by the same checks as a server's, counted."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from bascule.bundle import Answer, for_program, load
from bascule.core import BasculeError, Invalid, Overloaded, Unavailable, Untrusted
from bascule.edge.channels import Offer
from bascule.edge.deciding import Trial
from bascule.edge.profiling import Traffic
from bascule.edge.slots import Home
from bascule.serving import Answer as WireAnswer, AnsweredBy, new_prediction_id
from bascule.serving.execution import Extras, added, needed
from bascule.serving.protocols import Decoded, Decoder, encoder

Reply = TypeVar("Reply")

_MAX_ROWS = 100_000
_MAX_WAIT_S = 10.0
_WINDOW = 200


class Opened:
    """One version, opened: its program, and what requests to it are checked against."""

    def __init__(self, offer: Offer, folder: Path) -> None:
        """Raises `Untrusted` where the slot holds another bundle, and what opening it raises."""
        self.offer = offer
        self.traffic: Traffic | None = None  # of a version that an agent has opened
        self.bundle = load(folder)
        if self.bundle.digest != offer.digest:
            raise Untrusted(f"the slot of {offer.digest} holds {self.bundle.digest}")
        self.program = self.bundle.program()
        self.signature = self.bundle.signature
        self.extras = Extras(self.bundle.extras)
        model, _, number = offer.version.rpartition("/")
        self.by = AnsweredBy(model, number, self.program.name)
        self.decode = Decoder().for_fields(
            self.signature.inputs, self.program.inputs, self.signature.outputs, _MAX_ROWS,
            self.extras,
        )  # fmt: skip
        self.encode = encoder(self)
        self.lock = Lock()

    def reply(self, body: bytes, json_bytes: int) -> tuple[Decoded, WireAnswer]:
        """What a request asks, and the outputs and extras that it asks for."""
        decoded = self.decode(body, json_bytes)
        call = decoded[1]
        outputs = self.program.run(for_program(call.columns, self.program.inputs), needed(call))
        answer = WireAnswer(outputs, self.by)
        outcome = added(answer, call) if call.extras else answer
        if isinstance(outcome, BasculeError):
            raise outcome
        return decoded, outcome


class Counts:
    """What was answered since the last report; the window has the last 200 requests."""

    def __init__(self) -> None:
        self.requests = self.errors = 0
        self.window: deque[bool] = deque(maxlen=_WINDOW)
        self._lock = Lock()

    def add(self, *, failed: bool) -> None:
        with self._lock:
            self.requests += 1
            self.errors += failed
            self.window.append(failed)

    def take(self) -> dict[str, int]:
        """As a report has them; counting starts again."""
        with self._lock:
            counts = {"requests": self.requests, "errors": self.errors}
            self.requests = self.errors = 0
        return counts


class Device:
    """The model that a home has in service.

    A process of its own follows the home's state, which the agent writes. In the agent's process,
    requests are recorded for the trial of a candidate.
    """

    def __init__(self, home: str | Path) -> None:
        self.home = Home(home)
        self.counts = Counts()
        self.is_agents = False
        self.trial: Trial | None = None
        self._opened: Opened | None = None
        self._state_ns = -1

    def predict(self, rows: Any) -> Answer:
        """The model's answer for any table or matrix that fits its signature.

        Raises:
            Invalid: The rows do not fit; the message names the column.
            Unavailable: No version is installed.
            Overloaded: Other requests took 10 s; one runs at a time.
        """
        return self._asked(self.opened, lambda opened: opened.bundle.predict(rows))

    def answer(self, body: bytes, json_bytes: int = -1) -> tuple[bytes, int]:
        """The answer to a request of the Open Inference Protocol. Raises as a server answers.

        Args:
            body: JSON, with tensors after it where `json_bytes` says where they begin.
            json_bytes: The value of `Inference-Header-Content-Length`; -1 for JSON alone.

        Returns:
            The body, and how much of it is JSON; -1 for all.
        """
        opened = self.opened
        decoded, outcome = self._asked(opened, lambda opened: opened.reply(body, json_bytes))
        call_id, call, as_bytes = decoded
        if opened.traffic is not None:
            opened.traffic.add(call.columns, outcome.outputs, call.rows, len(body))
        if (trial := self.trial) is not None:
            trial.record(body, json_bytes)
        call_id = call_id or new_prediction_id()
        if as_bytes is None:
            return opened.encode.as_json(call_id, outcome, call.rows), -1
        return opened.encode.with_bytes(call_id, outcome, call.rows, as_bytes)

    @property
    def opened(self) -> Opened:
        """The version that serves; a process that is not the agent looks at the state first."""
        if not self.is_agents and (changed_ns := self.home.state_changed_ns()) != self._state_ns:
            state = self.home.read_state()
            if state is not None and state.current is not None:
                self._opened = Opened(state.current, self.home.slot(state.current.digest))
            self._state_ns = changed_ns
        if self._opened is None:
            raise Unavailable("no version is installed", hint="see: bascule-edge status")
        return self._opened

    def taken(self) -> dict[str, Any]:
        """Counts, profile and sample since the last report; the next one begins."""
        traffic = None if self._opened is None else self._opened.traffic
        return {"counts": self.counts.take(), **({} if traffic is None else traffic.take())}

    def serve(self, opened: Opened | None) -> None:
        """Have this version answer from now on, and the one before no more."""
        self._opened = opened
        self.counts.window.clear()

    def _asked(self, opened: Opened, ask: Callable[[Opened], Reply]) -> Reply:
        """One request at a time: a device has few cores, and a decoder reads one body at a time.

        A run that another request has waited 10 s for is ended, where its program can end it.
        """
        failed = True
        if not opened.lock.acquire(timeout=_MAX_WAIT_S):
            opened.program.interrupt()
            self.counts.add(failed=True)
            raise Overloaded("other requests take too long", hint="retry later", retry_after_s=1)
        try:
            reply, failed = ask(opened), False
        except Invalid:
            failed = False
            raise
        finally:
            opened.lock.release()
            self.counts.add(failed=failed)
        return reply
