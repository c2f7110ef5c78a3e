"""The agent of a device: looks, fetches, tries, installs, returns, and reports.

One thread decides, once a second (`deciding`), and writes the state before it acts on it. What may
take long or end its process is an errand, on another thread and in a process that ends.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Any, Protocol

import msgspec

from bascule.core import (
    BasculeError,
    Child,
    Limits,
    MissingExtra,
    ModelFailed,
    NotFound,
    Refused,
    SignalEvent,
    TimedOut,
    TooLarge,
    Unavailable,
    Untrusted,
)
from bascule.edge import deciding
from bascule.edge.channels import Channel, Offer
from bascule.edge.deciding import Act, Facts, Plan, Tried
from bascule.edge.device import Device, Opened
from bascule.edge.profiling import Traffic
from bascule.edge.reporting import Outbox
from bascule.edge.slots import State

_TURN_S = 1.0
_MIN_LOOK_S = 2.5  # turns between two looks are left for the other acts
_ERRAND_S, _ERRAND_BYTES = 600.0, 1 << 30
_MAX_PAUSE_S = 86_400.0
_ABOUT_THE_MODEL = (MissingExtra, ModelFailed, Refused, TimedOut, TooLarge)
"""What an errand raises that another download would not change."""


class Repository(Protocol):
    """A signed repository of bundles; see `fetching`."""

    def channel(self, name: str) -> Channel: ...

    def obtain(
        self, digest: str, have: Path | None, into: Path, budget_bytes: int | None = None
    ) -> Any: ...


class _Errand(Thread):
    """What takes long: its answer, or what kept it from one."""

    def __init__(self, verb: str, offer: Offer | None, do: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self.verb, self.offer, self._do = verb, offer, do
        self.answer: Any = None
        self.problem: BasculeError | None = Unavailable(f"{verb} ended without an answer")
        self.start()

    def run(self) -> None:
        try:
            self.answer, self.problem = self._do(), None
        except BasculeError as problem:
            self.problem = problem


class Agent:
    """The one process that writes to a device's home."""

    def __init__(
        self,
        device: Device,
        repository: Repository,
        channel: str,
        *,
        name: str,
        plan: Plan | None = None,
        server: str = "",
        **config: Any,
    ) -> None:
        """Do nothing yet.

        Args:
            device: The home, and what answers.
            repository: Of the bundles.
            channel: Of the repository.
            name: Of the device, in reports and rollouts.
            plan: How careful it is.
            server: Where reports go; empty for nowhere.
            **config: `key`, of the device at the server; `claims`, as in
                `security.required_claims`, and `keys`, the files of public keys whose passports
                count.
        """
        self.device, self.home, self.plan = device, device.home, plan or Plan()
        self.state = State(device=name)
        self.resting = self._told = ""
        self._repository, self._channel, self._server = repository, channel, server
        self._config = {"key": "", "claims": (), "keys": (), **config, "server": server}
        self._outbox = Outbox(self.home.outbox, self.plan.outbox_bytes)
        self._facts = Facts()
        self._errand: _Errand | None = None
        self._failures = self._bytes_received = self._received = 0
        self._up_since_s = self._counted_at_s = time.monotonic()

    def start(self) -> None:
        """Lock the home, and open what served last or what did before it.

        Raises:
            Conflict: Another process is the agent of this home.
        """
        self.home.lock()
        self.device.is_agents = True
        try:
            self.state = replace(self.home.read_state() or self.state, device=self.state.device)
        except Untrusted as damage:
            self._tell(damage)
        before = self.state.current
        state, reason = deciding.started(self.state, self.plan)
        self._keep(state)
        if reason:
            self._event("returned", reason, before)
        self._open_current()

    def run(self, stop: SignalEvent) -> None:
        """Take turns until the event is set; then end in good order."""
        while not stop.wait(_TURN_S):
            self.turn(time.monotonic())
        self._count()
        self._keep(deciding.stopped(self.state))
        self.home.unlock()

    def turn(self, now_s: float) -> None:
        """Judge what serves, and take the next step. What fails is tried again in a later turn."""
        if now_s - self._counted_at_s >= self.plan.report_s:
            self._counted_at_s = now_s
            self._count()
        self._judge(now_s)
        if self._errand is not None:
            if self._errand.is_alive():
                return
            errand, self._errand = self._errand, None
            (self._after_look if errand.verb == "look" else self._after_fetch)(errand, now_s)
        trial, facts = self.device.trial, self._facts
        facts.tried, facts.slots = trial and trial[1], self.home.digests()
        facts.hour = datetime.now().astimezone().hour
        act = deciding.next_act(self.state, facts, self.plan, now_s)
        self.resting = act.reason or self.resting
        try:
            self._do(act, now_s)
        except BasculeError as problem:
            self.resting = problem.message

    def _judge(self, now_s: float) -> None:
        current = self.state.current
        reason = deciding.breach(self.device.counts.window, self.plan)
        if reason and self.state.last_good is not None:
            self._leave(Refused(reason))
            self._open_current()
            return
        is_new = current is not None and current.digest in self.state.starts
        if is_new and now_s - self._up_since_s >= self.plan.settle_s:
            self._keep(deciding.settled(self.state))

    def _do(self, act: Act, now_s: float) -> None:
        verb, offer, reason = act
        if verb == "look":
            self._errand = _Errand(verb, None, self._look())
        elif offer is None:
            return
        elif verb == "fetch":
            self._errand = _Errand(verb, offer, self._fetch(offer))
        elif verb == "install":
            self._install(offer, now_s)
        elif verb == "refuse":
            self._refuse(offer, reason)
        else:
            self._keep(deciding.trying(self.state, offer), must=True)
            try:
                self.device.trial = self._opened(offer), Tried(offer.digest, now_s)
            except BasculeError as problem:
                self._refuse(offer, problem.message)

    # -- errands --

    def _look(self) -> Callable[[], Channel]:
        state, files = self._outbox.batch(self.state)
        is_reporting = bool(files and self._server)
        if is_reporting:
            self._keep(state, must=True)

        def do() -> Channel:
            if is_reporting:
                with suppress(Unavailable):
                    answer = self._child("reporting", reports=[str(file) for file in files])
                    self._received = int(answer["sequence"])
            return self._repository.channel(self._channel)

        return do

    def _after_look(self, errand: _Errand, now_s: float) -> None:
        facts, channel = self._facts, errand.answer
        facts.look_at_s = now_s + max(self.plan.look_s, _MIN_LOOK_S)
        if self._received > self.state.sequence:
            self._keep(replace(self.state, sequence=self._received))
            self._outbox.remove(self.state)
        if errand.problem is not None:
            self._tell(errand.problem)
            return
        if facts.channel is None or facts.channel.sequence != channel.sequence:
            self._failures, facts.fetch_at_s = 0, 0.0
        facts.channel = channel

    def _fetch(self, offer: Offer) -> Callable[[], Any]:
        current = self.state.current
        have = None if current is None else self.home.slot(current.digest)

        def do() -> Any:
            into = self.home.incoming(offer.digest)
            shutil.rmtree(into, ignore_errors=True)
            obtained = self._repository.obtain(offer.digest, have, into, self.plan.budget_bytes)
            self._bytes_received += obtained.bytes_received
            return self._child("golden", digest=offer.digest)

        return do

    def _after_fetch(self, errand: _Errand, now_s: float) -> None:
        problem, offer = errand.problem, errand.offer
        assert offer is not None
        shutil.rmtree(self.home.incoming(offer.digest), ignore_errors=True)
        if problem is None:
            self._failures = 0
        elif isinstance(problem, _ABOUT_THE_MODEL):
            self._refuse(offer, problem.message, "golden_failed")
        else:
            received = problem.facts.get("bytes_received", 0)
            self._bytes_received += received if isinstance(received, int) else 0
            pause_s = min(self.plan.retry_s * 2**self._failures, _MAX_PAUSE_S)
            self._failures = min(self._failures + 1, 20)
            self._facts.fetch_at_s = now_s + pause_s
            self._tell(problem, offer)

    def _child(self, module: str, **question: Any) -> dict[str, Any]:
        question |= {**self._config, "home": str(self.home.path)}
        limits = Limits(_ERRAND_S, _ERRAND_BYTES, is_nice=True)
        return Child(f"bascule.edge.{module}", question, limits, what=module).answer()

    def _tell(self, problem: BasculeError, offer: Offer | None = None) -> None:
        """Report what was not trusted, once for as long as it is the same."""
        self.resting = problem.message
        if isinstance(problem, Untrusted) and problem.message != self._told:
            self._told = problem.message
            self._event("refused", problem.message, offer)

    # -- what serves --

    def _opened(self, offer: Offer) -> Opened:
        opened = Opened(offer, self.home.slot(offer.digest))
        opened.traffic = Traffic(opened.bundle, self.plan.sample_rows, self.plan.private)
        return opened

    def _open_current(self) -> None:
        self._up_since_s = time.monotonic()
        while self.state.current is not None:
            try:
                self.device.serve(self._opened(self.state.current))
                return
            except BasculeError as problem:
                self._leave(problem)
        self.device.serve(None)

    def _install(self, offer: Offer, now_s: float) -> None:
        trial = self.device.trial
        opened = self._opened(offer) if trial is None else trial[0]
        self._count()
        self._keep(deciding.installed(self.state, offer), must=True)
        self.device.serve(opened)
        self._up_since_s = now_s
        differing = f"{trial[1].differing} of {trial[1].requests} differ" if trial else ""
        self._event("installed", differing)
        self.home.remove_others(self.state.digests)

    def _refuse(self, offer: Offer, reason: str, event: str = "refused") -> None:
        self.device.trial = None
        self._keep(deciding.refused(self.state, offer, reason))
        self._event(event, reason, offer)
        self.home.remove_others(self.state.digests)

    def _leave(self, problem: BasculeError) -> None:
        """Return to what served last. A slot that is damaged is fetched again, and not refused."""
        bad, is_damaged = self.state.current, isinstance(problem, Untrusted | NotFound)
        self._count()
        self._keep(deciding.returned(self.state, "" if is_damaged else problem.message))
        self._event("returned", problem.message, bad)
        self.home.remove_others(self.state.digests)

    # -- the state, and reports --

    def _keep(self, state: State, *, must: bool = False) -> None:
        """Write the state. Where the disk is full, go on with it unless it `must` be there."""
        try:
            self.home.write_state(state)
        except BasculeError as problem:
            if must:
                raise
            self.resting = problem.message
        self.state = state

    def _count(self) -> None:
        if self.device.counts.requests:
            self._report(event="counts", **self.device.taken())

    def _event(self, event: str, reason: str = "", running: Offer | None = None) -> None:
        self._report(running, event=event, reason=reason)
        self._facts.look_at_s = 0.0

    def _report(self, running: Offer | None = None, **report: Any) -> None:
        received, self._bytes_received = self._bytes_received, 0
        whole = {
            "device": self.state.device, "at": datetime.now(UTC).isoformat(), "reason": "",
            "running": msgspec.to_builtins(running or self.state.current),
            "bytes_received": received, **report,
        }  # fmt: skip
        try:
            self._outbox.add(self.state, whole)
        except BasculeError as problem:  # the disk is full: to serve goes before to report
            self.resting = problem.message
