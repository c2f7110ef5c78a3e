"""One worker process: loads the models, warms them up, and answers until it is told to stop.

The supervisor starts it as `python -m bascule.serving.workers.worker` and sends lines of JSON
(see `channel`), which come on standard input and go to standard output. Whatever else prints there,
a model's own code for example, prints to standard error. When the supervisor ends, the system kills
its workers, so that nothing is orphaned, not even a worker that hangs.

Imports here are what a worker's memory and start-up time are made of; keep them few.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import uvloop

from bascule.bundle.programs import HIDE_TEXTS, die_with
from bascule.core import BasculeError, ModelFailed, error_from_json, error_to_json
from bascule.endpoints import Plan
from bascule.serving.execution import AdmissionQueue, BufferBudget, Predictor, watch_loop
from bascule.serving.protocols import (
    DataPlane,
    LoadRequests,
    Metrics,
    OutcomesRest,
    OutcomeWriter,
    open_protocols,
)
from bascule.serving.specs import ModelSpec, ModelSpecs, Plans
from bascule.serving.telemetry import (
    RECORDER_VARIABLE,
    Counters,
    RequestLog,
    RequestLogConfig,
    open_recorder,
    start_logging,
)
from bascule.serving.transports import (
    LOOK_EVERY_S,
    Authenticator,
    Connection,
    HostPolicy,
    Listener,
    Site,
    check_rights,
    policy_of,
)
from bascule.serving.workers.channel import Lines, Message
from bascule.serving.workers.config import LedgerConfig, WorkerConfig
from bascule.serving.workers.loaded_models import LoadedModels

if TYPE_CHECKING:
    from bascule.serving.protocols import ProtocolAdapter
    from bascule.serving.telemetry import LedgerRecorder
    from bascule.serving.transports import Http2Server

log = logging.getLogger(__name__)

_COLLECT_FROM = 10_000
"""How many more objects are alive before the collector looks for rings of references."""

_OTHER_FILES = 256
_RUNNING_EXIT = 4


Report = Callable[[dict[str, Any]], None]
"""Tells the supervisor."""


async def serve(config: WorkerConfig, report: Report) -> bool:
    """Load, report ready, answer; returns when everything under way has been answered.

    Returns whether a run is still under way, so that the process cannot end in order.
    """
    loop = asyncio.get_running_loop()
    worker = _Worker(config, report, loop)
    worker.load()
    listeners = worker.listeners()
    for each in listeners:
        await each.open(loop)
    loop.add_signal_handler(signal.SIGTERM, worker.stopping.set)
    loop.add_reader(sys.stdin.fileno(), worker.commands().read)
    sites = {id(each.site): each.site for each in listeners}.values()
    worker.tick()
    watch_loop()
    every_second = [each.tick for each in sites] + [each.look for each in listeners]
    ticking = [loop.create_task(_every(1.0, worker.tick, *every_second))]
    if worker.guard is not None:
        look_at_rights = partial(check_rights, worker.backlog)
        looking = _every(LOOK_EVERY_S, worker.guard.look, look_at_rights)
        ticking.append(loop.create_task(looking))
    report({"ready": True})
    await worker.stopping.wait()
    for site in sites:
        site.draining = True
    await asyncio.gather(*(each.close(loop) for each in listeners))
    await asyncio.gather(*(site.drain() for site in sites))
    for task in ticking:
        task.cancel()
    worker.close()
    return worker.models.is_stuck or worker.models.is_running()


class _Worker:
    """What one worker is made of. On the event loop only."""

    def __init__(
        self, config: WorkerConfig, report: Report, loop: asyncio.AbstractEventLoop
    ) -> None:
        """Nothing is loaded yet, and nothing is listened to."""
        serving = config.serving
        self._config, self._report = config, report
        self._counters = Counters(config.counters, config.workers)
        self.stopping = asyncio.Event()
        self.guard = (
            None
            if config.keys is None
            else Authenticator(config.keys, held_ns=self._counters.keys_held_ns)
        )
        self._load_requests = LoadRequests(report) if config.multi_model else None
        self._outcomes = (
            None if serving.outcomes_home is None else OutcomeWriter(serving.outcomes_home)
        )
        self._plane = self._data_plane()
        self._request_log = _open_request_log(serving.request_log, config.worker)
        self._ledger = _open_ledger(serving.ledger)
        self._held = BufferBudget(serving.limits.max_held_bytes)
        self.backlog = AdmissionQueue(serving.limits.max_body_bytes)
        self._site = Site(
            {}, self._plane.not_found, serving.limits, self._counters.series(config.worker),
            guard=self.guard, request_log=self._request_log,
            recorder=self._ledger or open_recorder(os.environ.get(RECORDER_VARIABLE, "")),
            backlog=self.backlog, held=self._held,
            hosts=_hosts_of(config, config.listener_fd),
        )  # fmt: skip
        self._keep_headers: list[Callable[[frozenset[bytes]], None]] = []
        tester = {} if self.guard is None else {"check_tester": partial(_check_tester, self.guard)}
        self.models = LoadedModels(
            self._counters, config.worker, serving.limits, loop, self._take,
            policies=serving.policies, held=self._held, **tester,
        )  # fmt: skip

    def _data_plane(self) -> DataPlane:
        guard, stopping = self.guard, self.stopping
        protocols: list[ProtocolAdapter] = [Metrics(self._counters)]
        protocols += [] if self._outcomes is None else [OutcomesRest(self._outcomes)]
        protocols += open_protocols(self._config.serving.protocols, self._load_requests)
        return DataPlane(
            protocols,
            lambda: not stopping.is_set() and (guard is None or guard.is_open),
            control_port=self._config.control_port,
            asks_for_keys=guard is not None,
        )

    def _take(self, models: Iterable[Predictor]) -> None:
        """Serve these from now on."""
        self._site.serve(self._plane.serve(models), self._plane.asked_headers)
        for keep_headers in self._keep_headers:
            keep_headers(self._plane.asked_headers)

    def load(self) -> None:
        """Load the first list of models; what cannot be loaded is raised."""
        self.models.start(self._config.services, self._config.plans)
        # What was loaded stays: the collector need not look through it ever again.
        gc.collect()
        gc.freeze()
        # Requests leave no rings of references, but many are alive at once. With the default of 700
        # objects the collector looks at them every few dozen requests, for a tenth of their cost.
        gc.set_threshold(_COLLECT_FROM)

    def listeners(self) -> list[Listener]:
        """The listeners of all ports, not open yet."""
        config, site, tls = self._config, self._site, self._config.serving.tls
        made = [Listener(config.listener_fd, site, partial(Connection, site), tls)]
        if config.unix_fd is not None:
            made.append(
                Listener(config.unix_fd, site, partial(Connection, site, is_local=True), None)
            )
        if config.grpc_fd is not None:
            hosts = _hosts_of(config, config.grpc_fd)
            grpc = _grpc_server(self._plane, self._outcomes, site, hosts)
            grpc.keep_headers(self._plane.asked_headers)
            self._keep_headers.append(grpc.keep_headers)
            made.append(Listener(config.grpc_fd, grpc, grpc.connect, tls, protocol="h2"))
        return made

    def commands(self) -> Commands:
        """Reads what the supervisor says."""
        return Commands(self.models, self._report, self.stopping.set, self._load_requests)

    def tick(self) -> None:
        """Once a second: beat, look after the models, and write what the ledger keeps."""
        worker = self._config.worker
        self._counters.beat(worker)
        self.models.tick()
        if self._ledger is not None:
            self._ledger.tick()
            self._counters.count_ledger(worker, *self._ledger.new_figures())
        if self.models.is_stuck:
            log.error("a model is stuck: the worker leaves, to be started again")
            self.stopping.set()

    def close(self) -> None:
        """Write what waits in log, ledger and spool of outcomes."""
        self._request_log.close()
        if self._ledger is not None:
            self._ledger.close()
        if self._outcomes is not None:
            self._outcomes.close()


def _check_tester(guard: Authenticator, caller: str, endpoint: str) -> None:
    guard.check_id(caller, "test", endpoint)


def _open_ledger(config: LedgerConfig | None) -> LedgerRecorder | None:
    """The recorder of a worker; None where none is wanted, or the home cannot be written."""
    if config is None:
        return None
    # Imported here: a worker that records nothing need not have it in memory.
    from bascule.monitoring.ledger import SpoolWriter, hash_key
    from bascule.serving.telemetry import LedgerRecorder

    try:
        spool = SpoolWriter(config.home)
        key = hash_key(config.home) if "hash" in config.private.values() else b""
    except OSError as error:
        log.warning("no answer is recorded: %s cannot be written: %s", config.home, error)
        return None
    return LedgerRecorder(
        spool,
        keep=config.keep,
        max_rows_per_s=config.max_rows_per_s,
        max_values_per_row=config.max_values_per_row,
        private=config.private,
        key=key,
        is_anonymous=config.is_anonymous,
    )


def _open_request_log(config: RequestLogConfig, worker: int) -> RequestLog:
    """The request log of a worker.

    Raises:
        MissingExtra: Spans are to be sent, and OpenTelemetry is not installed.
    """
    if not config.trace_endpoint:
        return RequestLog(config, worker)
    # Imported here: a worker that sends no spans need not have it in memory.
    from bascule.serving.telemetry import OtlpSpans

    return RequestLog(config, worker, OtlpSpans(config.trace_endpoint))


def _hosts_of(config: WorkerConfig, listener_fd: int) -> HostPolicy | None:
    with socket.socket(fileno=os.dup(listener_fd)) as listener:
        return policy_of(
            listener, config.serving.allowed_hosts, asks_for_keys=config.keys is not None
        )


def _grpc_server(
    plane: DataPlane, outcomes: OutcomeWriter | None, beside: Site, hosts: HostPolicy | None
) -> Http2Server:
    """The server of gRPC, which shares what the HTTP site `beside` it bounds and tells."""
    # Imported here: a worker that speaks no gRPC need not have it in memory.
    from bascule.serving.protocols import grpc_methods
    from bascule.serving.transports import Http2Server

    return Http2Server(
        grpc_methods(plane, outcomes), beside.limits, beside.other_series,
        guard=beside.guard, request_log=beside.request_log, recorder=beside.recorder,
        backlog=beside.backlog, held=beside.held, hosts=hosts,
    )  # fmt: skip


class Commands:
    """Does what the supervisor says, and tells it what became of that."""

    def __init__(
        self,
        loaded_models: LoadedModels,
        report: Report,
        stop: Callable[[], None],
        wishes: LoadRequests | None = None,
    ) -> None:
        self._loaded_models = loaded_models
        self._report = report
        self._wishes = wishes
        self._stop = stop
        self._lines = Lines()
        self._tasks: set[asyncio.Task[None]] = set()

    def read(self) -> None:
        """Take what has come from the supervisor; its end is the order to stop."""
        piece = os.read(sys.stdin.fileno(), 1 << 16)
        if not piece:
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            self._stop()
        for message in self._lines.feed(piece):
            self._do(message)

    def _do(self, message: Message) -> None:
        match message:
            case {"prepare": number, "services": services, "plans": plans}:
                told = tuple(map(ModelSpec.from_json, services)), tuple(map(Plan.from_json, plans))
                task = asyncio.get_running_loop().create_task(self._prepare(number, *told))
                # The loop itself forgets a task that nobody holds.
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case {"commit": number}:
                self._loaded_models.commit(number)
                self._report({"committed": number})
            case {"abandon": number}:
                self._loaded_models.abandon(number)
            case {"tell": number}:
                self._report({"told": number, "models": self._loaded_models.tell()})
            case {"granted": number} if self._wishes is not None:
                self._wishes.settle(number, None)
            case {"refused": number} if self._wishes is not None:
                self._wishes.settle(number, error_from_json(message))
            case _:
                log.error("the supervisor said what is no order")

    async def _prepare(self, number: int, services: ModelSpecs, plans: Plans) -> None:
        try:
            if await self._loaded_models.prepare(number, services, plans):
                self._report({"prepared": number})
        except BasculeError as error:
            self._report({"failed": number, **error_to_json(error)})
        except Exception as error:
            log.exception("a change failed")
            what = f"it could not be loaded: {type(error).__name__}"
            bug = ModelFailed(what, hint="see the server's log")
            self._report({"failed": number, **error_to_json(bug)})


async def _every(seconds: float, *calls: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(seconds)
        for call in calls:
            try:
                call()
            except Exception:
                # The clock must go on: every time-out hangs on it.
                log.exception("a tick failed")


def _reporter() -> Report:
    """Keeps standard output for reports, and turns it into standard error for everybody else."""
    output = os.dup(1)
    os.dup2(2, 1)

    def report(message: dict[str, Any]) -> None:
        os.write(output, json.dumps(message).encode() + b"\n")

    return report


def main() -> int:
    """Run one worker; the exit code is 0 after a drain, 3 if it could not start.

    It is 4 where a run has to be left, whose libraries would abort a process that ends in order.
    """
    die_with(int(sys.argv[1]))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which a supervisor that stops ignores
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor to act on
    report = _reporter()
    # Read without buffering: the loop watches the same descriptor for its end.
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 1 << 16)
        if not piece:
            return 3
        line += piece
    config = WorkerConfig.from_json(json.loads(line))
    texts = config.serving.request_log.exception_texts
    start_logging(config.serving.request_log.form, worker=config.worker, exception_texts=texts)
    if not texts:
        os.environ[HIDE_TEXTS] = "1"
    limits = config.serving.limits.with_open_files(_OTHER_FILES)
    config = replace(config, serving=replace(config.serving, limits=limits))
    try:
        is_running = uvloop.run(serve(config, report))
    except BasculeError as error:
        report(error_to_json(error))
        return 3
    if is_running:
        os._exit(_RUNNING_EXIT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
