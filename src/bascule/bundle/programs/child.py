"""A model in a process of its own, which may crash, hang or leak without taking the server along.

The process is started when the program is opened and again whenever it dies, between calls too: at
once the first time, later after a pause that doubles. Calls that were running when it died fail as
`Unavailable`; calls that arrive while it starts wait for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import os
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from bascule.bundle.programs import host
from bascule.core import (
    Columns,
    Field,
    Invalid,
    ModelFailed,
    Program,
    Scratch,
    TimedOut,
    Unavailable,
)

log = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0
RUN_TIMEOUT_S = 60.0
"""How long one run may take before its process is taken to hang, and is killed."""
_LONGEST_PAUSE_S = 30.0
_PIPE_BYTES = 1 << 20
"""The most that Linux allows unprivileged users."""
_KEPT_VARIABLES = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH", host.HIDE_TEXTS,
)  # fmt: skip
"""What the process sees of the server's environment, where its secrets may be."""


class ChildProgram(Program):
    """See `core.programs.Program`. Runs one call at a time."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        name: str,
        inputs: tuple[Field, ...],
        outputs: tuple[Field, ...],
        python: str = sys.executable,
        threads: int = 1,
        start_timeout_s: float = START_TIMEOUT_S,
        run_timeout_s: float = RUN_TIMEOUT_S,
    ) -> None:
        """Start the process and wait until it has its model.

        Args:
            arguments: The arguments of `programs.host`.
            name: What answers call it.
            inputs: What it reads.
            outputs: What it gives; empty where that is to be found out.
            python: The interpreter that runs it.
            threads: How many it may use.
            start_timeout_s: How long it may take to have its model.
            run_timeout_s: How long a run may take.

        Raises:
            ModelFailed: It could not load its model; the message says why.
            Unavailable: It could not be started, or took too long.
        """
        self.name = name
        self.inputs = inputs
        self.outputs = outputs
        self._command = [python, "-P", host.__file__, str(os.getpid()), *arguments]
        self._threads = threads
        self._start_timeout_s = start_timeout_s
        self.run_timeout_s = run_timeout_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ready = self._gives_parts = False
        self._numbers = itertools.count()
        self._deaths = 0
        self._not_before = 0.0
        try:
            self._folder = Scratch("bascule-child-")
        except OSError as problem:
            raise Unavailable(
                f"the process of {name} has no place for its files: {problem.strerror}",
                hint="free some space for temporary files, or set TMPDIR",
            ) from None
        with self._lock:
            self._spawn()
            try:
                self._await_ready()
            except BaseException:
                self._dispose()
                raise

    @property
    def may_block(self) -> bool:
        """Always: a run waits for the process, which is killed if it takes too long."""
        return True

    @property
    def pid(self) -> int | None:
        """The process, where there is one."""
        return None if self._process is None else self._process.pid

    def run(self, columns: Columns, outputs: Sequence[str] | None = None) -> Columns:
        """The outputs asked for.

        Raises:
            Unavailable: The process died on it, or is away.
            TimedOut: It did not answer in time, and was killed.
            ModelFailed: The model's code raised.
            Invalid: The model refuses these rows.
        """
        wanted = None if outputs is None else list(outputs)
        with self._lock:
            self._ensure()
            head, found = self._ask(host.encode({"outputs": wanted}, columns))
        self._check(head)
        return self._as_declared(found, len(next(iter(columns.values()), ())), wanted)

    def run_in_parts(
        self, columns: Columns, outputs: Sequence[str] | None, cancelled: threading.Event
    ) -> Generator[Columns, None, None]:
        """The parts that the model's `predict_stream` gives; without one, the whole answer.

        Raises as `run`. Every part is a question of its own, between those of other callers.
        """
        if not self._gives_parts:
            yield from super().run_in_parts(columns, outputs, cancelled)
            return
        wanted = None if outputs is None else list(outputs)
        with self._lock:
            self._ensure()
            process, number = self._process, next(self._numbers)
            begin = {"parts": number, "do": "begin", "outputs": wanted}
            self._check(self._ask(host.encode(begin, columns))[0])
        try:
            while True:
                head, found = self._ask_of(process, {"parts": number, "do": "next"})
                if "more" not in head:
                    return
                yield self._as_declared(found, len(next(iter(found.values()), ())), wanted)
        finally:
            if self._process is process:
                self._ask_of(process, {"parts": number, "do": "close"})

    def _ask_of(
        self, process: subprocess.Popen[bytes] | None, question: dict[str, Any]
    ) -> tuple[dict[str, Any], Columns]:
        """Ask about what was begun in a process."""
        with self._lock:
            self._look()
            if self._process is not process:
                raise Unavailable(
                    f"the process of {self.name} ended within the answer",
                    hint="retry",
                    retry_after_s=1,
                )
            head, found = self._ask(host.encode(question, {}))
        self._check(head)
        return head, found

    def _check(self, head: dict[str, Any]) -> None:
        """Raise what the model raised."""
        if "ok" in head:
            return
        if "refused" in head:
            facts = {"field": str(head["field"])} if head.get("field") else {}
            raise Invalid(str(head["refused"]), hint=str(head.get("hint", "")), **facts)
        raise ModelFailed(
            f"program {self.name} failed: {str(head.get('error'))[:500]}",
            reason=str(head.get("reason"))[:500],
            trace=str(head.get("trace")),
        )

    def _as_declared(self, found: Columns, rows: int, wanted: list[str] | None) -> Columns:
        """Foreign code may answer anything; the caller gets the declared outputs only."""
        if not self.outputs:
            return found
        declared = {field.name: field for field in self.outputs}
        checked: Columns = {}
        for name in declared if wanted is None else wanted:
            field, column = declared[name], found.get(name)
            fits = (
                column is not None
                and column.dtype == field.dtype.numpy
                and column.shape[:1] == (rows,)
                and len(column.shape) == 1 + len(field.shape)
                and all(
                    want in (-1, got)
                    for want, got in zip(field.shape, column.shape[1:], strict=True)
                )
            )
            if not fits or column is None:
                said = "nothing" if column is None else f"{column.dtype} of shape {column.shape}"
                reason = (
                    f"program {self.name} answered {said} for {name}, where it declares "
                    f"{field.dtype.value} of shape {[rows, *field.shape]}"
                )
                raise ModelFailed(reason, reason=reason)
            checked[name] = column
        return checked

    def bound_runs(self, timeout_s: float) -> None:
        """Kill the process on runs that take longer."""
        self.run_timeout_s = timeout_s

    def interrupt(self) -> None:
        """Nothing: a run that takes too long ends with its process."""

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._dispose()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self._dispose()

    def _dispose(self) -> None:
        self._end()
        self._folder.remove()

    # -- the process --

    def _spawn(self) -> None:
        threads = str(self._threads)
        kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=self._folder.path,
                env={
                    **kept,
                    "OMP_NUM_THREADS": threads,
                    "OPENBLAS_NUM_THREADS": threads,
                    "MKL_NUM_THREADS": threads,
                    "ORT_DISABLE_TELEMETRY": "1",
                },
            )
        except OSError as problem:
            raise Unavailable(
                f"the process of {self.name} could not be started: {problem.strerror}",
                hint=f"look at {self._command[0]}",
            ) from None
        self._is_ready = False
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        for pipe in (self._process.stdin, self._process.stdout):
            _enlarge(pipe)
        if not isinstance(threading.current_thread(), _Watcher):
            _Watcher(self, self._process).start()

    def _await_ready(self) -> None:
        until = time.monotonic() + self._start_timeout_s
        head, _ = self._receive(until, "load its model")
        if "ready" not in head:
            self._died()
            raise ModelFailed(
                f"{self.name} could not be loaded: {str(head.get('error'))[:500]}",
                hint=str(head.get("hint", "")),
            )
        self._is_ready, self._gives_parts = True, bool(head.get("parts"))

    def replaced(self, ended: subprocess.Popen[bytes]) -> subprocess.Popen[bytes] | None:
        """The process that is started here for one that has ended; None if another thread did."""
        with self._lock:
            if self._process is not ended:
                return None
            self._look()
            return None if self._process is ended else self._process

    def _look(self) -> None:
        if self._process is not None and self._process.poll() is not None and self._is_ready:
            self._died()

    def _ensure(self) -> None:
        """Have a process that is ready, or say that there is none."""
        self._look()
        if self._process is None:
            wait_s = self._not_before - time.monotonic()
            if wait_s > 0:
                raise Unavailable(
                    f"{self.name} died {self._deaths} times and is started again in {wait_s:.0f} s",
                    hint="see the server's log",
                    retry_after_s=max(1, round(wait_s)),
                )
            self._spawn()
        if not self._is_ready:
            self._await_ready()

    def _ask(self, frame: list[Any]) -> tuple[dict[str, Any], Columns]:
        until = time.monotonic() + self.run_timeout_s
        for piece in frame:
            self._write(piece, until)
        head, found = self._receive(until, "answer")
        self._deaths = 0
        return head, found

    def _receive(self, until: float, what: str) -> tuple[dict[str, Any], Columns]:
        size = int.from_bytes(self._read(8, until, what), "little")
        try:
            if not 0 < size <= host.MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {size} bytes")
            return host.decode(self._read(size, until, what))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
            self._died()
            reason = f"the process of {self.name} answered nonsense: {problem}"
            raise ModelFailed(reason, reason=reason) from None

    def _write(self, piece: Any, until: float) -> None:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        write = process.stdin.fileno()
        left = memoryview(piece)
        while left:
            self._wait(write, select.POLLOUT, until, "read its rows")
            try:
                left = left[os.write(write, left[: 1 << 20]) :]
            except BlockingIOError:
                continue
            except OSError:
                raise self._gone() from None

    def _wait(self, descriptor: int, event: int, until: float, what: str) -> None:
        """Until something can be done; not `select`, which knows a thousand descriptors only.

        What can be done late is: this process may have stood still.
        """
        poll = select.poll()
        poll.register(descriptor, event)
        if not poll.poll(max(0.0, until - time.monotonic()) * 1e3):
            self._died()
            raise TimedOut(
                f"the process of {self.name} did not {what} in time, and was ended",
                hint="allow more time, or send fewer rows",
            )

    def _read(self, size: int, until: float, what: str) -> bytes:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        read = process.stdout.fileno()
        parts: list[bytes] = []
        while size:
            self._wait(read, select.POLLIN, until, what)
            piece = os.read(read, min(size, 1 << 20))
            if not piece:
                raise self._gone()
            parts.append(piece)
            size -= len(piece)
        return b"".join(parts)

    def _gone(self) -> Unavailable:
        process = self._process
        assert process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.0)
        code = process.returncode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        then = "and is started again" if self._is_ready else "before it had its model"
        self._died()
        return Unavailable(
            f"the process of {self.name} ended ({how}), {then}", hint="retry", retry_after_s=1
        )

    def _died(self) -> None:
        """Clear up after a process, and start the next: now, or not before a pause."""
        self._deaths += 1
        log.warning("the process of %s died (%d in a row)", self.name, self._deaths)
        self._end()
        pause_s = 0.0 if self._deaths == 1 else min(2.0 ** (self._deaths - 2), _LONGEST_PAUSE_S)
        self._not_before = time.monotonic() + pause_s
        if not pause_s:
            with contextlib.suppress(Unavailable):
                self._spawn()

    def _end(self) -> None:
        process, self._process = self._process, None
        self._is_ready = False
        if process is not None:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            process.wait()


class _Watcher(threading.Thread):
    """Has a process replaced as soon as it ends, so that no call has to discover it.

    It keeps no program alive. A process ends with the thread that started it (`host` asks the
    system for that), so a watcher stays for the one that it has started.
    """

    def __init__(self, program: ChildProgram, process: subprocess.Popen[bytes]) -> None:
        super().__init__(name=f"bascule-watches-{process.pid}", daemon=True)
        self._program = weakref.ref(program)
        self._process: subprocess.Popen[bytes] | None = process

    def run(self) -> None:
        while self._process is not None and _has_waited(self._process.pid):
            program = self._program()
            self._process = None if program is None else program.replaced(self._process)
            del program


def _has_waited(pid: int) -> bool:
    """Wait for the end of a process, and leave it to be reaped; False where that cannot be."""
    try:
        ended = os.pidfd_open(pid)
    except (AttributeError, OSError):
        return False
    try:
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.poll()
    finally:
        os.close(ended)
    return True


def _enlarge(pipe: Any) -> None:
    """So that a batch takes few turns from one process to the other; where the system allows it."""
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def of_bundle(
    path: Path, file: str, *, inputs: tuple[Field, ...], outputs: tuple[Field, ...], threads: int
) -> ChildProgram:
    """The original inside a bundle, in a process that Bascule itself opens it in.

    Raises:
        ModelFailed, TimedOut, Unavailable: As `ChildProgram`; the message names `file`.
    """
    try:
        return ChildProgram(
            ["call", "bascule.bundle.opening:original_of", str(path.resolve()), str(threads)],
            name="original",
            inputs=inputs,
            outputs=outputs,
            threads=threads,
        )
    except (ModelFailed, TimedOut, Unavailable) as problem:
        said = f"{file} could not be opened: {problem.message}"
        raise type(problem)(said, hint=problem.hint, **problem.facts) from None
