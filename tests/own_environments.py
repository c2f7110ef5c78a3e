"""Environments that tests need beside the one they run in, for what brings too much with it.

Each is a lock in `environments/`. It is built by what builds the environments of models, once, and
kept under `build/`.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from bascule.bundle.originals.python_environment import interpreter

HERE = Path(__file__).parent
ROOT = HERE.parent


def python_of(name: str) -> Path:
    """The Python of the environment that `environments/NAME.txt` locks."""
    locked = (HERE / "environments" / f"{name}.txt").read_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BASCULE_CACHE_DIR", str(ROOT / "build"))
        return interpreter(locked)


def packages_of(name: str) -> Path:
    """The folder of its packages, for a test that wants a file of theirs and runs none of it."""
    (folder,) = python_of(name).parent.parent.glob("lib/python*/site-packages")
    return folder


def files_of(name: str, *, python: str = "3.12") -> Path:
    """The packages that `environments/NAME.txt` locks, as files for the Python that is named.

    Of another Python than this one none is run.
    """
    lock = HERE / "environments" / f"{name}.txt"
    key = hashlib.sha256(b"files" + python.encode() + lock.read_bytes()).hexdigest()[:32]
    folder = ROOT / "build" / "environments" / key
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent) as place:
            target = Path(place, "packages")
            subprocess.run(
                [
                    *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
                    *("--target", target, "--python-version", python, "--only-binary", ":all:"),
                    *("--disable-pip-version-check", "--requirement", lock),
                ],
                check=True,
            )
            with suppress(OSError):  # another process was sooner
                target.rename(folder)
    return folder


def modules_of(name: str) -> Path:
    """The folder with the modules of Node.js that `environments/NAME.json` names, installed."""
    package = (HERE / "environments" / f"{name}.json").read_text()
    folder = ROOT / "build" / "environments" / hashlib.sha256(package.encode()).hexdigest()[:32]
    if not (folder / "node_modules" / ".package-lock.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text(package)
        subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"],
            cwd=folder, check=True, capture_output=True,
        )  # fmt: skip
    return folder


if __name__ == "__main__":  # built before the first tier, and not while a test waits for them
    from tests.origins import dvc_command

    dvc_command()
    files_of("lm_eval", python=f"{sys.version_info.major}.{sys.version_info.minor}")
    files_of("rapidocr")
    files_of("smollm2")
