"""Starts the workers of a server, keeps them alive, and stops them without losing a request.

The supervisor makes every listening socket (one per worker, SO_REUSEPORT, so that the kernel
spreads the connections) and keeps them open: while a worker that died is being replaced, its new
connections wait in the kernel and nobody is refused.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bascule.core.errors import BasculeError, Conflict, Invalid, Unavailable
from bascule.security.keys import Key
from bascule.serving.counters import Counters, Label, Totals
from bascule.serving.faces import EVERY_FACE, ChosenFaces
from bascule.serving.guard import KeysFile
from bascule.serving.limits import Limits
from bascule.serving.services import BACKLOG, Service, WorkerConfig, labels_of
from bascule.serving.tls import Tls

log = logging.getLogger(__name__)

START_TIMEOUT_S = 120.0
_SO_ATTACH_FILTER = 26
_BPF_RETURN = 0x06
_WATCH_EVERY_S = 0.05
_MAX_BACKOFF_S = 5.0
_HEALTHY_AFTER_S = 10.0


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker as the supervisor sees it; `alive`: it runs, and has said that it answers."""

    worker: int
    pid: int
    alive: bool
    restarts: int


class _Worker:
    """One worker's process and what is needed to start it again."""

    def __init__(
        self,
        config: WorkerConfig,
        listeners: tuple[socket.socket, ...],
        *,
        shared_fds: tuple[int, ...],
    ) -> None:
        self.config = config
        self.listeners = listeners
        self._inherited_fds = (*shared_fds, *(listener.fileno() for listener in listeners))
        self.process: subprocess.Popen[bytes] | None = None
        self.ready = False
        self.restarts = 0
        self._started_s = 0.0
        self._restart_at_s: float | None = None
        self._quick_deaths = 0

    def start(self) -> None:
        self.ready = False
        self._started_s = time.monotonic()
        self._restart_at_s = None
        process = subprocess.Popen(
            [sys.executable, "-m", "bascule.serving.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=self._inherited_fds,
            # One thread per program is what its cost was measured with.
            env={**os.environ, "OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"},
        )
        assert process.stdin is not None
        self.process = process
        with suppress(BrokenPipeError):  # it died already, which await_ready reports
            process.stdin.write(json.dumps(self.config.to_json()).encode() + b"\n")
            process.stdin.flush()

    def await_ready(self, wait_s: float) -> None:
        """Return when the worker answers; raises its own error if it cannot."""
        process = self.process
        assert process is not None
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], max(0.0, wait_s))
        if not readable:
            raise self._not_ready_in_time()
        line = process.stdout.readline()
        message = json.loads(line) if line else {"error": "it ended while starting"}
        if "error" in message:
            kind = _KINDS.get(message.get("kind", ""), Unavailable)
            raise kind(message["error"], hint=message.get("hint", "see its log above"))
        self.ready = True

    def look_after(self) -> None:
        """Start the process again once it has ended. Never waits: the others need looking after."""
        process = self.process
        assert process is not None
        now = time.monotonic()
        if process.poll() is None:
            if not self.ready:
                self._look_whether_ready(process, now)
        elif self._restart_at_s is None:
            self._restart_at_s = now + self._pause_s(process, now - self._started_s)
        elif now >= self._restart_at_s:
            self.close_pipes()
            self.restarts += 1
            self.start()

    def _look_whether_ready(self, process: subprocess.Popen[bytes], now: float) -> None:
        assert process.stdout is not None
        try:
            if select.select([process.stdout], [], [], 0)[0]:
                self.await_ready(0)
            elif now - self._started_s > START_TIMEOUT_S:
                process.kill()
                raise self._not_ready_in_time()
        except BasculeError as error:
            log.error("worker %d cannot start: %s", self.config.worker, error)  # noqa: TRY400 -- said in one line, by design

    def _pause_s(self, process: subprocess.Popen[bytes], lived_s: float) -> float:
        log.warning(
            "worker %d (process %d) ended with %s after %.1f s and is started again",
            self.config.worker, process.pid, process.returncode, lived_s,
        )  # fmt: skip
        # The first death is answered at once; a worker that keeps dying is given time.
        self._quick_deaths = 0 if lived_s > _HEALTHY_AFTER_S else self._quick_deaths + 1
        if self._quick_deaths <= 1:
            return 0.0
        return float(min(_MAX_BACKOFF_S, 0.1 * 2.0 ** min(self._quick_deaths, 10)))

    def _not_ready_in_time(self) -> Unavailable:
        return Unavailable(
            f"worker {self.config.worker} was not ready in {START_TIMEOUT_S:g} s",
            hint="see its log above; a large model may need more memory",
        )

    def close_pipes(self) -> None:
        process = self.process
        if process is not None:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):
                        pipe.close()


