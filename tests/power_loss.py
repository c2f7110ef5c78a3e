"""A file system that forgets what was not synced: stops a process at a write, and forgets.

`stop_at(folder, number, work)` forks. The child does `work` and ends, as by `kill -9`, before its
file operation of that number below `folder`. The parent then takes back what a loss of power may:
what was written to a file and not synced is gone (the file is empty), and names that were made,
replaced or removed in a folder that was not synced since are as before.

Operations are heard through `sys.addaudithook`, which hears every `open`, `rename`, `remove`,
`mkdir` and `rmdir` of Python, and through `os.fsync`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class _Recorder:
    """In the child: counts operations, notes those that a loss of power may undo."""

    def __init__(self, folder: Path, number: int, log: Path, attic: Path) -> None:
        self._folder, self._left, self._attic = str(folder), number, attic
        self._log = log.open("w")
        self._is_ours = False
        self._sync = os.fsync
        os.fsync = self._fsync
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple) -> None:
        if self._is_ours or event not in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"):
            return
        path = os.fsdecode(args[0]) if isinstance(args[0], str | bytes | os.PathLike) else ""
        if not os.path.abspath(path).startswith(self._folder):
            return
        if event == "open" and not (isinstance(args[2], int) and args[2] & WRITES):
            return
        self._is_ours = True
        self._left -= 1
        if self._left < 0:
            os._exit(9)
        to = os.fsdecode(args[1]) if event == "os.rename" else path
        kept = None
        if event in ("os.rename", "os.remove") and os.path.isfile(to):
            kept = str(self._attic / str(self._left))
            shutil.copy2(to, kept)
        self._note(event, os.path.abspath(path), os.path.abspath(to), kept)
        self._is_ours = False

    def _fsync(self, descriptor: int) -> None:
        self._sync(descriptor)
        self._is_ours = True
        self._note("fsync", os.readlink(f"/proc/self/fd/{descriptor}"), "", None)
        self._is_ours = False

    def _note(self, *noted: object) -> None:
        self._log.write(json.dumps(noted) + "\n")
        self._log.flush()


def stop_at(folder: Path, number: int, work: Callable[[], None], scratch: Path) -> bool:
    """Whether `work` was stopped; False where it has fewer operations than that."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    child = os.fork()
    if child == 0:
        try:
            _Recorder(folder, number, scratch / "log", scratch)
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) == 0:
        return False
    forget(list(map(json.loads, (scratch / "log").read_text().splitlines())))
    return True


def forget(log: list[list]) -> None:
    """Take back what was not synced: first contents, then names, the last first."""
    unsynced: set[str] = set()
    for event, path, to, _ in log:
        if event == "open":
            unsynced.add(path)
        elif event == "fsync":
            unsynced.discard(path)
        elif event == "os.rename":
            unsynced = {_moved(name, path, to) for name in unsynced}
    for name in unsynced:
        if os.path.isfile(name):
            Path(name).write_bytes(b"")
    for index in range(len(log) - 1, -1, -1):
        event, path, to, kept = log[index]
        synced = {name for later, name, _, _ in log[index:] if later == "fsync"}
        if event == "os.rename" and str(Path(to).parent) not in synced and os.path.exists(to):
            os.rename(to, path)
        if kept is not None and str(Path(to).parent) not in synced and Path(to).parent.is_dir():
            shutil.copy2(kept, to)


def _moved(name: str, path: str, to: str) -> str:
    is_inside = name == path or name.startswith(path + "/")
    return to + name.removeprefix(path) if is_inside else name
