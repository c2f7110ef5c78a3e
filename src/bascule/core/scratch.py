"""Temporary folders that do not outlive a process that is killed: the next one sweeps them.

A folder is locked (`flock`) for as long as its process lives. So a folder that another process can
lock is an orphan, in every container and after every reuse of process ids.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from bascule.core.errors import Unavailable

_SUFFIX = ".held"
_swept: set[Path] = set()


class Scratch:
    """A folder of this process; `remove` it, or it is swept when the process has ended.

    Attributes:
        path: The folder.
    """

    def __init__(
        self, prefix: str = "bascule-", *, suffix: str = _SUFFIX, parent: str | Path | None = None
    ) -> None:
        """Make and lock a folder in `parent`; in that of temporary files, if None."""
        try:
            base = Path(parent or tempfile.gettempdir())
            if base not in _swept:
                _swept.add(base)
                sweep(base)
            self._make(prefix, suffix, base)
        except OSError as problem:
            if parent is not None:
                raise
            raise Unavailable(
                f"no temporary folder can be made: {problem.strerror or problem}",
                hint="set TMPDIR to a folder that may be written to",
            ) from None

    def _make(self, prefix: str, suffix: str, base: Path) -> None:
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=prefix, suffix=suffix, dir=base))
            try:
                self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                continue  # another process swept it before it was opened
            with contextlib.suppress(OSError):  # a file system without locks: nothing sweeps there
                fcntl.flock(self._lock, fcntl.LOCK_EX)
            if self.path.exists():
                return
            os.close(self._lock)  # it was swept before it was locked

    def remove(self) -> None:
        """Remove the folder. Safe to call twice, and where it was renamed."""
        shutil.rmtree(self.path, ignore_errors=True)
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.remove()


def sweep(
    parent: Path,
    pattern: str = f"bascule-*{_SUFFIX}",
    remove: Callable[[Path], None] = lambda folder: shutil.rmtree(folder, ignore_errors=True),
) -> None:
    """Remove the folders of processes that were killed, of this user's alone."""
    for folder in _owned(parent, pattern):
        with contextlib.suppress(OSError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(folder)
            finally:
                os.close(lock)


def _owned(parent: Path, pattern: str) -> Iterator[Path]:
    for folder in parent.glob(pattern):
        with contextlib.suppress(OSError):
            if folder.lstat().st_uid == os.getuid():
                yield folder
