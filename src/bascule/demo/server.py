"""`bascule serve` as a process of its own, as a user starts it, with a home that is the demo's."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from bascule.core import Unavailable, await_end

_READY_WITHIN_S = 30.0
_STOP_WITHIN_S = 15.0
_POLL_S = 0.02


@dataclass(slots=True)
class Server:
    """A running server.

    Attributes:
        process: Its first process; it leads a session of its own, so a Ctrl-C here is not its.
        port: Where it answers predictions.
        control_port: Where it answers everything else.
        ready_after_s: How long it took until it was ready.
        log: The file that it writes to.
    """

    process: subprocess.Popen[bytes]
    port: int
    control_port: int
    log: Path
    ready_after_s: float = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def control_url(self) -> str:
        return f"http://127.0.0.1:{self.control_port}"

    def cpu_seconds(self) -> float:
        """Processor time of all its processes so far."""
        first = psutil.Process(self.process.pid)
        times = [process.cpu_times() for process in [first, *first.children(recursive=True)]]
        return sum(time.user + time.system for time in times)

    def stop(self) -> None:
        """Ask it to drain and end; make it end when it does not."""
        family = psutil.Process(self.process.pid).children(recursive=True) if self._runs() else []
        self.process.terminate()
        await_end(self.process, _STOP_WITHIN_S)
        for orphan in family:
            if orphan.is_running():  # the same process still, not another one with its number
                orphan.kill()

    def _runs(self) -> bool:
        return self.process.poll() is None


def start(reference: str, *, home: Path, folder: Path, records: bool = False) -> Server:
    """Start a server for `reference` of the registry in `home`, and wait until it is ready.

    With `records` the ledger has every answer.

    Raises:
        Unavailable: It ended, or was not ready in time; the message holds its last words.
    """
    port, control_port = _free_ports()
    log = folder / "server.log"
    command = [str(Path(sys.executable).with_name("bascule")), "serve", reference]
    command += [f"--port={port}", f"--control-port={control_port}", "--workers=1"]
    # The user's own settings are none of the demo's business: neither variables nor bascule.toml.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("BASCULE_")}
    environment["BASCULE_HOME"] = str(home)
    if records:
        environment |= {
            "BASCULE_MONITORING__LEDGER": "on",
            "BASCULE_MONITORING__MAX_ROWS_PER_S": "1000000",
        }
    clock = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(process, port, control_port, log)
    try:
        _await_ready(server, clock + _READY_WITHIN_S)
    except BaseException:
        server.stop()
        raise
    server.ready_after_s = time.perf_counter() - clock
    return server


def _await_ready(server: Server, until: float) -> None:
    while time.perf_counter() < until:
        if server.process.poll() is not None:
            raise Unavailable(f"the server ended: {_last_words(server)}", hint=f"see {server.log}")
        if _is_ready(server.port):
            return
        time.sleep(_POLL_S)
    raise Unavailable(
        f"the server was not ready after {_READY_WITHIN_S:.0f} s: {_last_words(server)}",
        hint="try again on a machine that has less to do",
    )


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _last_words(server: Server) -> str:
    lines = server.log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]
