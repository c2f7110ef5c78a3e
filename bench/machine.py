"""Where and with what a run was made."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PARTS = {"wrk": "wrk", "nginx": "nginx", "h2load": "nghttp2-client"}
"""Programs that the bench runs, and the Debian packages that bring them."""


def missing_parts(parts: Iterable[str]) -> list[str]:
    """The programs among `parts` that are not installed."""
    searched = os.environ.get("PATH", "") + ":/usr/sbin"
    return [part for part in parts if shutil.which(part, path=searched) is None]


def install(parts: list[str]) -> None:
    """Install programs from Debian's packages; needs root. Raises CalledProcessError."""
    packages = [PARTS[part] for part in parts]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-qq", "-y", *packages]):
        subprocess.run(
            ["apt-get", *command], check=True, env=environment, capture_output=True, timeout=300
        )


def machine() -> dict[str, str]:
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def load_before() -> float:
    """The load average of the last minute: what else this machine is busy with."""
    return os.getloadavg()[0]


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """Installed versions of packages, and of the programs that the bench runs."""
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found | {part: _program_version(part) for part in PARTS}


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _program_version(part: str) -> str:
    """What the program calls itself, after a slash or a space."""
    program = shutil.which(part, path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        return "not installed"
    option = "--version" if part == "h2load" else "-v"
    done = subprocess.run([program, option], capture_output=True, text=True, timeout=10)
    words = (done.stdout + done.stderr).replace("/", " ").split()
    return next((word for word in words if word[0].isdigit()), "unknown")
