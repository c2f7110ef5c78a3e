"""Starts batch runs that callers ask for, each in a process of its own that ends with this one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any

from bascule.batch import Job, Runs, Status
from bascule.core import KINDS, ModelFailed, Overloaded, Refused, TimedOut, masked

_USER = re.compile("//[^/@]*@")
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
        self._places = places
        self._room = threading.Semaphore(MAX_RUNS)

    def start(self, job: Job, *, by: str, folder: str = "", expected_run: str = "") -> Status:
        """Start a job; returns when its run has begun, or was begun or done before.

        Args:
            job: What to do.
            by: The user.
            folder: That paths are relative to; that of this process if empty.
            expected_run: The run that is resumed.

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
            "expected_run": expected_run,
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
        # SQL reads any table of its database.
        has_sql = bool(job.query or job.where) and "://" in job.source
        source = job.source.partition("#")[0] if has_sql else job.source
        for name, place in (("from", source), ("to", job.sink), ("model", job.model)):
            is_named = name == "model" and not place.startswith((".", "/", "~"))
            if not is_named and not any(is_below(place, one, folder) for one in self._places):
                raise Refused(
                    f"{name}: {masked(place)} is none of the places that batch.places allows",
                    hint="add it to batch.places in the server's bascule.toml",
                    field=name,
                )


def is_below(place: str, allowed: str, folder: str = "") -> bool:
    """Whether a place is an allowed one or below it; links and `..` of paths are followed.

    The table of a database is after `#`; an allowed database without one allows all its tables.
    """
    if "://" in allowed or "://" in place:
        if ".." in place.split("/") or "?" in place or "%" in place:
            return False
        whole, base = (_USER.sub("//", one) for one in (place, allowed.rstrip("/")))
        return whole == base or whole.startswith((f"{base}/", f"{base}#"))
    parts = place.split("/")
    globs = [number for number, part in enumerate(parts) if set(part) & set("*?[")]
    if globs and ".." in parts:
        return False
    plain = "/".join(parts[: globs[0]] if globs else parts) or ("/" if place[0] == "/" else ".")
    found = Path(folder, Path(plain).expanduser()).resolve()
    return found.is_relative_to(Path(allowed).expanduser().resolve())
