"""`bascule serve` as a process of its own, as a user starts it, with a home that is the demo's."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from bascule.core import BasculeError, Unavailable, end, start_announcing
from bascule.demo.telling import bascule_command, own_environment

_READY_WITHIN_S = 30.0
_STOP_WITHIN_S = 15.0


@dataclass(slots=True)
class Server:
    """A running server.

    Attributes:
        process: Its first process; it leads a session of its own, so a Ctrl-C here is not its.
        url: Where it answers predictions.
        control_url: Where it answers everything else.
        ready_after_s: How long it took until it was ready.
    """

    process: subprocess.Popen[bytes]
    url: str
    control_url: str
    ready_after_s: float

    @property
    def port(self) -> int:
        """Of `url`."""
        return int(self.url.rpartition(":")[2])

    def cpu_seconds(self) -> float:
        """Processor time of all its processes so far."""
        first = psutil.Process(self.process.pid)
        times = [process.cpu_times() for process in [first, *first.children(recursive=True)]]
        return sum(time.user + time.system for time in times)

    def stop(self) -> None:
        """Ask it to drain and end; make it end when it does not."""
        end(self.process, _STOP_WITHIN_S)  # its children end with it


def start(reference: str, *, home: Path, folder: Path, records: bool = False) -> Server:
    """Start a server for `reference` of the registry in `home`, and wait until it is ready.

    With `records` the ledger has every answer.

    Raises:
        Unavailable: It ended, or was not ready in time; the message holds its last words.
    """
    command = [bascule_command(), "serve", reference, "--json"]
    command += ["--port=0", "--control-port=0", "--workers=1"]
    # The user's own settings are none of the demo's business: neither variables nor bascule.toml.
    environment = own_environment(home)
    if records:
        environment |= {
            "BASCULE_MONITORING__LEDGER": "on",
            "BASCULE_MONITORING__MAX_ROWS_PER_S": "1000000",
        }
    log = folder / "server.log"
    clock = time.perf_counter()
    try:
        with log.open("w+b") as output:
            process, announced = start_announcing(
                command, output, _READY_WITHIN_S, cwd=folder, env=environment
            )
    except BasculeError as error:
        raise Unavailable(f"the server ended: {error.message}", hint=f"see {log}") from None
    ready_after_s = time.perf_counter() - clock
    return Server(process, announced["predictions"], announced["control"], ready_after_s)
