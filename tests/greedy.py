"""A module that a `Child` asks, and that takes or answers what its question says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

from bascule.core import Conflict, answer_parent


def _leave(pipe: str, *, in_session_of_its_own: bool) -> None:
    """Start processes that would hold a pipe open for a minute, and wait until they do."""
    held = os.open(pipe, os.O_WRONLY)
    command = ["sh", "-c", "echo; echo >&2; sleep 60 & wait"]
    for is_alone in {False, in_session_of_its_own}:
        process = subprocess.Popen(
            command, stdout=held, stderr=subprocess.PIPE, start_new_session=is_alone
        )
        assert process.stderr is not None
        process.stderr.readline()


def answer(question: dict[str, Any]) -> dict[str, Any]:
    act, amount = question["act"], question.get("amount", 0)
    if act == "touch":
        held = []
        while True:
            held.append(os.urandom(1 << 20))
    elif act == "reserve":
        return {"bytes": len(bytearray(amount))}
    elif act == "child":
        code = "import time; held = bytearray(b'x' * (60 << 20)); time.sleep(60)"
        children = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
        children[0].wait()
    elif act in ("leave", "leave and die", "leave and print"):
        _leave(question["pipe"], in_session_of_its_own=act != "leave and die")
        if act == "leave and die":
            os.kill(os.getpid(), signal.SIGKILL)
        return {"text": "x" * amount}
    elif act == "print":
        return {"text": "x" * amount}
    elif act == "hang":
        time.sleep(60)
    elif act == "abort":
        os.kill(os.getpid(), signal.SIGABRT)
    elif act == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif act == "refuse":
        raise Conflict("it is there", hint="choose another name")
    return {"act": act}


if __name__ == "__main__":
    answer_parent(answer)
