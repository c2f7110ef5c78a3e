"""The agent of a device: looks, fetches, tries, installs, returns, and reports.

One thread decides, once a second (`deciding`), and writes the state before it acts on it. What may
take long, hang or crash is an errand, on another thread and in a process that ends.
"""

from __future__ import annotations

import os
import shutil
import time
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any

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
from bascule.edge.deciding import Act, Facts, Plan, Trial, Tried
from bascule.edge.device import Device, Opened
from bascule.edge.profiling import Traffic
from bascule.edge.reporting import Outbox
from bascule.edge.slots import State

if TYPE_CHECKING:
    from bascule.edge.fetching import Repository

Problem = BasculeError | None

_TURN_S = 1.0
_MIN_LOOK_S = 2.5  # turns between two looks are left for the other acts
_ERRAND_BYTES = 1 << 30
_MAX_PAUSE_S = 86_400.0
_ABOUT_THE_MODEL = (MissingExtra, ModelFailed, Refused, TimedOut, TooLarge)
"""What an errand raises that another download would not change."""


class _Errand(Thread):
    """What takes long: its answer, or what kept it from one; `then` takes both."""

    def __init__(self, do: Callable[[], Any], then: Callable[[Any, Problem, float], None]) -> None:
        super().__init__(daemon=True)
        self.then, self._do = then, do
        self.answer: Any = None
        self.problem: Problem = Unavailable("an errand ended without an answer")
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
            name: Of the device, in reports and rollouts; that of the state, if empty, or drawn.
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
        state, damage = self.state, None
        try:
            state = self.home.read_state() or state
        except Untrusted as problem:
            damage = problem
        name = self.state.device or state.device or os.urandom(8).hex()
        self.state = replace(state, device=name)
        if damage is not None:
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
        self._keep(deciding.settled(self.state))
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
            errand.then(errand.answer, errand.problem, now_s)
        facts = self._facts
        facts.trial, facts.slots = self.device.trial, self.home.digests()
        facts.hour = datetime.now().astimezone().hour
        act = deciding.next_act(self.state, facts, self.plan, now_s)
        self.resting = act.reason or self.resting
        try:
            self._do(act, now_s)
        except BasculeError as problem:
            self.resting = problem.message

    def _judge(self, now_s: float) -> None:
        reason = deciding.breach(self.device.counts.window, self.plan)
        if reason and self.state.last_good is not None:
            self._leave(Refused(reason))
            self._open_current()
            return
        if self.state.starts and now_s - self._up_since_s >= self.plan.settle_s:
            self._keep(deciding.settled(self.state))

    def _do(self, act: Act, now_s: float) -> None:
        verb, offer, reason = act
        if verb == "look":
            self._errand = _Errand(partial(self._look, self._reports()), self._after_look)
        elif offer is None:
            return
        elif verb == "fetch":
            self._errand = _Errand(partial(self._fetch, offer), partial(self._after_fetch, offer))
        elif verb == "record":
            self.device.trial = Trial(offer.digest, now_s, self.plan.trial_requests)
        elif verb == "try":
            self._errand = _Errand(partial(self._try, offer), partial(self._after_try, offer))
        elif verb == "install":
            self._install(offer, reason, now_s)
        else:
            self._refuse(offer, reason)

    # -- errands --

    def _reports(self) -> list[str]:
        """Those to send, which are sent again as they are from now on."""
        state, files = self._outbox.batch(self.state)
        if not (files and self._server):
            return []
        self._keep(state, must=True)
        return [str(file) for file in files]

    def _look(self, reports: list[str]) -> Channel:
        if reports:
            with suppress(Unavailable):
                answer = self._child("reporting", "a report", reports=reports)
                self._received = int(answer["sequence"])
        return self._repository.channel(self._channel)

    def _after_look(self, channel: Any, problem: Problem, now_s: float) -> None:
        facts = self._facts
        facts.look_at_s = now_s + max(self.plan.look_s, _MIN_LOOK_S)
        if self._received > self.state.sequence:
            self._keep(replace(self.state, sequence=self._received))
            self._outbox.remove(self.state)
        if problem is not None:
            self._tell(problem)
            return
        if facts.channel is None or facts.channel.sequence != channel.sequence:
            self._failures, facts.fetch_at_s = 0, 0.0
        facts.channel = channel

    def _fetch(self, offer: Offer) -> Any:
        current, into = self.state.current, self.home.incoming(offer.digest)
        have = None if current is None else self.home.slot(current.digest)
        shutil.rmtree(into, ignore_errors=True)
        received = self._repository.obtain(offer.digest, have, into, self.plan.budget_bytes)
        self._bytes_received += received
        return self._child("golden", f"the check of {offer.version}", digest=offer.digest)

    def _after_fetch(self, offer: Offer, _: Any, problem: Problem, now_s: float) -> None:
        shutil.rmtree(self.home.incoming(offer.digest), ignore_errors=True)
        if problem is None:
            self._failures = 0
        elif isinstance(problem, _ABOUT_THE_MODEL):
            self._refuse(offer, problem.message, "golden_failed")
        else:
            self._bytes_received += int(str(problem.facts.get("bytes_received", 0)))
            pause_s = min(self.plan.retry_s * 2**self._failures, _MAX_PAUSE_S)
            self._failures = min(self._failures + 1, 20)
            self._facts.fetch_at_s = now_s + pause_s
            self._tell(problem, offer)

    def _try(self, offer: Offer) -> Any:
        trial = self.device.trial
        recorded = trial.requests if trial is not None else []
        requests = [(b64encode(body).decode(), json_bytes) for body, json_bytes in recorded]
        offers = msgspec.to_builtins({"current": self.state.current, "candidate": offer})
        what = f"the trial of {offer.version}"
        return self._child("trying", what, requests=requests, **offers)

    def _after_try(self, offer: Offer, answer: Any, problem: Problem, _: float) -> None:
        self.device.trial = None
        if problem is None or isinstance(problem, _ABOUT_THE_MODEL):
            outcome = {"problem": problem.message} if problem is not None else answer
            self._facts.tried = Tried(digest=offer.digest, **outcome)
            return
        self._tell(problem, offer)
        if isinstance(problem, Untrusted | NotFound):
            self._remove_others()  # a slot that is damaged is fetched again

    def _child(self, module: str, what: str, **question: Any) -> dict[str, Any]:
        question |= {**self._config, "home": str(self.home.path)}
        limits = Limits(self.plan.check_s, _ERRAND_BYTES, is_nice=True)
        return Child(f"bascule.edge.{module}", question, limits, what=what).answer()

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

    def _install(self, offer: Offer, reason: str, now_s: float) -> None:
        try:
            opened = self._opened(offer)
        except BasculeError as problem:
            self._refuse(offer, problem.message)
            return
        self._count()
        self._keep(deciding.installed(self.state, offer), must=True)
        self.device.serve(opened)
        self._up_since_s = now_s
        self.device.trial = None
        self._event("installed", reason)
        self._remove_others()

    def _refuse(self, offer: Offer, reason: str, event: str = "refused") -> None:
        self.device.trial = None
        self._keep(deciding.refused(self.state, offer, reason))
        self._event(event, reason, offer)
        self._remove_others()

    def _leave(self, problem: BasculeError) -> None:
        """Return to what served last. A slot that is damaged is fetched again, and not refused."""
        bad, is_damaged = self.state.current, isinstance(problem, Untrusted | NotFound)
        self._count()
        self._keep(deciding.returned(self.state, "" if is_damaged else problem.message))
        self._event("returned", problem.message, bad)
        self._remove_others()

    def _remove_others(self) -> None:
        trial = self.device.trial
        self.home.remove_others({*self.state.digests, *([trial.digest] if trial else ())})

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
