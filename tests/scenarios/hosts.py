"""Hosts for tests of batch jobs: each starts jobs in processes of its own, and may kill them.

Run as a script it is the host. It has imported everything, so that a job begins in milliseconds.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

TTL_S = 3.0


class Host:
    """Two of them see each other's processes only where they are of one `container`."""

    def __init__(self, bundle: Path, *, is_own_container: bool = False) -> None:
        argv: list[Any] = [sys.executable, "-m", "tests.scenarios.hosts", str(bundle)]
        if is_own_container:
            argv = ["unshare", "--map-root-user", "--pid", "--fork", "--mount-proc", *argv]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip

    def start(
        self, home: Path, job: dict[str, Any], *, kill_at: int = 0, cut_at: int = 0,
        counts: bool = False,
    ) -> None:  # fmt: skip
        """Begin a job, which at a line of the sink's modules kills itself, or whose sessions
        PostgreSQL ends there, as it does when it is stopped."""
        variables = {name: text for name, text in os.environ.items() if name.startswith("AWS_")}
        asked = {"home": str(home), "job": job, "kill_at": kill_at, "cut_at": cut_at}
        asked["counts"] = counts
        self._say(asked | {"environment": variables})

    def wait(self) -> list[dict[str, Any]]:
        """How the jobs ended that were started since, in their order."""
        self._say("wait")
        assert self._process.stdout
        found: list[dict[str, Any]] = json.loads(self._process.stdout.readline())
        return found

    def run(self, home: Path, job: dict[str, Any], **options: Any) -> dict[str, Any]:
        self.start(home, job, **options)
        (ended,) = self.wait()
        return ended

    def _say(self, what: Any) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()


def main(bundle: str) -> None:
    """Start jobs as standard input says."""
    import deltalake
    import duckdb
    import obstore
    import onnxruntime
    import pyarrow.dataset
    import sqlalchemy

    from bascule.batch import claims, job_of, run_job
    from bascule.bundle import load

    del deltalake, duckdb, obstore, onnxruntime, pyarrow, sqlalchemy, job_of, run_job, load
    claims.TTL_S, claims._RENEW_S = TTL_S, TTL_S / 4
    started: list[tuple[int, int]] = []
    for line in sys.stdin:
        asked = json.loads(line)
        if asked == "wait":
            ended = []
            for pid, pipe in started:
                with os.fdopen(pipe) as file:
                    said = file.read()
                os.waitpid(pid, 0)
                ended.append(json.loads(said) if said else {"kind": "killed"})
            started.clear()
            sys.stdout.write(json.dumps(ended) + "\n")
            sys.stdout.flush()
            continue
        reader, writer = os.pipe()
        pid = os.fork()
        if pid:
            os.close(writer)
            started.append((pid, reader))
            continue
        os.write(writer, json.dumps(_ran(bundle, asked)).encode())
        os._exit(0)


def _ran(bundle: str, asked: dict[str, Any]) -> dict[str, Any]:
    from bascule.batch import job_of, run_job
    from bascule.bundle import load
    from bascule.core import BasculeError

    os.environ.update(asked["environment"])
    loaded = load(Path(bundle))
    at = asked["kill_at"] or asked["cut_at"]
    act = partial(_cut, asked["job"]["to"]) if asked["cut_at"] else _kill
    lines = _Lines(at, act) if at or asked["counts"] else None
    if lines is not None:
        threading.settrace(lines.enter)
        sys.settrace(lines.enter)
    try:
        made = run_job(job_of(asked["job"]), loaded, Path(asked["home"]))
    except BasculeError as error:
        return {"kind": type(error).__name__, "error": str(error)}
    finally:
        sys.settrace(None)
    return {"rows": made.rows, "run": made.manifest.run, "lines": lines.count if lines else 0}


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _cut(place: str) -> None:
    import psycopg

    url = place.partition("#")[0]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


class _Lines:
    """Counts the lines that are executed in the modules of sinks and claims, and acts at one."""

    def __init__(self, at: int, act: Callable[[], None]) -> None:
        self.count, self._at, self._act = 0, at, act

    def enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        file = frame.f_code.co_filename
        is_of_sink = "/batch/sinks/" in file or file.endswith("/batch/claims.py")
        renews = threading.current_thread().name == "bascule-claim"
        return self.line if is_of_sink and not renews else None

    def line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            self.count += 1
            if self.count == self._at:
                self._act()
        return self.line


if __name__ == "__main__":
    main(sys.argv[1])
