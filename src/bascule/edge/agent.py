"""The agent of a device: looks, fetches, tries, installs, returns, and reports.

One thread decides, once a second (`deciding`), and writes the state before it acts on it. What may
take long or end its process is an errand, on another thread and in a process that ends.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
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
from bascule.edge.deciding import Act, Facts, Plan
from bascule.edge.device import Device, Opened
from bascule.edge.reporting import Outbox
from bascule.edge.slots import State

_TURN_S = 1.0
_ERRAND_S = 600.0
_MAX_PAUSE_S = 86_400.0
Then = Callable[[Any, BasculeError | None, float], None]
_ABOUT_THE_MODEL = (MissingExtra, ModelFailed, Refused, TimedOut, TooLarge)
"""What an errand raises that another download would not change."""


class Repository(Protocol):
    """A signed repository of bundles; see `fetching.Repository`."""

    def channel(self, name: str) -> Channel:
        """The verified content of a channel."""

    def obtain(
        self, digest: str, have: Path | None, into: Path, budget_bytes: int | None = None
    ) -> Any:
        """Put a verified bundle into a new folder; what that cost is `bytes_received`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """What a device follows, and whom it tells.

    Attributes:
        device: Its name, in reports and rollouts.
        channel: Of the repository.
        server: Where reports go; empty for nowhere.
        key: The device's key there.
        claims: As in `security.required_claims`.
        keys: Files of public keys whose passports count.
        memory_mb: What an errand may take.
        plan: How careful it is.
    """

    device: str
    channel: str
    server: str = ""
    key: str = ""
    claims: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    memory_mb: int = 1024
    plan: Plan = field(default_factory=Plan)


class _Errand(Thread):
    """What takes long; `then` takes its answer, or what kept it from one, in a later turn."""

    def __init__(self, do: Callable[[], Any], then: Then) -> None:
        super().__init__(daemon=True)
        self._do, self._then = do, then
        self._answer: Any = None
        self._problem: BasculeError | None = Unavailable("an errand ended without an answer")
        self.start()

    def run(self) -> None:
        try:
            self._answer, self._problem = self._do(), None
        except BasculeError as problem:
            self._problem = problem

    def end(self, now_s: float) -> None:
        self._then(self._answer, self._problem, now_s)


