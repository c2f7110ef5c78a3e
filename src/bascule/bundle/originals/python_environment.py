"""The environment of a model that is code of its own: locked when packed, built where it is opened.

An environment is a folder of virtual environments under the cache, by the digest of its lock and
the version of Python, and is shared by all bundles with that lock. Only wheels are installed, by
hash: nothing that a package brings runs while it is installed.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from bascule.core import Invalid, Scratch, Unavailable, sha256_bytes, writing

_CACHE_HINT = "set BASCULE_CACHE_DIR to a folder that you may write to"
_PIP_TIMEOUT_S = 900.0
_LOCKED = re.compile(r"[a-z0-9][a-z0-9.-]*==[^\s;#]+( --hash=sha256:[0-9a-f]{64})+")


def python_version() -> str:
    """What wheels depend on: for example `3.11`."""
    return ".".join(platform.python_version_tuple()[:2])


def interpreter(locked: str) -> Path:
    """The Python of the environment with that lock, which is built if it is not there yet.

    Raises:
        Invalid: A line of the lock is none.
        Unavailable: It could not be built; the message says why.
    """
    for line in locked.splitlines():
        if not _LOCKED.fullmatch(line):
            raise Invalid(f"{line[:80]!r} is not a line of a lock", field="requirements")
    key = sha256_bytes(f"{python_version()}\n{locked}".encode()).removeprefix("sha256:")[:32]
    place = _cache() / key
    python = place / "bin" / "python"
    if python.exists():
        return python
    with writing(place, hint=_CACHE_HINT), (_cache() / f"{key}.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not python.exists():
            with draft() as folder:
                file = folder / "requirements.txt"
                file.write_text(locked)
                pip(
                    folder, "install", "--no-deps", "--only-binary=:all:", "--require-hashes",
                    "--quiet", "-r", str(file),
                )  # fmt: skip
                (folder / "environment").rename(place)
    return python


def _cache() -> Path:
    named = os.environ.get("BASCULE_CACHE_DIR")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bascule"
    folder = (Path(named) if named else base) / "environments"
    with writing(folder, hint=_CACHE_HINT):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def draft() -> Iterator[Path]:
    """A folder with an empty virtual environment in it, beside the finished ones."""
    with Scratch("bascule-draft-", parent=_cache()) as folder:
        # To copy pip into it takes a hundred times as long as to make the environment.
        without = ["--without-pip"] if find_spec("pip") else []
        _run([sys.executable, "-m", "venv", *without, str(folder / "environment")], "made")
        yield folder


def pip(folder: Path, *arguments: str) -> None:
    """Run pip on the environment of a draft: this Python's, or where it has none, its own."""
    python = str(folder / "environment" / "bin" / "python")
    command = [sys.executable, "-m", "pip", "--python", python]
    if not find_spec("pip"):
        command = [python, "-m", "pip"]
    _run([*command, "--disable-pip-version-check", "--no-input", *arguments], "filled")


def _run(command: list[str], what: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise Unavailable(f"the model's environment could not be {what}: {problem}") from None
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        said = " ".join(errors or done.stderr.splitlines()[-1:])[:500]
        raise Unavailable(
            f"the model's environment could not be {what}: {said}",
            hint="look at its requirements, and whether the package index can be reached",
        )
