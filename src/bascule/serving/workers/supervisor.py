"""Starts the workers of a server, keeps them alive, and stops them without losing a request.

What is served changes in all workers or in none. They load and warm what is new while they go on
answering; once all of them have it, they commit. A worker that dies meanwhile is started again with
the list that counts then.

The supervisor makes every listening socket (one per worker, SO_REUSEPORT, so that the kernel
spreads the connections) and keeps them open: while a worker that died is being replaced, its new
connections wait in the kernel, and none is refused. A worker whose event loop stands still is
killed, and replaced likewise (`supervised`); so is the control process, which has all that needs
HTTP or SQL: the control API, the keys, the registry. Workers append to the spool whether there is a
scribe or not, so one that is away delays, and loses nothing.
"""

from __future__ import annotations

import itertools
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bascule.core import BasculeError, Invalid, Unavailable
from bascule.endpoints import Plan
from bascule.serving.limits import allow_open_files
from bascule.serving.specs import (
    ModelSpec,
    ModelSpecs,
    Plans,
    check_absent,
    check_specs,
    check_unplanned,
    default_of,
    is_the_same,
    left_out,
    loaded,
    without,
)
from bascule.serving.telemetry import Counters, MetricLabels, labels_of
from bascule.serving.workers.config import ServingConfig, WorkerConfig
from bascule.serving.workers.peer import AnswerFor, Message, Peer
from bascule.serving.workers.sockets import Addresses, Sockets, port_of
from bascule.serving.workers.supervised import (
    Command,
    Heartbeat,
    Supervised,
    keep_alive,
    shared_file,
)

log = logging.getLogger(__name__)

