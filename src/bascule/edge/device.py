"""The model of a device: opened from its slot, asked by the same checks as a server's, counted."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Full, Queue
from threading import Lock, Thread
from typing import Any

import numpy as np

from bascule.bundle import Answer, for_program, load
from bascule.bundle.statements import USUAL, row_differences
from bascule.core import BasculeError, Columns, Invalid, Overloaded, Unavailable, Untrusted
from bascule.edge.channels import Offer
from bascule.edge.deciding import Tried
from bascule.edge.slots import Home
from bascule.serving.calls import Answer as WireAnswer, AnsweredBy, Call, new_prediction_id
from bascule.serving.execution import Extras, added, needed
from bascule.serving.protocols import Decoder, encoder
from bascule.stats import Quantiles

MAX_ROWS = 100_000
"""Of one request."""
MAX_WAIT_S = 10.0
_WINDOW, _WAITING_TRIALS, _MAX_LATENCIES = 200, 4, 100_000

Ask = Callable[["Opened"], Columns]
"""A request, as any version can be asked it."""


class Opened:
    """One version, opened: its program, and what requests to it are checked against."""

    def __init__(self, version: Offer, folder: Path) -> None:
        """Raises `Untrusted` where the slot holds another bundle, and what opening it raises."""
        self.version = version
        self.bundle = load(folder)
        if self.bundle.digest != version.digest:
            raise Untrusted(f"the slot of {version.digest} holds {self.bundle.digest}")
        name, self.program = self.bundle.open_for(1)
        self.signature = self.bundle.signature
        self.extras = Extras(self.bundle.extras)
        self.by = AnsweredBy(self.bundle.name, version.version, name)
        self.decode = Decoder().for_fields(
            self.signature.inputs, self.program.inputs, self.signature.outputs, MAX_ROWS,
            self.extras,
        )  # fmt: skip
        self.encode = encoder(self)


class Counts:
    """What was answered since the last report; the window has the last 200 requests."""

    def __init__(self) -> None:
        self.requests = self.errors = 0
        self.window: deque[bool] = deque(maxlen=_WINDOW)
        self._latency_us: list[float] = []

    def add(self, latency_us: float, *, failed: bool) -> None:
        self.requests += 1
        self.errors += failed
        self.window.append(failed)
        if len(self._latency_us) < _MAX_LATENCIES:
            self._latency_us.append(latency_us)

    def take(self) -> dict[str, Any]:
        """As a report has them; counting starts again."""
        sketch = Quantiles()
        sketch.add(np.sort(np.array(self._latency_us)))
        body = {"requests": self.requests, "errors": self.errors, "latency_us": sketch.to_json()}
        self.requests, self.errors, self._latency_us = 0, 0, []
        return body


class Trial:
    """A candidate that answers requests beside the version that serves, on a thread of its own."""

    def __init__(self, opened: Opened, since_s: float) -> None:
        self.opened, self._since_s = opened, since_s
        self._requests = self._failed = self._differing = 0
        self._queue: Queue[tuple[Ask, Columns] | None] = Queue(_WAITING_TRIALS)
        Thread(target=self._run, name="trial", daemon=True).start()

    @property
    def tried(self) -> Tried:
        digest = self.opened.version.digest
        return Tried(digest, self._since_s, self._requests, self._failed, self._differing)

    def offer(self, ask: Ask, answered: Columns) -> None:
        """Have a request answered too, unless others wait: no caller waits for a trial."""
        with suppress(Full):
            self._queue.put_nowait((ask, answered))

    def close(self) -> None:
        """End the thread after what waits."""
        self._queue.put(None)

    def _run(self) -> None:
        while (offered := self._queue.get()) is not None:
            ask, answered = offered
            try:
                self._differing += _differ(answered, ask(self.opened))
            except Exception:  # of any kind: it counts against the candidate, and never for it
                self._failed += 1
            self._requests += 1


class Device:
    """The model that a home has in service.

    A process of its own follows the home's state, which the agent writes; the agent's own process
    opens, tries and installs versions by the methods for it.
    """

    def __init__(self, home: str | Path) -> None:
        self.home = Home(home)
        self.counts = Counts()
        self.trial: Trial | None = None
        self.is_agents = False
        self._opened: Opened | None = None
        self._state_ns = -1
        self._lock = Lock()
        self._running: tuple[float, Opened] | None = None

    def predict(self, rows: Any) -> Answer:
        """The model's answer for any table or matrix that fits its signature.

        Raises:
            Invalid: The rows do not fit; the message names the column.
            Unavailable: No version is installed.
        """
        answer: Answer = self._asked(self.opened, lambda version: version.bundle.predict(rows))
        self._try_too(lambda version: dict(version.bundle.predict(rows)), dict(answer))
        return answer

    def answer(self, body: bytes, json_bytes: int = -1) -> tuple[bytes, int]:
        """The answer to a request of the Open Inference Protocol.

        Args:
            body: JSON, with tensors after it where `json_bytes` says where they begin.
            json_bytes: The value of `Inference-Header-Content-Length`; -1 for JSON alone.

        Returns:
            The body, and how much of it is JSON; -1 for all.

        Raises:
            BasculeError: As a server answers it.
        """
        opened = self.opened
        with self._turn():
            call_id, call, as_bytes = opened.decode(body, json_bytes)
        outcome: WireAnswer = self._asked(opened, lambda version: _answer_of(version, call))
        self._try_too(lambda version: _run(version, call), outcome.outputs)
        call_id = call_id or new_prediction_id()
        if as_bytes is None:
            return opened.encode.as_json(call_id, outcome, call.rows), -1
        return opened.encode.with_bytes(call_id, outcome, call.rows, as_bytes)

    @property
    def opened(self) -> Opened:
        """The version that serves; a process that is not the agent looks at the state first."""
        if not self.is_agents and (changed := self.home.state_changed_ns()) != self._state_ns:
            state = self.home.read_state()
            if state is not None and state.current is not None:
                self._opened = Opened(state.current, self.home.slot(state.current.digest))
            self._state_ns = changed
        if self._opened is None:
            raise Unavailable("no version is installed", hint="see: bascule-edge status")
        return self._opened

    @property
    def is_open(self) -> bool:
        return self._opened is not None

    def serve(self, opened: Opened | None) -> None:
        """Have this version answer from now on, and the one before no more."""
        self.end_trial()
        self._opened = opened
        self.counts.window.clear()

    def begin_trial(self, opened: Opened, now_s: float) -> None:
        """Have a candidate answer the same requests beside."""
        self.end_trial()
        self.trial = Trial(opened, now_s)

    def end_trial(self) -> None:
        trial, self.trial = self.trial, None
        if trial is not None:
            trial.close()

    def metadata(self) -> dict[str, Any]:
        """What serves, as the Open Inference Protocol describes a model."""
        opened = self.opened

        def tensors(fields: Any) -> list[dict[str, Any]]:
            return [
                {"name": field.name, "datatype": field.dtype.value, "shape": [-1, *field.shape]}
                for field in fields
            ]

        return {
            "name": opened.bundle.name, "versions": [opened.version.version],
            "platform": "bascule", "inputs": tensors(opened.signature.inputs),
            "outputs": tensors(opened.signature.outputs),
            "parameters": {"digest": opened.bundle.digest, "program": opened.by.program},
        }  # fmt: skip

    def end_long_runs(self, now_s: float) -> None:
        """Interrupt a run of the program that takes over 10 s."""
        running = self._running
        if running is not None and now_s - running[0] > MAX_WAIT_S:
            running[1].program.interrupt()

    def _asked(self, opened: Opened, ask: Callable[[Opened], Any]) -> Any:
        with self._turn():
            started_s, failed = time.monotonic(), True
            self._running = started_s, opened
            try:
                answer = ask(opened)
                failed = False
            except Invalid:
                failed = False
                raise
            finally:
                self._running = None
                self.counts.add((time.monotonic() - started_s) * 1e6, failed=failed)
        return answer

    def _try_too(self, ask: Ask, answered: Columns) -> None:
        if (trial := self.trial) is not None:
            trial.offer(ask, answered)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One request at a time: a device has few cores, and a decoder reads one body at a time."""
        if not self._lock.acquire(timeout=MAX_WAIT_S):
            raise Overloaded("other requests take too long", hint="retry later", retry_after_s=1)
        try:
            yield
        finally:
            self._lock.release()


def _answer_of(opened: Opened, call: Call) -> WireAnswer:
    answer = WireAnswer(_run(opened, call), opened.by)
    outcome = added(answer, call) if call.extras else answer
    if isinstance(outcome, BasculeError):
        raise outcome
    return outcome


def _run(opened: Opened, call: Call) -> Columns:
    """The version's own outputs; the call may have been read for another version's program."""
    program = opened.program
    return program.run(for_program(call.columns, program.inputs), needed(call))


def _differ(answered: Columns, other: Columns) -> bool:
    """Whether a request was answered otherwise, beyond what programs of one model may differ by."""
    own = {name: answered[name] for name in other if name in answered}
    if {name: values.shape for name, values in own.items()} != {
        name: values.shape for name, values in other.items()
    }:
        return True
    distance, labels, _ = row_differences(own, dict(other), USUAL, 0, None)
    return bool((distance > USUAL).any() or labels.any())
