"""Hosts for tests of training runs: each does jobs in processes of its own, and may kill them.

Run as a script it is the host. It has imported everything, so that a run begins in milliseconds.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from .hosts import Host

_WATCHED = ("/bascule/training/", "/bascule/registry/", "/kinds/training.py")


class TrainingHost(Host):
    """Two of them see each other's processes only where they are of one container."""

    def __init__(self, *, is_own_container: bool = False) -> None:
        argv: list[Any] = [sys.executable, "-m", "tests.scenarios.training_hosts"]
        if is_own_container:
            argv = ["unshare", "--map-root-user", "--pid", "--fork", "--mount-proc", *argv]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip

    def begin(self, folder: Path, kind: str = "train", kill_at: int = 0, **content: Any) -> None:
        """Begin a job of a kind, which kills itself at a line of the watched modules.

        At -1 the lines are counted alone.
        """
        self._say({"folder": str(folder), "kind": kind, "kill_at": kill_at, "content": content})

    def do(self, folder: Path, kind: str = "train", kill_at: int = 0) -> dict[str, Any]:
        self.begin(folder, kind, kill_at)
        (ended,) = self.wait()
        return ended


class _Lines:
    """Counts lines that are executed in the watched modules, and ends the process at one."""

    def __init__(self, at: int) -> None:
        self.count, self._at = 0, at

    def enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        file = frame.f_code.co_filename
        return self.line if any(place in file for place in _WATCHED) else None

    def line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            self.count += 1
            if self.count == self._at:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.line


def _done(asked: dict[str, Any]) -> dict[str, Any]:
    from bascule.app import open_catalogue
    from bascule.core import BasculeError
    from bascule.jobs import Jobs, Task
    from bascule.jobs.holding import Holder
    from bascule.kinds import KINDS
    from bascule.settings import load_settings

    folder, kind, lines = asked["folder"], KINDS[asked["kind"]], _Lines(asked["kill_at"])
    os.chdir(folder)
    settings = load_settings(Path(folder))
    jobs = Jobs(open_catalogue(settings))
    content = kind.parse(asked["content"])
    task = Task(kind=kind.name, input=content, title=kind.name, by="ada", folder=folder)
    holder = Holder(jobs, jobs.start(task))
    if asked["kill_at"]:
        sys.settrace(lines.enter)
    try:
        result = kind.run(settings, task, holder)
    except BasculeError as error:
        holder.end("failed", error=error)
        return {"kind": type(error).__name__, "error": str(error)}
    finally:
        sys.settrace(None)
    holder.end("done", result=json.loads(json.dumps(result)))
    return {**result, "lines": lines.count}


def main() -> None:
    """Do jobs as standard input says."""
    import numpy
    import onnxruntime
    import pandas
    import pyarrow.parquet
    import skl2onnx
    import sklearn.linear_model
    import sqlalchemy

    import bascule.kinds.training
    import bascule.packing

    del numpy, onnxruntime, pandas, pyarrow, skl2onnx, sklearn, sqlalchemy, bascule
    started: list[tuple[int, int]] = []
    for line in sys.stdin:
        asked = json.loads(line)
        if asked == "wait":
            ended = []
            for pid, pipe in started:
                with os.fdopen(pipe) as file:
                    reply = file.read()
                os.waitpid(pid, 0)
                ended.append(json.loads(reply) if reply else {"kind": "killed"})
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
        os.write(writer, json.dumps(_done(asked)).encode())
        os._exit(0)


if __name__ == "__main__":
    main()
