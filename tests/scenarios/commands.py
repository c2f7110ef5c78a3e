"""What scenarios of servers share: the command line, and waiting for what is to come to be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil


def bascule(home: Path, *words: Any) -> Any:
    """What a command that succeeds says, with its registry in `home`."""
    ended = subprocess.run(
        [sys.executable, "-m", "bascule.cli", *map(str, words), "--json"],
        env={**os.environ, "BASCULE_HOME": str(home)},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return json.loads(ended.stdout)


def until(condition: Callable[[], Any], within_s: float = 10.0) -> Any:
    give_up = time.monotonic() + within_s
    while not (made := condition()):
        assert time.monotonic() < give_up, "it did not come to be"
        time.sleep(0.02)
    return made


def is_gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
