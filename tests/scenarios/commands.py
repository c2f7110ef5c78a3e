"""What scenarios of servers share: the command line, and waiting for what is to come to be."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import psutil
import pytest


def run(home: Path, *words: Any, **variables: str) -> tuple[int, str, str]:
    """Exit code, output and messages of a command, with its registry in `home`.

    The command runs in this process: one of its own takes half a second to import its modules.
    """
    from bascule.cli import main

    out, errors, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(errors):
        for name, value in {"BASCULE_HOME": str(home), **variables}.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["bascule", *map(str, words)])
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return code, out.getvalue(), errors.getvalue()


def bascule(home: Path, *words: Any, **variables: str) -> Any:
    """What a command that succeeds says, with its registry in `home`."""
    code, out, errors = run(home, *words, "--json", **variables)
    assert code == 0, errors
    return json.loads(out)


def is_gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