class Agent:
    """The one process that writes to a device's home."""

    def __init__(self, config: AgentConfig, repository: Repository, device: Device) -> None:
        self.config, self.plan = config, config.plan
        self.device, self.home = device, device.home
        self.state = State(device=config.device)
        self.resting = ""
        self._repository = repository
        self._outbox = Outbox(self.home.outbox, self.plan.outbox_bytes)
        self._facts = Facts()
        self._errand: _Errand | None = None
        self._failures = self._bytes_received = self._received = 0
        self._told = ""
        self._up_since_s = self._counted_at_s = time.monotonic()

    def start(self) -> None:
        """Lock the home, and open what served last or what did before it.

        Raises:
            Conflict: Another process is the agent of this home.
        """
        self.home.lock()
        self.device.is_agents = True
        try:
            self.state = replace(self.home.read_state() or self.state, device=self.config.device)
        except Untrusted as damage:
            self._event("refused", damage.message)
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
        self.device.end_trial()
        self._count()
        self._keep(deciding.stopped(self.state))
        self.home.unlock()

    def turn(self, now_s: float) -> None:
        """Judge what serves, and take the next step. What fails is tried again in a later turn."""
        self.device.end_long_runs(now_s)
        if now_s - self._counted_at_s >= self.plan.report_s:
            self._counted_at_s = now_s
            self._count()
        self._judge(now_s)
        if self._errand is not None:
            if self._errand.is_alive():
                return
            errand, self._errand = self._errand, None
            errand.end(now_s)
        trial = self.device.trial
        facts = replace(
            self._facts, slots=self.home.digests(), tried=None if trial is None else trial.tried,
            hour=datetime.now().astimezone().hour,
        )  # fmt: skip
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
        if act.verb == "look":
            self._errand = _Errand(self._look(), self._after_look)
        elif act.offer is None:
            return
        elif act.verb == "fetch":
            self._errand = _Errand(self._fetch(act.offer), self._after_fetch(act.offer))
        elif act.verb == "install":
            self._install(act.offer, now_s)
        elif act.verb == "refuse":
            self._refuse(act.offer, act.reason, "refused")
        else:
            self._keep(deciding.trying(self.state, act.offer), must=True)
            try:
                self.device.begin_trial(self._opened(act.offer), now_s)
            except BasculeError as problem:
                self._refuse(act.offer, problem.message, "refused")

    # -- errands --

    def _look(self) -> Callable[[], Any]:
        state, files = self._outbox.batch(self.state)
        is_reporting = bool(files and self.config.server)
        if is_reporting:
            self._keep(state, must=True)

        def do() -> Channel:
            if is_reporting:
                with suppress(Unavailable):
                    answer = self._child("send", reports=[str(file) for file in files])
                    self._received = int(answer["sequence"])
            return self._repository.channel(self.config.channel)

        return do

    def _after_look(self, channel: Any, problem: BasculeError | None, now_s: float) -> None:
        self._facts = replace(self._facts, look_at_s=now_s + max(self.plan.look_s, _TURN_S))
        if self._received > self.state.sequence:
            self._keep(replace(self.state, sequence=self._received))
            self._outbox.remove(self.state)
        if problem is not None:
            self._tell(problem)
            return
        before = self._facts.channel
        if before is None or before.sequence != channel.sequence:
            self._failures, self._facts = 0, replace(self._facts, fetch_at_s=0.0)
        self._facts = replace(self._facts, channel=channel)

    def _fetch(self, offer: Offer) -> Callable[[], Any]:
        current = self.state.current
        have = None if current is None else self.home.slot(current.digest)
        incoming = self.home.incoming(offer.digest)

        def do() -> Any:
            shutil.rmtree(incoming, ignore_errors=True)
            budget_bytes = self.plan.budget_bytes
            obtained = self._repository.obtain(offer.digest, have, incoming, budget_bytes)
            self._bytes_received += obtained.bytes_received
            return self._child(
                "prove", digest=offer.digest, claims=self.config.claims, keys=self.config.keys
            )

        return do

    def _after_fetch(self, offer: Offer) -> Then:
        def then(_: Any, problem: BasculeError | None, now_s: float) -> None:
            if problem is None:
                self._failures = 0
                return
            shutil.rmtree(self.home.incoming(offer.digest), ignore_errors=True)
            if isinstance(problem, _ABOUT_THE_MODEL):
                self._refuse(offer, problem.message, "golden_failed")
                return
            received = problem.facts.get("bytes_received", 0)
            self._bytes_received += received if isinstance(received, int) else 0
            pause_s = min(self.plan.retry_s * 2**self._failures, _MAX_PAUSE_S)
            self._failures = min(self._failures + 1, 20)
            self._facts = replace(self._facts, fetch_at_s=now_s + pause_s)
            self._tell(problem, offer)

        return then

    def _child(self, errand: str, **question: Any) -> dict[str, Any]:
        config = self.config
        question |= {"errand": errand, "home": str(self.home.path)}
        question |= {"server": config.server, "key": config.key}
        limits = Limits(_ERRAND_S, config.memory_mb << 20, is_nice=True)
        return Child("bascule.edge.errands", question, limits, what=f"to {errand}").answer()

    def _tell(self, problem: BasculeError, offer: Offer | None = None) -> None:
        """Report what was not trusted, once for as long as it is the same."""
        self.resting = problem.message
        if isinstance(problem, Untrusted) and problem.message != self._told:
            self._told = problem.message
            self._event("refused", problem.message, offer)

    # -- what serves --

    def _opened(self, offer: Offer) -> Opened:
        return Opened(offer, self.home.slot(offer.digest))

    def _open_current(self) -> None:
        while self.state.current is not None:
            try:
                self.device.serve(self._opened(self.state.current))
                self._up_since_s = time.monotonic()
                return
            except BasculeError as problem:
                self._leave(problem)
        self.device.serve(None)

    def _install(self, offer: Offer, now_s: float) -> None:
        trial = self.device.trial
        opened = self._opened(offer) if trial is None else trial.opened
        self._count()
        self._keep(deciding.installed(self.state, offer), must=True)
        self.device.serve(opened)
        self._up_since_s = now_s
        tried = trial and trial.tried
        self._event("installed", f"{tried.differing} of {tried.requests} differ" if tried else "")
        self.home.remove_others(self.state.digests)

    def _refuse(self, offer: Offer, reason: str, event: str) -> None:
        self.device.end_trial()
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

    def _event(self, event: str, reason: str = "", running: Offer | None = None) -> None:
        self._report({"event": event, "reason": reason}, running or self.state.current)
        self._facts = replace(self._facts, look_at_s=0.0)

    def _count(self) -> None:
        if self.device.counts.requests:
            counts = self.device.counts.take()
            self._report({"event": "counts", "counts": counts}, self.state.current)

    def _report(self, report: Mapping[str, Any], running: Offer | None) -> None:
        received, self._bytes_received = self._bytes_received, 0
        whole = {
            "device": self.state.device, "at": datetime.now(UTC).isoformat(), "reason": "",
            "running": msgspec.to_builtins(running), "bytes_received": received, **report,
        }  # fmt: skip
        try:
            self._outbox.add(self.state, whole)
        except BasculeError as problem:  # the disk is full: to serve goes before to report
            self.resting = problem.message
