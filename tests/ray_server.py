"""A real Ray Serve on this machine, in an environment of its own, that serves a rendered folder."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from tests.own_environments import ROOT, python_of
from tests.stores import free_ports

START_S = 180.0
_SERVES = """
import sys

import ray
from ray import serve

folder, port, temporary = sys.argv[1:]
sys.path.insert(0, folder)
ray.init(
    num_cpus=2, include_dashboard=False, _temp_dir=temporary, log_to_driver=True,
    object_store_memory=100 << 20, configure_logging=False,
)
serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
from app import app

serve.run(app)
print("serving", flush=True)
sys.stdin.read()
serve.shutdown()
ray.shutdown()
"""


@dataclass(frozen=True)
class RayServer:
    """A running application.

    Attributes:
        url: Of its proxy.
        process: The driver; Ray's own processes are found by their sessions' folder.
        folder: Of the session, which Ray's processes name in their arguments.
    """

    url: str
    process: subprocess.Popen[str]
    folder: str

    def processes(self) -> list[psutil.Process]:
        """The driver and every process of this Ray."""
        found = {self.process.pid: psutil.Process(self.process.pid)}
        for process in psutil.process_iter():
            try:
                is_ours = any(self.folder in word for word in process.cmdline())
                parents = {one.pid for one in process.parents()}
            except psutil.Error:
                continue
            if is_ours or parents & set(found):
                found[process.pid] = process
        return list(found.values())


@contextmanager
def ray_serving(folder: Path, home: Path, **variables: str) -> Iterator[RayServer]:
    """Run the application of `bascule ship ray` in `folder`, with the registry in `home`."""
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as temporary:  # sockets: short
        environ = {
            **os.environ, "PYTHONPATH": str(ROOT / "src"), "BASCULE_HOME": str(home),
            "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled",
            "RAY_SERVE_LOG_TO_STDERR": "1", **variables,
        }  # fmt: skip
        with (Path(temporary) / "log").open("w+") as log:
            process = subprocess.Popen(
                [python_of("ray_serve"), "-c", _SERVES, folder, str(port), temporary],
                env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
            server = RayServer(f"http://127.0.0.1:{port}", process, temporary)
            try:
                _wait(process, log)
                yield server
            finally:
                every = server.processes()
                assert process.stdin is not None
                process.stdin.close()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
                _, left = psutil.wait_procs(every, timeout=10)
                for one in left:
                    one.kill()
                process.wait()


def _wait(process: subprocess.Popen[str], log: object) -> None:
    give_up_at = time.monotonic() + START_S
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "serving":
            return
        assert time.monotonic() < give_up_at
    log.seek(0)  # type: ignore[attr-defined]
    raise AssertionError(log.read()[-4_000:])  # type: ignore[attr-defined]