_KINDS = {kind.__name__: kind for kind in BasculeError.__subclasses__()}


class Supervisor:
    """The processes of one server."""

    def __init__(
        self,
        services: Sequence[Service],
        *,
        host: str,
        port: int,
        workers: int,
        limits: Limits,
        keys: Callable[[], Sequence[Key]] | None = None,
        tls: Tls | None = None,
        unix_socket: Path | None = None,
        faces: ChosenFaces = EVERY_FACE,
        grpc_port: int | None = None,
    ) -> None:
        """Bind the ports at once, so that a port in use is known before anything is started.

        Args:
            services: What to serve, the default version of a model before its others.
            host: A name or address of this machine.
            port: For predictions; 0 takes a free one.
            workers: How many processes share it.
            limits: The bounds of each.
            keys: Reads the keys of callers; None lets everybody in.
            tls: What connections to the port are encrypted with.
            unix_socket: A socket of the file system to listen on as well, not encrypted.
            faces: The protocols to speak.
            grpc_port: For gRPC; None for none.

        Raises:
            Conflict: The port is in use.
            Invalid: The host cannot be resolved or may not be bound, or a file of `tls` is wrong.
        """
        self.services = tuple(services)
        self.limits = limits
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
        self._keys = None if keys is None else KeysFile(_new_keys_file(), keys)
        # It has no name, so it is gone with the last process, however that ends.
        self._counters_file = tempfile.TemporaryFile(dir=_shared_memory())  # noqa: SIM115 -- stop() closes it
        counters_path = Path(f"/dev/fd/{self._counters_file.fileno()}")
        self.labels: list[Label] = labels_of(self.services)
        self._counters = Counters(counters_path, workers, len(self.labels))
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
                    keys=None if self._keys is None else self._keys.file,
                    tls=tls,
                    unix_fd=next(iter(unix_fds), None),
                    faces=faces,
                ),
                own,
                shared_fds=(self._counters_file.fileno(), *unix_fds),
            )
            for number, own in enumerate(listeners)
        ]
        self._stopping = threading.Event()
        self._monitor = threading.Thread(target=self._watch, name="bascule-monitor", daemon=True)

    def start(self) -> None:
        """Start every worker and return when all of them answer; raises what kept one from it."""
        until = time.monotonic() + START_TIMEOUT_S
        try:
            if self._keys is not None:
                self._keys.start()
            for worker in self._workers:
                worker.start()
            for worker in self._workers:
                worker.await_ready(until - time.monotonic())
        except BaseException:
            self.stop(drain_s=0)
            raise
        self._monitor.start()

    @property
    def keys_file(self) -> Path | None:
        """Where the keys of callers are while it runs; None where callers need none."""
        return None if self._keys is None else self._keys.file

    def totals(self) -> list[Totals]:
        """What all workers have counted, in the order of `labels`."""
        return self._counters.totals()

    def statuses(self) -> list[WorkerStatus]:
        """Every worker's process, as it stands."""
        return [
            WorkerStatus(
                worker=worker.config.worker,
                pid=worker.process.pid if worker.process else 0,
                alive=worker.ready and worker.process is not None and worker.process.poll() is None,
                restarts=worker.restarts,
            )
            for worker in self._workers
        ]

    def stop(self, drain_s: float | None = None) -> None:
        """Let the workers finish what is under way, then end them. Safe to call twice."""
        self._stopping.set()
        if self._monitor.is_alive() and threading.current_thread() is not self._monitor:
            self._monitor.join()
        processes = [worker.process for worker in self._workers if worker.process]
        listeners = [listener for worker in self._workers for listener in worker.listeners]
        for listener in listeners:
            _take_no_more(listener)
        if self._unix_socket is not None:
            self._unix_socket.unlink(missing_ok=True)  # nobody finds the way in any more
        for process in processes:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for listener in listeners:
            # The worker has the socket too, takes who has come already, and closes it.
            listener.close()
        if self._unix_listener is not None:
            self._unix_listener.close()
        until = time.monotonic() + (self.limits.drain_s if drain_s is None else drain_s) + 1.0
        for process in processes:
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("worker process %d did not drain in time and is killed", process.pid)
                process.kill()
                process.wait()
        for worker in self._workers:
            worker.close_pipes()
        self._counters_file.close()
        if self._keys is not None:
            self._keys.stop()

    def _watch(self) -> None:
        while not self._stopping.wait(_WATCH_EVERY_S):
            for worker in self._workers:
                worker.look_after()


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
    except socket.gaierror as error:
        raise Invalid(f"host {host!r} cannot be resolved: {error.strerror}") from None
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


def _new_keys_file() -> Path:
    return Path(tempfile.mkdtemp(prefix="bascule-", dir=_shared_memory())) / "keys.json"


def _shared_memory() -> str | None:
    """A folder in memory for what processes share, where the system has one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
