"""One worker process: loads the models, warms them up, and answers until it is to stop.

The supervisor starts it as `python -m bascule.serving.workers.worker` with a `WorkerConfig` on
standard input. Both ask each other over a socket pair (see `peer`):

| from | question | answered when |
|---|---|---|
| supervisor | `ready` | this worker answers requests, or cannot load |
| supervisor | `prepare`: `change`, `services`, `plans` | what is new in these lists is loaded and warm; nothing has changed yet |
| supervisor | `commit`: `change` | new requests are answered by it; the others finish where they are |
| supervisor | `abandon`: `change` | what was loaded for it is let go of |
| supervisor | `models` | at once, with how they are |
| worker | `load`: `model`, `place` | every worker serves it; a caller asks for it (`LoadRequests`) |
| worker | `unload`: `model` | no worker serves it |

The end of the socket is the order to stop. When the supervisor ends, the system kills its workers,
so that nothing is orphaned, not even a worker that hangs.

Imports here are what a worker's memory and start-up time are made of; keep them few.
"""  # noqa: E501 -- a table

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
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from bascule.bundle.disk import generates_text
from bascule.bundle.programs import HIDE_TEXTS, die_with
from bascule.core import BasculeError, ModelFailed, Unavailable, error_from_json
from bascule.endpoints import Plan
from bascule.serving.execution import (
    AdmissionQueue,
    BufferBudget,
    CallerFacts,
    Predictor,
    watch_loop,
)
from bascule.serving.protocols import (
    DataPlane,
    LoadRequests,
    Metrics,
    OutcomesRest,
    OutcomeWriter,
    open_protocols,
)
from bascule.serving.specs import ModelSpec
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
from bascule.serving.workers.config import LedgerConfig, WorkerConfig
from bascule.serving.workers.loaded_models import LoadedModels
from bascule.serving.workers.peer import Lines, Message, answer_with, line_of

if TYPE_CHECKING:
    from bascule.serving.protocols import ProtocolAdapter
    from bascule.serving.telemetry import LedgerRecorder
    from bascule.serving.transports import Http2Server

log = logging.getLogger(__name__)

_COLLECT_FROM = 10_000
"""How many more objects are alive before the collector looks for rings of references."""

_OTHER_FILES = 256
_RUNNING_EXIT = 4


Send = Callable[[Message], None]
"""Sends the supervisor a message."""


async def serve(config: WorkerConfig, end: socket.socket) -> bool:
    """Load, answer requests and the supervisor; returns when all under way has been answered.

    Returns whether a run is still under way, so that the process cannot end in order.
    """
    loop = asyncio.get_running_loop()
    worker = _Worker(config, partial(_send, end), loop)
    worker.load()
    listeners = worker.listeners()
    for each in listeners:
        await each.open(loop)
    loop.add_signal_handler(signal.SIGTERM, worker.stopping.set)
    sites = dict.fromkeys(each.site for each in listeners)
    worker.tick()
    watch_loop()
    every_second = [each.tick for each in sites] + [each.look for each in listeners]
    ticking = [loop.create_task(_every(1.0, worker.tick, *every_second))]
    if worker.guard is not None:
        look_at_rights = partial(check_rights, worker.backlog)
        looking = _every(LOOK_EVERY_S, worker.guard.look, look_at_rights)
        ticking.append(loop.create_task(looking))
    loop.add_reader(end.fileno(), worker.questions(end).read)  # the first: whether it is ready
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

    def __init__(self, config: WorkerConfig, send: Send, loop: asyncio.AbstractEventLoop) -> None:
        """Nothing is loaded yet, and nothing is listened to."""
        serving = config.serving
        self._config, self._send = config, send
        self._counters = Counters(config.counters, config.workers)
        self.stopping = asyncio.Event()
        self.guard = (
            None
            if config.keys is None
            else Authenticator(config.keys, held_ns=self._counters.keys_held_ns)
        )
        self._load_requests = LoadRequests(send) if config.multi_model else None
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
            policies=serving.policies, held=self._held, callers=self._callers(), **tester,
        )  # fmt: skip

    def _callers(self) -> CallerFacts | None:
        config, guard = self._config, self.guard
        if config.meters is None:
            return None
        # Imported here: a worker without policies need not have it in memory.
        from bascule.serving.execution import Meters

        meters = Meters(config.meters)
        name_of = str if guard is None else guard.name_of_id
        return CallerFacts(meters, config.control_port is not None, name_of, self._noise_key())

    def _noise_key(self) -> bytes:
        """Of the home, so that a row has the same noise after a restart."""
        serving = self._config.serving
        chains = serving.policies.values()
        if not any("answers" in chain and chain["answers"].noise for chain in chains):
            return b""
        from bascule.monitoring.ledger import hash_key

        try:
            return hash_key(serving.outcomes_home or Path())
        except OSError as error:
            raise Unavailable(
                f"the key of the noise in answers cannot be kept: {error}",
                hint="have the home writable, or set no noise",
            ) from None

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
        models = list(models)
        for model in models:
            if self._ledger is not None and generates_text(model.signature):
                self._ledger.keep_private(model.by.model)
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
        listeners = [Listener(config.listener_fd, site, partial(Connection, site), tls)]
        if config.unix_fd is not None:
            listeners.append(
                Listener(config.unix_fd, site, partial(Connection, site, is_local=True), None)
            )
        if config.grpc_fd is not None:
            hosts = _hosts_of(config, config.grpc_fd)
            grpc = _grpc_server(self._plane, self._outcomes, site, hosts)
            grpc.keep_headers(self._plane.asked_headers)
            self._keep_headers.append(grpc.keep_headers)
            listeners.append(Listener(config.grpc_fd, grpc, grpc.connect, tls, protocol="h2"))
        return listeners

    def questions(self, end: socket.socket) -> Questions:
        """Answers the supervisor."""
        return Questions(end, self.models, self._send, self.stopping.set, self._load_requests)

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
    """The recorder of a worker; None without a ledger, or where the home cannot be written."""
    if config is None:
        return None
    # Imported here: a worker that records nothing need not have it in memory.
    from bascule.monitoring.ledger import SpoolWriter, hash_key
    from bascule.serving.telemetry import LedgerRecorder

    try:
        spool = SpoolWriter(config.home)
        open_key = partial(hash_key, config.home)
        key = open_key() if "hash" in config.private.values() else b""
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
        open_key=open_key,
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


