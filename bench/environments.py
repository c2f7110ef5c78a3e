"""The environments of the peers: `build/peers/NAME`, made once from `bench/peers/NAME.txt`.

Peers ask for versions of each other's parts that cannot stand in one environment, and none of
them may touch the project's own.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

_WITHIN_S = 1_800
_SEAL = "made-from.sha256"
_VERSIONS = (
    "import sys; from importlib.metadata import version; "
    "print(*(version(name) for name in sys.argv[1:]))"
)


class CannotBeMade(Exception):
    """An environment could not be made; the message is the installer's last words."""


def python_of(folder: Path) -> Path:
    """The interpreter of an environment."""
    return folder / "bin" / "python"


def is_made(folder: Path, requirements: Path) -> bool:
    """Whether the environment was made, to the end, from these requirements."""
    seal = folder / _SEAL
    return seal.is_file() and seal.read_text() == _digest(requirements)


def make(folder: Path, requirements: Path) -> None:
    """Make the environment anew.

    Raises:
        CannotBeMade: A package cannot be had, or takes too long.
    """
    shutil.rmtree(folder, ignore_errors=True)
    python = str(python_of(folder))
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    commands = [
        [sys.executable, "-m", "venv", str(folder)],
        [*install, "--requirement", str(requirements)],
    ]
    try:
        for command in commands:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_WITHIN_S)
    except subprocess.CalledProcessError as error:
        raise CannotBeMade(last_line(error.stderr) or f"exit code {error.returncode}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotBeMade(str(error)) from None
    (folder / _SEAL).write_text(_digest(requirements))


def installed(folder: Path, distributions: list[str]) -> dict[str, str]:
    """The versions of these packages in the environment."""
    done = subprocess.run(
        [str(python_of(folder)), "-c", _VERSIONS, *distributions],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return dict(zip(distributions, done.stdout.split(), strict=True))


def last_line(text: str) -> str:
    """What an installer said in the end, which is its reason; notices are not."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("ERROR")] or lines
    return told[-1].removeprefix("ERROR: ") if told else ""


def _digest(requirements: Path) -> str:
    return hashlib.sha256(requirements.read_bytes()).hexdigest()
