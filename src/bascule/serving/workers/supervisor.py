"""Starts the workers of a server, keeps them alive, and stops them without losing a request.

What is served changes in all workers or in none. They load and warm what is new while they go on
answering; once all of them have it, they are told to turn to it. A worker that dies meanwhile is
started again with the list that counts then.

The supervisor makes every listening socket (one per worker, SO_REUSEPORT, so that the kernel
spreads the connections) and keeps them open: while a worker that died is being replaced, its new
connections wait in the kernel, and none is refused. A worker whose event loop stands still is
killed, and replaced likewise; so is the control process (`control_child`), which has all that needs
HTTP or SQL: the control API, the keys, the registry.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from bascule.core import (
    BasculeError,
    Invalid,
    ModelFailed,
    Unavailable,
    error_from_json,
    error_to_json,
)
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
from bascule.serving.telemetry import (
    Counters,
    MetricLabels,
    labels_of,
)
from bascule.serving.workers.channel import Message, WorkerProcess
from bascule.serving.workers.config import ServingConfig, WorkerConfig
from bascule.serving.workers.control_child import Backoff, ControlChild, ControlCommand
from bascule.serving.workers.scribe_child import ScribeChild, ScribeCommand
from bascule.serving.workers.sockets import Addresses, Sockets, port_of

log = logging.getLogger(__name__)

START_TIMEOUT_S = 120.0
_WATCH_EVERY_S = 0.05
_LONGEST_TURN_S = 1.0
"""More than this between two looks means that the supervisor itself stood still."""
_START_AGAIN_S = 1.0
_FILES, _FILES_PER_WORKER = 1_024, 8
"""Descriptors that a control process and the supervisor need, and those for each worker: its pipes
and sockets."""
_STOPPED_LOOKS = 20
"""A worker that a signal has stopped is killed when so many looks in a row have found it stopped.
Looks, and no time: a suspended server looks at nothing meanwhile."""
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


class _Worker:
    """One worker: the process that it is now, and what is needed to start it again."""

    def __init__(
        self,
        config: WorkerConfig,
        *,
        shared_fds: tuple[int, ...],
        on_load_request: Callable[[WorkerProcess, Message], None],
        on_start_error: Callable[[BasculeError], bool],
        spawning: ThreadPoolExecutor,
    ) -> None:
        self.config = config
        self._on_start_error = on_start_error
        self._on_load_request = on_load_request
        self._spawning = spawning
        own = (config.listener_fd, config.grpc_fd, config.unix_fd)
        self._inherited_fds = (*shared_fds, *(fd for fd in own if fd is not None))
        self.process: WorkerProcess | None = None
        self.ready = False
        self.restarts = 0
        self._restart_at_s: float | None = None
        self._backoff = Backoff()
        self._beat_ns = 0
        self._beat_s = 0.0
        self._stopped_looks = 0

    def start(self) -> None:
        self.ready = False
        # On a thread that stays: the system kills the process when the thread ends.
        made = self._spawning.submit(
            WorkerProcess, self.config, self._inherited_fds, self._on_load_request
        )  # fmt: skip
        self.process = made.result()
        self._restart_at_s = None

    def running(self) -> WorkerProcess | None:
        """Its process, if that answers."""
        process = self.process
        is_there = self.ready and process is not None and process.exit_code is None
        return process if is_there else None

    def await_ready(self, until_s: float) -> None:
        """Return when the worker answers; raises its own error if it cannot."""
        while True:
            try:
                return self._await_ready(until_s - time.monotonic())
            except BasculeError as error:
                if not self._on_start_error(error):
                    raise
            assert self.process is not None
            self.process.wait(_TURN_TIMEOUT_S)
            self.process.close()
            self.start()

    def _await_ready(self, wait_s: float) -> None:
        assert self.process is not None
        try:
            message = self.process.hear(wait_s)
        except Unavailable:
            message = {"error": "it ended while starting", "hint": "see its log above"}
        if message is None:
            raise self._not_ready_in_time()
        if "error" in message:
            raise error_from_json(message)
        self.ready = True

    def look_after(self) -> None:
        """Start the process again once it has ended. Never waits: the others need looking after."""
        process = self.process
        assert process is not None
        now = time.monotonic()
        if process.exit_code is None:
            if not self.ready:
                self._look_whether_ready(process, now)
        elif self._restart_at_s is None:
            self._restart_at_s = now + self._pause_s(process, now - process.started_s)
        elif now >= self._restart_at_s:
            self._restart_at_s = now + _START_AGAIN_S  # where the system lacks what it takes
            process.close()
            self.start()
            self.restarts += 1

    def kill_silent(self, beat_ns: int, watched_s: float, silent_s: float) -> bool:
        """Kill the process if its beat stays the same for `silent_s`; whether it was killed.

        One that a signal has stopped is killed sooner: no load of the machine looks like that.
        `watched_s` is of a clock that stands still while the watching thread does.
        """
        process = self.running()
        if process is None or beat_ns != self._beat_ns:
            self._beat_ns, self._beat_s, self._stopped_looks = beat_ns, watched_s, 0
            return False
        self._stopped_looks = self._stopped_looks + 1 if _is_stopped(process.pid) else 0
        if self._stopped_looks >= _STOPPED_LOOKS:
            why = "was stopped by a signal"
        elif watched_s - self._beat_s > silent_s:
            why = f"stood still for {silent_s:g} s"
        else:
            return False
        log.error("worker %d (process %d) %s and is killed", self.config.worker, process.pid, why)
        process.signal(signal.SIGKILL)
        self._stopped_looks = 0
        self._beat_s = watched_s
        return True

    def _look_whether_ready(self, process: WorkerProcess, now: float) -> None:
        try:
            if now - process.started_s > START_TIMEOUT_S:
                process.signal(signal.SIGKILL)
                raise self._not_ready_in_time()
            message = process.hear(0)
            if message is not None and "error" in message:
                raise error_from_json(message)
            self.ready = message is not None
        except BasculeError as error:
            log.error("worker %d cannot start: %s", self.config.worker, error)  # noqa: TRY400 -- said in one line, by design
            self._on_start_error(error)

    def _pause_s(self, process: WorkerProcess, lived_s: float) -> float:
        log.warning(
            "worker %d (process %d) ended with %s after %.1f s and is started again",
            self.config.worker, process.pid, process.exit_code, lived_s,
        )  # fmt: skip
        return self._backoff.pause_s(lived_s)

    def _not_ready_in_time(self) -> Unavailable:
        return Unavailable(
            f"worker {self.config.worker} was not ready in {START_TIMEOUT_S:g} s",
            hint="see its log above; a large model may need more memory",
        )


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
        control: ControlCommand | None = None,
        scribe: ScribeCommand | None = None,
        find: FindModel | None = None,
    ) -> None:
        """Bind the ports at once, so that a port in use is known before anything is started.

        Args:
            addresses: Where to listen.
            serving: How every worker serves.
            workers: How many processes share the ports.
            needs_keys: Whether callers need keys, which the control process provides.
            control: How the control process is started; None for none.
            scribe: What starts the process that writes the ledger; None for no such process.
            find: Finds what callers of the workers want to have loaded; None where they may not.

        Raises:
            Conflict: The port is in use.
            Invalid: The host cannot be resolved or may not be bound, or a file of the certificate
                is wrong.
        """
        allow_open_files(_FILES + workers * _FILES_PER_WORKER)
        if serving.tls is not None:
            serving.tls.context()  # said now rather than by a worker
        self.services: ModelSpecs = ()
        self.plans: Plans = ()
        self._turned: tuple[ModelSpecs, Plans] = (), ()
        """The services and plans that every worker has turned to."""
        self.limits = serving.limits
        self._sockets = Sockets(addresses, workers)
        self.host = addresses.host
        self.port = port_of(self._sockets.http)
        self.grpc_port = port_of(self._sockets.grpc) if self._sockets.grpc else None
        self._shared = [_shared_file("bascule-counters"), _shared_file("bascule-keys")]
        counters_fd, keys_fd = self._shared_fds = tuple(file.fileno() for file in self._shared)
        counters = Path(f"/dev/fd/{counters_fd}")
        self._counters = Counters(counters, workers)
        self.keys_file = Path(f"/dev/fd/{keys_fd}") if needs_keys else None
        self._spawning = ThreadPoolExecutor(1, "bascule-spawns")
        common = WorkerConfig(
            worker=0, workers=workers, listener_fd=-1, counters=counters, serving=serving,
            keys=self.keys_file, multi_model=find is not None,
            control_port=None if control is None else control.listener.getsockname()[1],
        )  # fmt: skip
        self._workers = [self._worker(common, number) for number in range(workers)]
        self.control = None if control is None else self._control_child(control)
        self.scribe = ScribeChild(scribe, self._spawning) if scribe else None
        self._starting_control = threading.Lock()
        self._workers_answer = threading.Event()
        self._find = find
        self._wishing = ThreadPoolExecutor(1, "bascule-wishes")  # changes are made one by one
        self._changing = threading.Lock()  # held while a change is made
        self._turning = threading.Lock()  # held while workers are started, and told to turn
        self._changes = itertools.count(1)
        self._stopping = threading.Event()
        self._monitor = threading.Thread(target=self._watch, name="bascule-monitor", daemon=True)

    def _worker(self, common: WorkerConfig, number: int) -> _Worker:
        http, grpc, unix = self._sockets.of_worker(number)
        return _Worker(
            replace(common, worker=number, listener_fd=http, grpc_fd=grpc, unix_fd=unix),
            shared_fds=self._shared_fds,
            on_load_request=self._take_load_request,
            on_start_error=self._leave_out,
            spawning=self._spawning,
        )

    def _control_child(self, command: ControlCommand) -> ControlChild:
        counters_fd, keys_fd = self._shared_fds
        self._control_config = command.config | {
            "host": self.host, "port": self.port, "workers": len(self._workers),
            "counters_fd": counters_fd, "keys_fd": keys_fd if self.keys_file else None,
            "listener_fd": command.listener.fileno(),
        }  # fmt: skip
        return ControlChild(
            command, self._shared_fds, self._answer_control, self._spawning,
            self._counters.count_control_restart,
        )  # fmt: skip

    def start_control(self) -> ControlChild:
        """Start the control process, unless it runs; return when it has the keys that are needed.

        Raises:
            BasculeError: The catalogue of the keys cannot be read.
        """
        assert self.control is not None
        with self._starting_control:
            if self._stopping.is_set():
                raise Unavailable("the server stops", hint="ask another one", retry_after_s=1)
            if not self.control.is_started:
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
        if version in {f"{one.model}/{one.version}" for one in self.services}:
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
        wish: Callable[[ModelSpecs], ModelSpecs],
        *,
        turn_by_s: float = math.inf,
        plans: Plans | None = None,
    ) -> ModelSpecs:
        """Serve what `wish` makes of what is served now: in all workers, or in none.

        Returns when every worker has turned to it. Requests under way finish where they are.

        Args:
            wish: See `serving.specs`: `loaded`, `swapped`, `unloaded`.
            turn_by_s: No worker turns to it later than this, by the monotonic clock.
            plans: The plans from then on; None for those of now.

        Returns:
            What is served now.

        Raises:
            BasculeError: What `wish` raises, or what kept a worker from loading. Nothing changed.
        """
        with self._changing:
            _check_in_time(turn_by_s)  # another change may have taken long
            services = check_specs(wish(self.services))
            plans = self.plans if plans is None else plans
            if plans == self.plans and is_the_same(services, self.services):
                return services
            self._name(services, plans)
            number = next(self._changes)
            processes: list[WorkerProcess] = []
            try:
                self._prepare(number, services, plans, processes, turn_by_s)
                self._turn(number, services, plans, processes, turn_by_s)
            finally:
                for process in processes:
                    process.forget(number)
            return services

    def _take_load_request(self, process: WorkerProcess, wish: Message) -> None:
        try:
            self._wishing.submit(self._answer_load_request, process, wish)
        except RuntimeError:  # it stops, and takes no more
            self._answer_load_request(process, wish)

    def _answer_load_request(self, process: WorkerProcess, wish: Message) -> None:
        number = wish["wish"]
        try:
            if self._stopping.is_set():
                raise Unavailable("the server stops", hint="ask another one", retry_after_s=1)
            self._apply_load_request(wish)
        except BasculeError as error:
            process.tell({"refused": number, **error_to_json(error)})
        except Exception:
            # A bug in one change: its caller is told, and the next ones are still taken.
            log.exception("a change that a caller asked for failed")
            bug = ModelFailed("the change failed", hint="see the server's log")
            process.tell({"refused": number, **error_to_json(bug)})
        else:
            process.tell({"granted": number})

    def _apply_load_request(self, wish: Message) -> None:
        find = self._find
        if find is None:
            raise Invalid("callers may not change what is served", hint="set serving.multi_model")
        match wish:
            case {"load": name, "place": place}:

                def with_it(now: ModelSpecs) -> ModelSpecs:
                    check_unplanned(self.plans, name)
                    check_absent(now, name)
                    return loaded(now, find(name, Path(place)))

                self.change(with_it)
            case {"unload": name}:
                check_unplanned(self.plans, name)
                self.change(lambda now: without(now, name))
            case _:
                raise Invalid("this is no change")

    def _answer_control(self, what: str, said: Message) -> Any:
        """Answer a question of the control process; see `control.link`."""
        match what:
            case "config":
                return self._control_config
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
                    tuple(map(ModelSpec.from_json, said[which])) for which in ("before", "after")
                )
                plans_before, plans_after = (
                    tuple(map(Plan.from_json, said[which]))
                    for which in ("plans_before", "plans_after")
                )
                return self._replace(
                    (before, plans_before), (after, plans_after), said["turn_by_s"]
                )
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
        number = next(self._changes)
        asked = [(worker, worker.running()) for worker in self._workers]
        found: list[ModelState] = []
        until_s = time.monotonic() + _TELL_TIMEOUT_S
        for _, process in asked:
            if process is not None:
                process.ask(number, {"tell": number})
        for worker, process in asked:
            if process is not None:
                with suppress(Unavailable):
                    told = process.hear_of(number, until_s)["models"]
                    found += [ModelState(worker=worker.config.worker, **one) for one in told]
                process.forget(number)
        return found

    def _name(self, services: ModelSpecs, plans: Plans) -> None:
        for service in services:
            self._counters.name(MetricLabels(service.model, service.version))
        self._counters.arms.name(
            [label for plan in plans for label in labels_of(plan)],
            [label for plan in self.plans for label in labels_of(plan)],
        )

    def _prepare(
        self,
        number: int,
        services: ModelSpecs,
        plans: Plans,
        processes: list[WorkerProcess],
        turn_by_s: float,
    ) -> None:
        """Have every worker load; what one could not is let go of by all. Notes whom it asked."""
        until_s = min(time.monotonic() + START_TIMEOUT_S, turn_by_s)
        try:
            for worker in self._workers:
                process = worker.running()
                if process is None:
                    raise _try_again(f"worker {worker.config.worker} is being started again")
                told = {
                    "services": [service.to_json() for service in services],
                    "plans": [plan.to_json() for plan in plans],
                }
                process.ask(number, {"prepare": number, **told})
                processes.append(process)
            for process in processes:
                process.hear_of(number, until_s)
        except BasculeError as error:
            # A worker that died or stood still over it is no worker that was away before.
            error.facts.setdefault("while_loading", len(processes) == len(self._workers))
            _abandon(number, processes)
            raise
        except BaseException:
            _abandon(number, processes)
            raise

    def _turn(
        self,
        number: int,
        services: ModelSpecs,
        plans: Plans,
        processes: Sequence[WorkerProcess],
        turn_by_s: float,
    ) -> None:
        with self._turning:
            try:
                if any(
                    worker.process is not process
                    for worker, process in zip(self._workers, processes, strict=True)
                ):
                    raise _try_again("a worker died meanwhile")
                _check_in_time(turn_by_s)
            except Unavailable:
                _abandon(number, processes)
                raise
            # From here on whoever is started again gets the new list, so nobody can be left behind.
            self.services, self.plans = services, plans
            for worker, process in zip(self._workers, processes, strict=True):
                worker.config = replace(worker.config, services=services, plans=plans)
                process.tell({"commit": number})
        until_s = time.monotonic() + _TURN_TIMEOUT_S
        for process in processes:
            with suppress(Unavailable):  # it died, and comes back with the new list
                process.hear_of(number, until_s)
        self._turned = services, plans

    def statuses(self) -> list[WorkerStatus]:
        """Every worker's process, as it stands."""
        return [
            WorkerStatus(
                worker=worker.config.worker,
                pid=worker.process.pid if worker.process else 0,
                alive=worker.running() is not None,
                restarts=worker.restarts,
            )
            for worker in self._workers
        ]

    def stop(self, drain_s: float | None = None) -> None:
        """Let the workers finish what is under way, then end them. Safe to call twice."""
        self._stopping.set()
        self._workers_answer.set()  # nothing waits any more
        self._wishing.shutdown(wait=False)
        if self._monitor.is_alive() and threading.current_thread() is not self._monitor:
            self._monitor.join()
        processes = [worker.process for worker in self._workers if worker.process]
        self._sockets.take_no_more()
        if self.control is not None:
            self.control.terminate()
        for process in processes:
            process.signal(signal.SIGTERM)
        self._sockets.close()
        until = time.monotonic() + (self.limits.drain_s if drain_s is None else drain_s) + 1.0
        for process in processes:
            if not process.wait(max(0.1, until - time.monotonic())):
                log.warning("worker process %d did not drain in time and is killed", process.pid)
                process.signal(signal.SIGKILL)
                process.wait(_TURN_TIMEOUT_S)
            process.close()
        if self.scribe is not None:
            self.scribe.stop()  # last: it takes in what the workers have left
        if self.control is not None:
            self.control.wait()
        self._spawning.shutdown()
        for file in self._shared:
            file.close()

    def _watch(self) -> None:
        watched_s, now_s = 0.0, time.monotonic()
        while not self._stopping.wait(_WATCH_EVERY_S):
            before_s, now_s = now_s, time.monotonic()
            # A stopped terminal job, for example: its workers stood still just as long.
            watched_s += min(now_s - before_s, _LONGEST_TURN_S)
            # No failure may end the thread: nothing would be replaced any more.
            if self.control is not None:
                try:
                    self.control.look_after(self._counters.control_beat(), watched_s)
                except Exception:
                    log.exception("the control process cannot be looked after")
            if self.scribe is not None:
                try:
                    self.scribe.look_after()
                except Exception:
                    log.exception("the scribe cannot be looked after")
            for worker in self._workers:
                try:
                    self._look_after(worker, watched_s)
                except Exception:
                    log.exception("worker %d cannot be looked after", worker.config.worker)

    def _look_after(self, worker: _Worker, watched_s: float) -> None:
        beat_ns = self._counters.beat_of(worker.config.worker)
        if worker.kill_silent(beat_ns, watched_s, self.limits.worker_silent_s):
            self._counters.count_silent_worker()
        # A turn may wait for a worker that stands still, which is killed here.
        if self._turning.acquire(timeout=_WATCH_EVERY_S):
            try:
                worker.look_after()
            finally:
                self._turning.release()


def _is_stopped(pid: int) -> bool:
    """Whether a signal, and no debugger, has stopped a process; false where there is no `/proc`.

    See proc_pid_stat(5): the state follows the command's name, which may hold any character.
    """
    try:
        content = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return content.rpartition(b") ")[2].startswith(b"T")


def _abandon(number: int, processes: Sequence[WorkerProcess]) -> None:
    for process in processes:
        process.tell({"abandon": number})


def _check_in_time(turn_by_s: float) -> None:
    if time.monotonic() > turn_by_s:
        raise _try_again("the change could not be made in time")


def _try_again(what: str) -> Unavailable:
    return Unavailable(f"{what}, and nothing was changed", hint="try again", retry_after_s=1)


def _shared_file(name: str) -> IO[bytes]:
    """A file in memory for what processes share; it is gone with the last of them.

    It lies in no file system, so none can be too full for it: a write to a mapped file ends the
    process where the file system has no block left.
    """
    return os.fdopen(os.memfd_create(name), "r+b", buffering=0)
