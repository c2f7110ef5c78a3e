"""One worker process: loads the models, warms them up, and answers until it is told to stop.

The supervisor starts it as `python -m bascule.serving.worker` and speaks to it in two lines: the
worker's configuration comes as one JSON line on standard input, and `{"ready": true}`, or an
error, goes as one JSON line to standard output. Whatever else prints there, a model's own code for
example, prints to standard error. Standard input stays open: when it ends, the supervisor is gone,
and the worker drains and leaves, so that nothing is orphaned.

Imports here are what a worker's memory and start-up time are made of; keep them few.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import uvloop

from bascule.bundle.calibration import read_calibration
from bascule.bundle.format import EXAMPLE, Manifest, open_program, read_file, read_manifest
from bascule.bundle.programs import runnable
from bascule.core.errors import BasculeError
from bascule.core.fields import Columns
from bascule.core.programs import Program
from bascule.serving.counters import Counters, Label, Slot, prometheus_text
from bascule.serving.engine import measure_pace
from bascule.serving.http import Connection, Exchange, Site
from bascule.serving.limits import Limits
from bascule.serving.models import ServedModel
from bascule.serving.plane import Plane
from bascule.serving.protocols import open_faces
from bascule.serving.protocols.oip_json import Decoder
from bascule.serving.routes import Route
from bascule.serving.services import BACKLOG, Service, WorkerConfig, labels_of

log = logging.getLogger(__name__)

_OTHER_FILES = 256
_METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


Report = Callable[[dict[str, Any]], None]
"""Tells the supervisor."""


async def serve(config: WorkerConfig, report: Report) -> None:
    """Load, report ready, answer; returns when everything under way has been answered."""
    loop = asyncio.get_running_loop()
    labels = labels_of(config.services)
    counters = Counters(config.counters, config.workers, len(labels))
    other_slot, *slots = counters.slots(config.worker)
    models = [
        load_model(service, config.limits, slot, loop)
        for service, slot in zip(config.services, slots, strict=True)
    ]
    stopping = asyncio.Event()
    plane = Plane([Metrics(counters, labels), *open_faces()], lambda: not stopping.is_set())
    site = Site(plane.serve(models), plane.not_found, config.limits, other_slot)
    # What was loaded stays: the collector need not look through it ever again.
    gc.collect()
    gc.freeze()
    listener = socket.socket(fileno=config.listener_fd)
    # The loop listens again, with a hundred places if it is not told otherwise.
    server = await loop.create_server(lambda: Connection(site), sock=listener, backlog=BACKLOG)
    ports = [_Port(listener, server, lambda: Connection(site), site)]
    if config.grpc_fd is not None:
        ports.append(await _open_grpc(config, plane, other_slot))
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    loop.add_reader(sys.stdin.fileno(), _watch_supervisor, stopping)
    ticking = loop.create_task(_tick([port.site for port in ports]))
    report({"ready": True})
    await stopping.wait()
    for port in ports:
        port.site.draining = True
        await _accept_the_last(port, loop)
        port.server.close()
    await asyncio.gather(*(port.site.drain() for port in ports))
    ticking.cancel()


class _Site(Protocol):
    """What the connections of one port share."""

    draining: bool

    def tick(self) -> None: ...

    async def drain(self) -> None: ...


class _Port(NamedTuple):
    listener: socket.socket
    server: asyncio.AbstractServer
    connect: Callable[[], asyncio.Protocol]
    site: _Site


async def _open_grpc(config: WorkerConfig, plane: Plane, other_slot: Slot) -> _Port:
    # Imported here: a worker that speaks no gRPC need not have it in memory.
    from bascule.serving.protocols.grpc_methods import grpc_methods
    from bascule.serving.transports.http2 import Http2Server

    site = Http2Server(grpc_methods(plane), config.limits, other_slot)
    listener = socket.socket(fileno=config.grpc_fd)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(site.connect, sock=listener, backlog=BACKLOG)
    return _Port(listener, server, site.connect, site)


def load_model(
    service: Service, limits: Limits, slot: Slot, loop: asyncio.AbstractEventLoop
) -> ServedModel:
    """Verify and open a bundle, run its example rows, and measure its pace."""
    manifest = read_manifest(service.path)
    program = open_program(service.path, manifest, threads=1, isolated=True)
    entry = manifest.program(program.name)
    for lacking in {entry.name for entry in manifest.programs} - {*runnable(manifest.programs)}:
        log.warning(
            "%s/%s: its program %s cannot run here; pip install 'bascule[%s]'",
            service.model,
            service.version,
            lacking,
            lacking,
        )
    example = _example(service.path, manifest, program, limits)
    pace = measure_pace(program, example, limits)
    if getattr(program, "may_block", False):
        pace = replace(pace, inline_rows=0)
    return ServedModel(
        service,
        signature=manifest.signature,
        program=program,
        digest=manifest.digest,
        batch_invariant=entry is not None and entry.batch_invariant,
        pace=pace,
        slot=slot,
        limits=limits,
        loop=loop,
        calibration=read_calibration(service.path, manifest),
    )


def _example(path: Path, manifest: Manifest, program: Program, limits: Limits) -> Columns:
    decode = Decoder().for_fields(
        manifest.signature.inputs, program.inputs, manifest.signature.outputs, limits.max_rows
    )
    _, call = decode(read_file(path, manifest, EXAMPLE))
    return call.columns


class Metrics:
    """The face that tells the counters; see `serving.plane.Face`."""

    def __init__(self, counters: Counters, labels: list[Label]) -> None:
        self._counters = counters
        self._labels = labels

    def server_routes(self, plane: Plane) -> Iterator[Route]:  # noqa: ARG002 -- a face's signature
        """One path."""
        yield Route(b"GET", b"/metrics", self._tell, "metrics")

    def model_routes(self, plane: Plane, model: ServedModel) -> Iterator[Route]:  # noqa: ARG002
        """None: the counters of all models are told together."""
        yield from ()

    def not_found(self, plane: Plane, path: bytes) -> BasculeError | None:  # noqa: ARG002
        """Nothing is below its path."""
        return None

    def _tell(self, exchange: Exchange) -> None:
        text = prometheus_text(self._labels, self._counters.totals())
        exchange.answer(text.encode(), content_type=_METRICS_TYPE)


async def _tick(sites: Sequence[_Site]) -> None:
    while True:
        await asyncio.sleep(1.0)
        for site in sites:
            try:
                site.tick()
            except Exception:
                # The clock must go on: every time-out hangs on it.
                log.exception("a tick failed")


def _watch_supervisor(stopping: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        stopping.set()


async def _accept_the_last(port: _Port, loop: asyncio.AbstractEventLoop) -> None:
    """Take the connections that the kernel has accepted for us: closing would reset them."""
    await asyncio.sleep(0)
    while True:
        try:
            accepted, _ = port.listener.accept()
        except (BlockingIOError, OSError):
            return
        await loop.connect_accepted_socket(port.connect, accepted)


def _allow_open_files(count: int) -> None:
    """Raise the soft limit: it is 1,024 nearly everywhere, for programs of another age."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        most = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _reporter() -> Report:
    """Keeps standard output for reports, and turns it into standard error for everybody else."""
    output = os.dup(1)
    os.dup2(2, 1)

    def report(message: dict[str, Any]) -> None:
        os.write(output, json.dumps(message).encode() + b"\n")

    return report


def main() -> int:
    """Run one worker; the exit code is 0 after a drain, 3 if it could not start."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
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
    ports = 1 if config.grpc_fd is None else 2
    _allow_open_files(ports * config.limits.max_connections + _OTHER_FILES)
    try:
        uvloop.run(serve(config, report))
    except BasculeError as error:
        report({"error": error.message, "hint": error.hint, "kind": type(error).__name__})
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