class Questions:
    """Answers what the supervisor asks, and passes its answers on."""

    def __init__(
        self,
        end: socket.socket,
        loaded_models: LoadedModels,
        send: Send,
        stop: Callable[[], None],
        load_requests: LoadRequests | None = None,
    ) -> None:
        self._end = end
        self._loaded_models = loaded_models
        self._send = send
        self._load_requests = load_requests
        self._stop = stop
        self._lines = Lines()
        self._tasks: set[asyncio.Task[None]] = set()

    def read(self) -> None:
        """Take what has come from the supervisor; its end is the order to stop."""
        piece = b""
        with suppress(ConnectionError):
            piece = self._end.recv(1 << 16)
        if not piece:
            asyncio.get_running_loop().remove_reader(self._end.fileno())
            self._stop()
        for message in self._lines.feed(piece):
            self._take(message)

    def _take(self, message: Message) -> None:
        match message:
            case {"ask": number, "what": "ready"}:
                self._answer(number, None)
            case {"ask": number, "what": "prepare"}:
                task = asyncio.get_running_loop().create_task(self._prepare(number, message))
                # The loop itself forgets a task that nothing else holds.
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case {"ask": number, "what": "commit", "change": change}:
                self._loaded_models.commit(change)
                self._answer(number, None)
            case {"ask": number, "what": "abandon", "change": change}:
                self._loaded_models.abandon(change)
                self._answer(number, None)
            case {"ask": number, "what": "models"}:
                self._answer(number, self._loaded_models.tell())
            case {"answer": number} if self._load_requests is not None:
                error = error_from_json(message) if "error" in message else None
                self._load_requests.settle(number, error)
            case _:
                log.error("the supervisor asks what is no question")

    def _answer(self, number: int, value: Any) -> None:
        self._send({"answer": number, "value": value})

    async def _prepare(self, number: int, message: Message) -> None:
        services = tuple(map(ModelSpec.from_json, message["services"]))
        plans = tuple(map(Plan.from_json, message["plans"]))
        try:
            self._answer(
                number, await self._loaded_models.prepare(message["change"], services, plans)
            )
        except Exception as problem:
            if not isinstance(problem, BasculeError):
                log.exception("a change failed")
                what = f"it could not be loaded: {type(problem).__name__}"
                problem = ModelFailed(what, hint="see the server's log")
            self._send(answer_with(number, problem))


async def _every(seconds: float, *calls: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(seconds)
        for call in calls:
            try:
                call()
            except Exception:
                # The clock must go on: every time-out hangs on it.
                log.exception("a tick failed")


def _send(end: socket.socket, message: Message) -> None:
    end.sendall(line_of(message))


def main() -> int:
    """Run one worker; the exit code is 0 after a drain, 3 if it could not start.

    It is 4 where a run has to be left, whose libraries would abort a process that ends in order.
    """
    supervisor_pid, descriptor = map(int, sys.argv[1:])
    die_with(supervisor_pid)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which a supervisor that stops ignores
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor to act on
    end = socket.socket(fileno=descriptor)
    config = WorkerConfig.from_json(json.load(sys.stdin))
    texts = config.serving.request_log.exception_texts
    start_logging(config.serving.request_log.form, worker=config.worker, exception_texts=texts)
    if not texts:
        os.environ[HIDE_TEXTS] = "1"
    limits = config.serving.limits.with_open_files(_OTHER_FILES)
    config = replace(config, serving=replace(config.serving, limits=limits))
    try:
        is_running = uvloop.run(serve(config, end))
    except BasculeError as error:
        question = json.loads(end.makefile("rb").readline())  # whether it is ready
        _send(end, answer_with(question["ask"], error))
        return 3
    if is_running:
        os._exit(_RUNNING_EXIT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
