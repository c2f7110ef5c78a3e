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
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import uvloop

from bascule.bundle.calibration import read_calibration
from bascule.bundle.format import EXAMPLE, Manifest, open_program, read_file, read_manifest
from bascule.bundle.programs import runnable
from bascule.core.errors import BasculeError
from bascule.core.fields import Columns
from bascule.core.programs import Program
from bascule.serving.counters import Counters, Label, Slot, prometheus_text
from bascule.serving.engine import measure_pace
from bascule.serving.guard import LOOK_EVERY_S, Guard
from bascule.serving.http import Connection, Exchange, Site
from bascule.serving.limits import Limits
from bascule.serving.models import ServedModel
from bascule.serving.plane import Plane
from bascule.serving.protocols import open_faces
from bascule.serving.protocols.oip_json import Decoder
from bascule.serving.routes import Route
from bascule.serving.services import BACKLOG, Service, WorkerConfig, labels_of
from bascule.serving.tls import Tls

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
    faces = [Metrics(counters, labels), *open_faces(config.faces)]
    plane = Plane(faces, lambda: not stopping.is_set())
    guard = None if config.keys is None else Guard(config.keys)
    site = Site(plane.serve(models), plane.not_found, config.limits, other_slot, guard=guard)
    # What was loaded stays: the collector need not look through it ever again.
    gc.collect()
    gc.freeze()
    doors = [_Door(config.listener_fd, site, partial(Connection, site), config.tls)]
    if config.unix_fd is not None:
        doors.append(_Door(config.unix_fd, site, partial(Connection, site), None))
    if config.grpc_fd is not None:
        doors.append(_grpc_door(config, plane, other_slot, guard))
    sites = {id(door.site): door.site for door in doors}.values()
    for door in doors:
        await door.open(loop)
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    loop.add_reader(sys.stdin.fileno(), _watch_supervisor, stopping)
    ticking = [
        loop.create_task(
            _every(1.0, *(site.tick for site in sites), *(door.look for door in doors))
        )
    ]
    if guard is not None:
        ticking.append(loop.create_task(_every(LOOK_EVERY_S, guard.look)))
    report({"ready": True})
    await stopping.wait()
    for site_of_door in sites:
        site_of_door.draining = True
    for door in doors:
        await door.close(loop)
    await asyncio.gather(*(each.drain() for each in sites))
    for task in ticking:
        task.cancel()


class _Site(Protocol):
    """What the connections of one protocol share."""

    draining: bool

    def tick(self) -> None: ...

    async def drain(self) -> None: ...


class _Door:
    """A listening socket: what comes through it, and how it is encrypted."""

    def __init__(
        self,
        listener_fd: int,
        site: _Site,
        connect: Callable[[], asyncio.Protocol],
        tls: Tls | None,
        *,
        protocol: str = "http/1.1",
    ) -> None:
        self.site = site
        self._listener = socket.socket(fileno=listener_fd)
        self._connect = connect
        self._tls = tls
        self._context = None if tls is None else tls.context(protocol)
        self._loaded_ns = 0 if tls is None else tls.changed_at_ns()

    async def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Accept connections."""
        # The loop listens again, with a hundred places if it is not told otherwise.
        if self._listener.family == socket.AF_UNIX:
            self._server = await loop.create_unix_server(
                self._connect, sock=self._listener, backlog=BACKLOG
            )
        else:
            self._server = await loop.create_server(
                self._connect, sock=self._listener, backlog=BACKLOG, ssl=self._context
            )

    async def close(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the connections that the kernel has accepted for us, and then no more.

        Closing at once would reset them.
        """
        await asyncio.sleep(0)
        while True:
            try:
                accepted, _ = self._listener.accept()
            except (BlockingIOError, OSError):
                break
            await loop.connect_accepted_socket(self._connect, accepted, ssl=self._context)
        self._server.close()

    def look(self) -> None:
        """Take up a certificate that was renewed; connections that are open keep theirs."""
        if self._tls is None or self._context is None:
            return
        changed_ns = self._tls.changed_at_ns()
        if changed_ns not in (0, self._loaded_ns):
            self._tls.load(self._context)
            self._loaded_ns = changed_ns
            log.info("the certificate was read again")


def _grpc_door(config: WorkerConfig, plane: Plane, other_slot: Slot, guard: Guard | None) -> _Door:
    # Imported here: a worker that speaks no gRPC need not have it in memory.
    from bascule.serving.protocols.grpc_methods import grpc_methods
    from bascule.serving.transports.http2 import Http2Server

    assert config.grpc_fd is not None
    site = Http2Server(grpc_methods(plane), config.limits, other_slot, guard=guard)
    return _Door(config.grpc_fd, site, site.connect, config.tls, protocol="h2")


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
        example=example,
    )


def _example(path: Path, manifest: Manifest, program: Program, limits: Limits) -> Columns:
    decode = Decoder().for_fields(
        manifest.signature.inputs, program.inputs, manifest.signature.outputs, limits.max_rows
    )
    _, call, _ = decode(read_file(path, manifest, EXAMPLE))
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


async def _every(seconds: float, *calls: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(seconds)
        for call in calls:
            try:
                call()
            except Exception:
                # The clock must go on: every time-out hangs on it.
                log.exception("a tick failed")


def _watch_supervisor(stopping: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        stopping.set()


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