START_TIMEOUT_S = 120.0
CONTROL_SILENT_S = 1.2
"""After so long without a beat the process is killed; with its start that is under 3 s."""
_CONTROL_START_S = 30.0
_CONTROL_STOP_S, _SCRIBE_STOP_S = 3.0, 20.0
_FILES, _FILES_PER_WORKER = 1_024, 8
"""Descriptors that a control process and the supervisor need, and those for each worker: its pipes
and sockets."""
_WORKER = (sys.executable, "-m", "bascule.serving.workers.worker")
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
"""One thread per program is what its cost was measured with."""
_TELL_TIMEOUT_S = 1.0
FindModel = Callable[[str, Path], ModelSpec]
"""What is to be served under a name, from a folder; raises what is wrong with it."""
_TURN_TIMEOUT_S = 10.0
"""How long a worker may take to turn to what it has loaded: a turn of its loop."""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker as the supervisor sees it; `alive`: it runs, and has said that it answers."""

    worker: int
    pid: int
    alive: bool
    restarts: int


@dataclass(frozen=True, slots=True)
class ModelState:
    """One version in one worker.

    Attributes:
        worker: The worker's number.
        model: The model's name.
        version: Its version.
        is_loaded: Whether it is in memory; one that is not is loaded when it is asked for.
        size_bytes: What it takes there, as it was measured; or at least, before it was loaded.
        inline_rows: Calls of up to so many rows run on the event loop.
        open_calls: How many calls wait or run.
    """

    worker: int
    model: str
    version: str
    is_loaded: bool
    size_bytes: int
    inline_rows: int
    open_calls: int


class _Worker(Supervised):
    """One worker: the process that it is now, and whether that answers."""

    def __init__(
        self,
        config: WorkerConfig,
        fds: tuple[int, ...],
        spawning: ThreadPoolExecutor,
        *,
        answer: AnswerFor,
        heartbeat: Heartbeat,
        starting: threading.Lock,
        on_start_error: Callable[[BasculeError], bool],
    ) -> None:
        """Nothing is started yet; see `Supervised`.

        Args:
            config: Of the next process.
            fds: Descriptors that all workers share.
            spawning: See `Supervised`.
            answer: Likewise.
            heartbeat: Likewise.
            starting: Likewise.
            on_start_error: Takes what kept it from starting; whether to start it again at once.
        """
        self.config = config
        self.is_ready = False
        own = (config.listener_fd, config.grpc_fd, config.unix_fd)
        self._fds = (*fds, *(fd for fd in own if fd is not None))
        self._on_start_error = on_start_error
        super().__init__(
            self._next_command, f"worker {config.worker}", spawning,
            answer=answer, heartbeat=heartbeat, starting=starting,
        )  # fmt: skip

    def _next_command(self) -> Command:
        return Command(_WORKER, _ONE_THREAD, self._fds, self.config.to_json())

    def start(self) -> None:
        """Start the process, which is asked whether it is ready; see `Supervised.start`."""
        self.is_ready = False
        super().start()
        assert self.peer is not None
        self._ready = self.peer.begin("ready")

    def running(self) -> Peer | None:
        """What its process is asked by, if that answers requests."""
        return self.peer if self.is_ready and self.runs else None

    def await_ready(self, until_s: float) -> None:
        """Return when the worker answers; raises its own error if it cannot."""
        while True:
            try:
                self._ready.result(until_s - time.monotonic())
            except TimeoutError:
                raise Unavailable(
                    f"{self.name} was not ready in {START_TIMEOUT_S:g} s",
                    hint="see its log above; a large model may need more memory",
                ) from None
            except BasculeError as error:
                if not self._on_start_error(error):
                    raise
            else:
                self.is_ready = True
                return
            self.wait(_TURN_TIMEOUT_S)
            self.start()

    def look_after(self, watched_s: float) -> None:
        """See `Supervised.look_after`; note also whether it answers by now."""
        super().look_after(watched_s)
        if self.is_ready or not self._ready.done() or not self.runs:
            return
        error = self._ready.exception()
        if error is None:
            self.is_ready = True
        elif self._starting.acquire(blocking=False):  # as for a start: what is served may change
            try:
                self._ready = Future()  # no more is expected of this process
                log.error("%s cannot start: %s", self.name, error)
                if isinstance(error, BasculeError):
                    self._on_start_error(error)
            finally:
                self._starting.release()


class _Changed(Exception):
    """Another change was made meanwhile."""


class Supervisor:
    """The processes of one server."""

    def __init__(
        self,
        addresses: Addresses,
        serving: ServingConfig,
        *,
        workers: int,
        needs_keys: bool = False,
        control: Command | None = None,
        scribe: Command | None = None,
        find: FindModel | None = None,
    ) -> None:
        """Bind the ports at once, so that a port in use is known before anything is started.

        Args:
            addresses: Where to listen.
            serving: How every worker serves.
            workers: How many processes share the ports.
            needs_keys: Whether callers need keys, which the control process provides.
            control: How the control process is started; None for none. Its question has the
                `control_port` of the API; what the supervisor knows is added.
            scribe: What starts the process that writes the ledger; None for no such process.
            find: Finds what callers of the workers want to have loaded; None where they may not.

        Raises:
            Conflict: The port is in use.
            Invalid: The host cannot be resolved or may not be bound, or a file of the certificate
                is wrong.
        """
        allow_open_files(_FILES + workers * _FILES_PER_WORKER)
        if serving.tls is not None:
            serving.tls.context()  # raises now rather than in a worker
        self.services: ModelSpecs = ()
        self.plans: Plans = ()
        self._turned: tuple[ModelSpecs, Plans] = (), ()
        """The services and plans that every worker has turned to."""
        self.limits = serving.limits
        self._sockets = Sockets(addresses, workers)
        self.host = addresses.host
        self.port = port_of(self._sockets.http)
        self.grpc_port = port_of(self._sockets.grpc) if self._sockets.grpc else None
        names = ("bascule-counters", "bascule-keys", "bascule-meters")
        self._shared = [shared_file(name) for name in names]
        self._shared_fds = tuple(file.fileno() for file in self._shared)
        counters_fd, keys_fd, meters_fd = self._shared_fds
        counters = Path(f"/dev/fd/{counters_fd}")
        self._counters = Counters(counters, workers)
        self.keys_file = Path(f"/dev/fd/{keys_fd}") if needs_keys else None
        self._spawning = ThreadPoolExecutor(1, "bascule-spawns")
        common = WorkerConfig(
            worker=0, workers=workers, listener_fd=-1, counters=counters, serving=serving,
            keys=self.keys_file, multi_model=find is not None,
            control_port=None if control is None else control.question["control_port"],
            meters=Path(f"/dev/fd/{meters_fd}") if serving.policies else None,
        )  # fmt: skip
        self._turning = threading.Lock()  # held while workers are started, and commit
        self._workers = [self._worker(common, number) for number in range(workers)]
        self.control = None if control is None else self._control(control)
        self.scribe = Supervised(lambda: scribe, "the scribe", self._spawning) if scribe else None
        self._starting_control = threading.Lock()
        self._workers_answer = threading.Event()
        self._find = find
        self._changing = threading.Lock()  # held while a change is made
        self._changes = itertools.count(1)
        self._stopping = threading.Event()
        others = [process for process in (self.control, self.scribe) if process is not None]
        self._monitor = threading.Thread(
            target=keep_alive, args=([*others, *self._workers], self._stopping),
            name="bascule-monitor", daemon=True,
        )  # fmt: skip

    def _worker(self, common: WorkerConfig, number: int) -> _Worker:
        http, grpc, unix = self._sockets.of_worker(number)
        return _Worker(
            replace(common, worker=number, listener_fd=http, grpc_fd=grpc, unix_fd=unix),
            self._shared_fds,
            self._spawning,
            answer=self._answer_worker,
            heartbeat=Heartbeat(
                partial(self._counters.beat_of, number), self.limits.worker_silent_s,
                START_TIMEOUT_S, self._counters.count_silent_worker,
            ),
            starting=self._turning,
            on_start_error=self._leave_out,
        )  # fmt: skip

    def _control(self, control: Command) -> Supervised:
        """Connections to its port wait in the socket, which stays open, while it is replaced.

        Workers need nothing of it to answer: keys hold for `authenticator.KEYS_SILENT_S` without a
        word, and the next control process is there before that.
        """
        counters_fd, keys_fd, meters_fd = self._shared_fds
        question = {
            **control.question,
            "host": self.host, "port": self.port, "workers": len(self._workers),
            "counters_fd": counters_fd, "keys_fd": keys_fd if self.keys_file else None,
            "meters_fd": meters_fd,
        }  # fmt: skip
        fds = (*self._shared_fds, *control.fds)
        command = replace(control, environment=_ONE_THREAD, fds=fds, question=question)
        counters = self._counters
        return Supervised(
            lambda: command, "the control process", self._spawning,
            answer=self._answer_control,
            heartbeat=Heartbeat(counters.control_beat, CONTROL_SILENT_S, _CONTROL_START_S),
            on_restart=counters.count_control_restart,
        )  # fmt: skip

    def start_control(self) -> Supervised:
        """Start the control process, unless it runs; return when it has the keys that are needed.

        Raises:
            BasculeError: The catalogue of the keys cannot be read.
        """
        assert self.control is not None
        with self._starting_control:
            if self._stopping.is_set():
                raise Unavailable("the server stops", hint="ask another one", retry_after_s=1)
            if not self.control.pid:
                self.control.start()
                if self.keys_file is not None:
                    self.control.ask("keys", START_TIMEOUT_S)
        return self.control

    def start(self, services: Sequence[ModelSpec], plans: Plans = ()) -> None:
        """Start every worker and return when all of them answer; raises what kept one from it.

        Args:
            services: What to serve, the default version of a model before its others.
            plans: The plans of endpoints, whose versions are among `services`.
        """
        until = time.monotonic() + START_TIMEOUT_S
        try:
            self.services = check_specs(tuple(services))
            self.plans = plans
            self._turned = self.services, plans
            self._name(self.services, plans)
            for worker in self._workers:
                worker.config = replace(worker.config, services=self.services, plans=plans)
                worker.start()
            for worker in self._workers:
                worker.await_ready(until)
        except BaseException:
            self.stop(drain_s=0)
            raise
        if self.scribe is not None:
            self.scribe.start()
        self._monitor.start()
        self._workers_answer.set()

    def _leave_out(self, error: BasculeError) -> bool:
        """Start workers without the version of a plan that one could not load, if the rest answers.

        The control process finds the plan unserved, tries it again, and tells its rollout why.
        """
        version = str(error.facts.get("version", ""))
        if version in {f"{spec.model}/{spec.version}" for spec in self.services}:
            rest = left_out(self.services, self.plans, version)
            if rest is None:
                return False
            log.error("%s is left out of the plans that need it: %s", version, error)
            self.services, self.plans = self._turned = rest
            for worker in self._workers:
                worker.config = replace(worker.config, services=self.services, plans=self.plans)
        return bool(version)

    def is_default(self, service: ModelSpec) -> bool:
        """Whether a version that is served answers to the plain name of its model."""
        return default_of(self.services, service.model) is service

    def change(
        self,
        edit: Callable[[ModelSpecs], ModelSpecs],
        *,
        turn_by_s: float = math.inf,
        plans: Plans | None = None,
    ) -> ModelSpecs:
        """Serve what `edit` makes of what is served now: in all workers, or in none.

        Returns when every worker has committed. Requests under way finish where they are.

        Args:
            edit: See `serving.specs`: `loaded`, `swapped`, `unloaded`.
            turn_by_s: No worker turns to it later than this, by the monotonic clock.
            plans: The plans from then on; None for those of now.

        Returns:
            What is served now.

        Raises:
            BasculeError: What `edit` raises, or what kept a worker from loading. Nothing changed.
        """
        with self._changing:
            _check_in_time(turn_by_s)  # another change may have taken long
            services = check_specs(edit(self.services))
            plans = self.plans if plans is None else plans
            if plans == self.plans and is_the_same(services, self.services):
                return services
            self._name(services, plans)
            number = next(self._changes)
            peers = self._prepare(number, services, plans, turn_by_s)
            self._turn(number, services, plans, peers, turn_by_s)
            return services

    def _answer_worker(self, what: str, arguments: Message) -> bool:
        """Load or unload a model for a caller of a worker; returns once every worker serves it."""
        find, name = self._find, arguments["model"]
        if self._stopping.is_set():
            raise Unavailable("the server stops", hint="ask another one", retry_after_s=1)
        if find is None:
            raise Invalid("callers may not change what is served", hint="set serving.multi_model")

        def with_it(served: ModelSpecs) -> ModelSpecs:
            check_unplanned(self.plans, name)
            check_absent(served, name)
            return loaded(served, find(name, Path(arguments["place"])))

        match what:
            case "load":
                self.change(with_it)
            case "unload":
                check_unplanned(self.plans, name)
                self.change(lambda served: without(served, name))
            case _:
                raise Invalid(f"there is no question {what!r}")
        return True

    def _answer_control(self, what: str, arguments: Message) -> Any:
        """Answer a question of the control process; see `control.link`."""
        match what:
            case "begin":  # what it loads then must not keep the workers waiting
                return self._workers_answer.wait()
            case "services":
                return [service.to_json() for service in self._turned[0]]
            case "plans":
                return [plan.to_json() for plan in self._turned[1]]
            case "statuses":
                return [asdict(status) for status in self.statuses()]
            case "models":
                return [asdict(state) for state in self.models()]
            case "replace":
                before, after = (
                    (
                        tuple(map(ModelSpec.from_json, arguments[services])),
                        tuple(map(Plan.from_json, arguments[plans])),
                    )
                    for services, plans in (("before", "plans_before"), ("after", "plans_after"))
                )
                return self._replace(before, after, arguments["turn_by_s"])
            case _:
                raise Invalid(f"there is no question {what!r}")

    def _replace(
        self,
        before: tuple[ModelSpecs, Plans],
        after: tuple[ModelSpecs, Plans],
        turn_by_s: float,
    ) -> bool:
        """Serve `after` if `before` is still what is served; whether it was."""

        def if_unchanged(now: ModelSpecs) -> ModelSpecs:
            if (now, self.plans) != before:
                raise _Changed
            return after[0]

        try:
            self.change(if_unchanged, turn_by_s=turn_by_s, plans=after[1])
        except _Changed:
            return False
        return True

    def models(self) -> list[ModelState]:
        """How the models of each worker that answers are at this moment."""
        answers = [
            (worker.config.worker, peer, peer.begin("models"))
            for worker in self._workers
            if (peer := worker.running()) is not None
        ]
        states: list[ModelState] = []
        until_s = time.monotonic() + _TELL_TIMEOUT_S
        for number, peer, answer in answers:
            with suppress(Unavailable):
                models = peer.result(answer, until_s - time.monotonic())
                states += [ModelState(worker=number, **model) for model in models]
        return states

    def _name(self, services: ModelSpecs, plans: Plans) -> None:
        for service in services:
            self._counters.name(MetricLabels(service.model, service.version))
        self._counters.arms.name(
            [label for plan in plans for label in labels_of(plan)],
            [label for plan in self.plans for label in labels_of(plan)],
        )

    def _prepare(
        self, number: int, services: ModelSpecs, plans: Plans, turn_by_s: float
    ) -> list[Peer]:
        """Have every worker load; what one could not is let go of by all."""
        until_s = min(time.monotonic() + START_TIMEOUT_S, turn_by_s)
        lists = {
            "services": [service.to_json() for service in services],
            "plans": [plan.to_json() for plan in plans],
        }
        answers: list[tuple[Peer, Future[Any]]] = []
        try:
            for worker in self._workers:
                peer = worker.running()
                if peer is None:
                    raise _try_again(f"{worker.name} is being started again")
                answers.append((peer, peer.begin("prepare", change=number, **lists)))
            for peer, answer in answers:
                peer.result(answer, until_s - time.monotonic())
        except BaseException as error:
            if isinstance(error, BasculeError):
                # A worker that died or stood still over it is no worker that was away before.
                error.facts.setdefault("while_loading", len(answers) == len(self._workers))
            _abandon(number, [peer for peer, _ in answers])
            raise
        return [peer for peer, _ in answers]

    def _turn(
        self,
        number: int,
        services: ModelSpecs,
        plans: Plans,
        peers: Sequence[Peer],
        turn_by_s: float,
    ) -> None:
        answers: list[Future[Any]] = []
        with self._turning:
            try:
                if any(
                    worker.peer is not peer
                    for worker, peer in zip(self._workers, peers, strict=True)
                ):
                    raise _try_again("a worker died meanwhile")
                _check_in_time(turn_by_s)
            except Unavailable:
                _abandon(number, peers)
                raise
            # From here on a worker that is started again gets the new list, so none is left behind.
            self.services, self.plans = services, plans
            for worker, peer in zip(self._workers, peers, strict=True):
                worker.config = replace(worker.config, services=services, plans=plans)
                answers.append(peer.begin("commit", change=number))
        until_s = time.monotonic() + _TURN_TIMEOUT_S
        for peer, answer in zip(peers, answers, strict=True):
            with suppress(Unavailable):  # it died, and comes back with the new list
                peer.result(answer, until_s - time.monotonic())
        self._turned = services, plans

    def statuses(self) -> list[WorkerStatus]:
        """Every worker's process, as it stands."""
        return [
            WorkerStatus(
                worker=worker.config.worker,
                pid=worker.pid,
                alive=worker.running() is not None,
                restarts=worker.restarts,
            )
            for worker in self._workers
        ]

    def stop(self, drain_s: float | None = None) -> None:
        """Let the workers finish what is under way, then end them. Safe to call twice."""
        self._stopping.set()
        self._workers_answer.set()  # nothing waits any more
        if self._monitor.is_alive() and threading.current_thread() is not self._monitor:
            self._monitor.join()
        self._sockets.take_no_more()
        for process in (self.control, *self._workers):
            if process is not None:
                process.terminate()
        self._sockets.close()
        until = time.monotonic() + (self.limits.drain_s if drain_s is None else drain_s) + 1.0
        for worker in self._workers:
            worker.wait(max(0.1, until - time.monotonic()))
        if self.scribe is not None:
            self.scribe.terminate()  # last: it takes in what the workers have left
            self.scribe.wait(_SCRIBE_STOP_S)
        if self.control is not None:
            self.control.wait(_CONTROL_STOP_S)
        self._spawning.shutdown()
        for file in self._shared:
            file.close()


def _abandon(number: int, peers: Sequence[Peer]) -> None:
    for peer in peers:
        peer.begin("abandon", change=number)


def _check_in_time(turn_by_s: float) -> None:
    if time.monotonic() > turn_by_s:
        raise _try_again("the change could not be made in time")


def _try_again(what: str) -> Unavailable:
    return Unavailable(f"{what}, and nothing was changed", hint="try again", retry_after_s=1)
