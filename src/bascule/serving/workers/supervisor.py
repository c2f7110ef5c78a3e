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

import ctypes
import itertools
import logging
import math
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from bascule.core import BasculeError, Conflict, Invalid, ModelFailed, Unavailable
from bascule.endpoints import Plan
from bascule.serving.execution import ResiliencePolicy
from bascule.serving.limits import Limits, allow_open_files
from bascule.serving.protocols import EVERY_PROTOCOL, ChosenProtocols
from bascule.serving.specs import (
    ModelSpec,
    ModelSpecs,
    Plans,
    check_absent,
    check_specs,
    check_unplanned,
    default_of,
    is_the_same,
    loaded,
    without,
)
from bascule.serving.telemetry import (
    FAILURES_ALONE,
    Counters,
    MetricLabels,
    RequestLogConfig,
    labels_of,
)
from bascule.serving.transports import BACKLOG, Tls
from bascule.serving.workers.channel import Message, WorkerProcess, error_from_json, error_to_json
from bascule.serving.workers.config import LedgerConfig, WorkerConfig
from bascule.serving.workers.control_child import Backoff, ControlChild, ControlCommand
from bascule.serving.workers.scribe_child import ScribeChild, ScribeCommand

log = logging.getLogger(__name__)

START_TIMEOUT_S = 120.0
_SO_ATTACH_FILTER = 26
_BPF_RETURN = 0x06
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
        listeners: tuple[socket.socket, ...],
        *,
        shared_fds: tuple[int, ...],
        on_load_request: Callable[[WorkerProcess, Message], None],
        spawning: ThreadPoolExecutor,
    ) -> None:
        self.config = config
        self._on_load_request = on_load_request
        self._spawning = spawning
        self.listeners = listeners
        self._inherited_fds = (*shared_fds, *(listener.fileno() for listener in listeners))
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

    def await_ready(self, wait_s: float) -> None:
        """Return when the worker answers; raises its own error if it cannot."""
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
        *,
        host: str,
        port: int,
        workers: int,
        limits: Limits,
        needs_keys: bool = False,
        control: ControlCommand | None = None,
        tls: Tls | None = None,
        unix_socket: Path | None = None,
        protocols: ChosenProtocols = EVERY_PROTOCOL,
        grpc_port: int | None = None,
        policies: Mapping[str, ResiliencePolicy] | None = None,
        request_log: RequestLogConfig = FAILURES_ALONE,
        find: FindModel | None = None,
        allowed_hosts: tuple[str, ...] = (),
        ledger: LedgerConfig | None = None,
        outcomes_home: Path | None = None,
        scribe: ScribeCommand | None = None,
    ) -> None:
        """Bind the ports at once, so that a port in use is known before anything is started.

        Args:
            host: A name or address of this machine.
            port: For predictions; 0 takes a free one.
            workers: How many processes share it.
            limits: The bounds of each.
            needs_keys: Whether callers need keys, which the control process provides.
            control: How the control process is started; None for none.
            tls: What connections to the port are encrypted with.
            unix_socket: A socket of the file system to listen on as well, not encrypted.
            protocols: The protocols to speak.
            grpc_port: For gRPC; None for none.
            policies: How models are treated that fail, by their names.
            request_log: What the request log records.
            find: Finds what callers of the workers want to have loaded; None where they may not.
            allowed_hosts: Names that are answered; see `transports.hosts`.
            ledger: What workers record of answers; None for nothing.
            outcomes_home: The home that keeps outcomes; None to take none.
            scribe: What starts the process that writes the ledger; None for no such process.

        Raises:
            Conflict: The port is in use.
            Invalid: The host cannot be resolved or may not be bound, or a file of `tls` is wrong.
        """
        self.services: ModelSpecs = ()
        self.plans: Plans = ()
        self.limits = limits
        allow_open_files(_FILES + workers * _FILES_PER_WORKER)
        if tls is not None:
            tls.context()  # said now rather than by a worker
        listeners: list[tuple[socket.socket, ...]] = [
            (listener,) for listener in bind(host, port, workers)
        ]
        self.host = host
        self.port: int = listeners[0][0].getsockname()[1]
        self.grpc_port: int | None = None
        if grpc_port is not None:
            try:
                more = bind(host, grpc_port, workers, option="--grpc-port")
            except BasculeError:
                for (listener,) in listeners:
                    listener.close()
                raise
            self.grpc_port = more[0].getsockname()[1]
            listeners = [(*pair, other) for pair, other in zip(listeners, more, strict=True)]
        self._unix_socket = unix_socket
        self._unix_listener = None if unix_socket is None else bind_unix(unix_socket)
        unix_fds = () if self._unix_listener is None else (self._unix_listener.fileno(),)
        self._shared = [_shared_file("bascule-counters"), _shared_file("bascule-keys")]
        counters_fd, keys_fd = (file.fileno() for file in self._shared)
        counters_path = Path(f"/dev/fd/{counters_fd}")
        self._counters = Counters(counters_path, workers)
        self.keys_file = Path(f"/dev/fd/{keys_fd}") if needs_keys else None
        self._spawning = ThreadPoolExecutor(1, "bascule-spawns")
        self._workers = [
            _Worker(
                WorkerConfig(
                    worker=number,
                    workers=workers,
                    listener_fd=own[0].fileno(),
                    grpc_fd=own[1].fileno() if len(own) > 1 else None,
                    counters=counters_path,
                    services=self.services,
                    limits=limits,
                    keys=self.keys_file,
                    tls=tls,
                    unix_fd=next(iter(unix_fds), None),
                    protocols=protocols,
                    policies=policies or {},
                    request_log=request_log,
                    multi_model=find is not None,
                    allowed_hosts=allowed_hosts,
                    control_port=None if control is None else control.listener.getsockname()[1],
                    ledger=ledger,
                    outcomes_home=outcomes_home,
                ),
                own,
                shared_fds=(counters_fd, keys_fd, *unix_fds),
                on_load_request=self._take_load_request,
                spawning=self._spawning,
            )
            for number, own in enumerate(listeners)
        ]
        self.control: ControlChild | None = None
        if control is not None:
            self._control_config = control.config | {
                "host": self.host, "port": self.port, "workers": workers,
                "counters_fd": counters_fd, "keys_fd": keys_fd if needs_keys else None,
                "listener_fd": control.listener.fileno(),
            }  # fmt: skip
            self.control = ControlChild(
                control, (counters_fd, keys_fd), self._answer_control, self._spawning,
                self._counters.count_control_restart,
            )  # fmt: skip
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
            self._name(self.services, plans)
            for worker in self._workers:
                worker.config = replace(worker.config, services=self.services, plans=plans)
                worker.start()
            for worker in self._workers:
                worker.await_ready(until - time.monotonic())
        except BaseException:
            self.stop(drain_s=0)
            raise
        if self.scribe is not None:
            self.scribe.start()
        self._monitor.start()
        self._workers_answer.set()

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
                return [service.to_json() for service in self.services]
            case "plans":
                return [plan.to_json() for plan in self.plans]
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
        listeners = [listener for worker in self._workers for listener in worker.listeners]
        for listener in listeners:
            _take_no_more(listener)
        if self._unix_socket is not None:
            self._unix_socket.unlink(missing_ok=True)  # nobody finds the way in any more
        if self.control is not None:
            self.control.terminate()
        for process in processes:
            process.signal(signal.SIGTERM)
        for listener in listeners:
            # The worker has the socket too, takes who has come already, and closes it.
            listener.close()
        if self._unix_listener is not None:
            self._unix_listener.close()
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


