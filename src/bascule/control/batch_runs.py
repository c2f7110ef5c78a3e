"""Starts batch runs that callers ask for, each in a process of its own that ends with this one."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any

from bascule.batch import Job, Places, Runs, Status
from bascule.core import KINDS, ModelFailed, Overloaded, TimedOut

MAX_RUNS = 4
"""At a time, of those that callers started; schedules have no bound."""
_BEGIN_S = 120.0

RunCommand = Callable[[Mapping[str, Any]], tuple[Sequence[str], bytes]]
"""What runs a job, and what it reads. It writes a line of JSON when it begins, and at its end."""


class BatchRunner:
    """The runs that this process has started."""

    def __init__(self, home: Path, command: RunCommand, places: Sequence[str] = ()) -> None:
        """Start nothing yet.

        Args:
            home: Where runs are recorded.
            command: See `RunCommand`.
            places: Where jobs of callers with keys may read and write.
        """
        self.runs = Runs(home)
        self._command = command
        self.addresses, self.places = list(places), Places(places)
        self._room = threading.Semaphore(MAX_RUNS)

    def start(
        self, job: Job, *, by: str, folder: str = "", expected_run: str = "",
        is_confined: bool = False,
    ) -> Status:  # fmt: skip
        """Start a job; returns when its run has begun, or was begun or done before.

        Args:
            job: What to do.
            by: The user.
            folder: That paths are relative to; that of this process if empty.
            expected_run: The run that is resumed.
            is_confined: Whether it may read and write in the places alone.

        Raises:
            Overloaded: As many runs as may be are under way.
            TimedOut: It is still being planned; it goes on.
            BasculeError: The job cannot begin.
        """
        if not self._room.acquire(blocking=False):
            raise Overloaded(
                f"{MAX_RUNS} runs that callers started are under way", hint="retry later",
                retry_after_s=30,
            )  # fmt: skip
        asked = {
            "job": job.to_json(), "folder": folder or os.getcwd(), "by": by,
            "expected_run": expected_run, "places": self.addresses if is_confined else None,
        }  # fmt: skip
        begun: Future[bytes] = Future()
        threading.Thread(
            target=self._attend, args=(asked, begun), name="bascule-batch-run", daemon=True
        ).start()
        try:
            said = json.loads(begun.result(_BEGIN_S))
        except FutureTimeout:
            raise TimedOut(
                f"the job is still being planned after {_BEGIN_S:.0f} s",
                hint="it goes on; bascule batch runs lists it when it begins",
            ) from None
        except ValueError:
            raise ModelFailed("the run ended before it began; see the server's log") from None
        if "error" in said and "run" not in said:  # with a run, it is under way already
            kind = next(one for one in KINDS if one.__name__ == said["kind"])
            raise kind(said["error"], hint=said["hint"])
        return self.runs.get(said["run"])

    def _attend(self, asked: Mapping[str, Any], begun: Future[bytes]) -> None:
        try:
            argv, content = self._command(asked)
            process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert process.stdin is not None
            assert process.stdout is not None
            with process, process.stdout:
                process.stdin.write(content)
                process.stdin.close()
                begun.set_result(process.stdout.readline())
                process.stdout.read()
        except OSError as problem:
            if not begun.done():
                begun.set_exception(ModelFailed(f"the run cannot be started: {problem}"))
        finally:
            self._room.release()

    def check_places(self, job: Job, folder: str = "") -> None:
        """Raise `Refused` where a job, whose paths are relative to `folder`, goes elsewhere."""
        self.places.check(job, folder)