def _take_no_more(listener: socket.socket) -> None:
    """Have the kernel drop every attempt to connect from now on.

    Closing a listening socket resets whoever has connected and was not accepted, and with many
    clients there is always one. Those that are dropped try again within a second, find nobody
    there, and know that nothing of theirs was begun.
    """
    if sys.platform != "linux":
        return
    drop_all = ctypes.create_string_buffer(struct.pack("HBBI", _BPF_RETURN, 0, 0, 0))
    with suppress(OSError):
        listener.setsockopt(
            socket.SOL_SOCKET,
            _SO_ATTACH_FILTER,
            struct.pack("HP", 1, ctypes.addressof(drop_all)),
        )


def bind(host: str, port: int, count: int, *, option: str = "--port") -> list[socket.socket]:
    """`count` listening sockets on one port; port 0 takes a free one.

    Args:
        host: A name or address of this machine.
        port: The port.
        count: How many sockets share it.
        option: What chooses the port on the command line, for the hint.

    Raises:
        Conflict: Somebody listens there already, another server of the same user included:
            SO_REUSEPORT alone would share the port with it without a word.
        Invalid: The address cannot be bound.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        reason = getattr(error, "strerror", error)
        raise Invalid(f"host {host!r} cannot be resolved: {reason}") from None
    listeners: list[socket.socket] = []
    try:
        if port:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                probe.listen(1)
        for _ in range(count):
            listener = socket.socket(family, kind, protocol)
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
            listener.setblocking(False)
            address = listener.getsockname()
    except OSError as error:
        for listener in listeners:
            listener.close()
        if error.errno in (98, 48):
            raise Conflict(
                f"port {port} on {host} is in use",
                hint=f"stop what listens there, or choose another with {option} "
                "(0 takes a free one)",
                port=port,
            ) from None
        raise Invalid(f"cannot listen on {host}:{port}: {error.strerror}") from None
    return listeners


def bind_unix(path: Path) -> socket.socket:
    """A listening socket at a path of the file system, for the user and the group.

    Raises:
        Conflict: A server listens there.
        Invalid: The path cannot be bound, or something else is there.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(str(path)) == 0:
                    raise Conflict(
                        f"a server listens on {path}",
                        hint="stop it, or choose another with --unix-socket",
                    )
            path.unlink()  # of a server that was killed
        listener.bind(str(path))
        path.chmod(0o660)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise Invalid(f"cannot listen on {path}: {error.strerror or error}") from None
    except BasculeError:
        listener.close()
        raise
    return listener


def _shared_file(name: str) -> IO[bytes]:
    """A file in memory for what processes share; it is gone with the last of them.

    It lies in no file system, so none can be too full for it: a write to a mapped file ends the
    process where the file system has no block left.
    """
    return os.fdopen(os.memfd_create(name), "r+b", buffering=0)
