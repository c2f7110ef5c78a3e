"""Asks a module in a process of its own, in limits: a question of JSON in, parts and an answer out.

The control process must stay small and quick, and what it is asked about may be large or hostile.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bascule.core.addresses import masked_text
from bascule.core.errors import (
    BasculeError,
    ModelFailed,
    TimedOut,
    TooLarge,
    Unavailable,
    error_from_json,
    error_to_json,
)
from bascule.core.processes import SignalEvent

_NICE = 10
_END_S = 20.0
_LOOK_S = 0.02
_READ_BYTES = 1 << 20
_DIE_WITH_PARENT = 1
_PART, _ANSWER = b"part ", b"answer "
"""What lines of standard output begin with; others, of libraries that print, are left out."""
_SMALL_BYTES = 1 << 30
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SEEN, _LOOK_WITHIN_S = signal.SIGUSR1, 5.0
_telling = threading.Lock()
_FEW_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ARROW_IO_THREADS"), "1")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a child may take.

    Attributes:
        timeout_s: It is killed then.
        memory_bytes: Private memory, of it and of its children together; it is killed over it, and
            no allocation of one process may reach it (`RLIMIT_DATA`). None for no bound.
        answer_bytes: Of its answer; it is killed over it.
        is_nice: Whether the processes of the server go before it.
    """

    timeout_s: float
    memory_bytes: int | None = None
    answer_bytes: int = 64 << 20
    is_nice: bool = False


class Child:
    """A question to a module, which must call `answer_parent`."""

    def __init__(
        self, module: str, question: Mapping[str, Any], limits: Limits, *, what: str
    ) -> None:
        """Start nothing yet.

        Args:
            module: Started by `python -m`; it ends with the thread that asks. What it has started
                is killed when it has answered, fails, or is killed.
            question: Any JSON.
            limits: Of the process.
            what: Of errors: `the push to late`.
        """
        self._module, self._question, self._limits, self._what = module, question, limits, what
        self._pid: int | None = None
        self._stopped: float | None = None
        self._stop_by_s = math.inf

    def answer(self, take: Callable[[Any], None] = lambda _: None) -> dict[str, Any]:
        """Start the process and wait for what it answers.

        Args:
            take: Is given each part that the module tells before its answer; see `tell_parent`.
                What it raises ends the process.

        Raises:
            BasculeError: What the module raised, by its kind.
            TooLarge: It took more memory than it may, or answered more.
            ModelFailed: The process died.
            TimedOut: It took too long, and was killed.
        """
        limits, reply, descendants = self._limits, b"", list[int]()
        command = [sys.executable, "-m", self._module, str(os.getpid()), str(limits.memory_bytes)]
        if limits.is_nice:
            command = ["nice", "-n", str(_NICE), *command]
        with tempfile.TemporaryFile() as question:
            question.write(json.dumps(self._question).encode())
            question.seek(0)
            process = subprocess.Popen(
                command, stdin=question, stdout=subprocess.PIPE, env=self._environment(),
                process_group=0,
            )  # fmt: skip
        self._pid = process.pid
        if self._stopped is not None:
            self.stop(self._stopped)
        with process:
            try:
                for line in self._lines(process):
                    if line.startswith(_PART):
                        take(json.loads(line[len(_PART) :]))
                    elif line.startswith(_ANSWER):
                        reply = line[len(_ANSWER) :]
                        descendants = _family(process.pid)[1:]
                        with suppress(ProcessLookupError):
                            process.send_signal(_SEEN)
            finally:
                self._pid = None
                _kill(process.pid, descendants)
        return self._parsed(reply, process.wait())

    def stop(self, within_s: float) -> None:
        """Have it stop by itself (SIGTERM), and kill it after so long; from any thread.

        A module that does not handle the signal ends at once, and has failed.
        """
        self._stopped, pid = within_s, self._pid
        self._stop_by_s = min(self._stop_by_s, time.monotonic() + within_s)
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def _environment(self) -> dict[str, str] | None:
        memory = self._limits.memory_bytes
        if memory is None:
            return None
        # Arrow's own allocator reserves a gigabyte at a time; stacks and pools of threads count.
        few = _FEW_THREADS if memory < _SMALL_BYTES else {}
        return {**os.environ, **few, "ARROW_DEFAULT_MEMORY_POOL": "system"}

    def _lines(self, process: subprocess.Popen[bytes]) -> Iterator[bytes]:
        """What the process prints until it closes its output, by lines."""
        limits, rest = self._limits, bytearray()
        assert process.stdout is not None
        output = process.stdout.fileno()
        poll = select.poll()
        poll.register(output, select.POLLIN)
        until_s = time.monotonic() + limits.timeout_s
        while True:
            if time.monotonic() >= min(until_s, self._stop_by_s):
                raise TimedOut(f"{self._what} took over {limits.timeout_s:g} s", hint="retry")
            if limits.memory_bytes and _private_bytes(process.pid) > limits.memory_bytes:
                raise self._too_large()
            if not poll.poll(_LOOK_S * 1e3):
                continue
            piece = os.read(output, _READ_BYTES)
            if not piece:
                yield bytes(rest)
                return
            rest += piece
            if len(rest) > limits.answer_bytes:
                raise TooLarge(f"{self._what}: the answer is over {limits.answer_bytes:,} bytes")
            if b"\n" in piece:
                *lines, rest = rest.split(b"\n")
                yield from map(bytes, lines)

    def _too_large(self) -> TooLarge:
        limit_mib = (self._limits.memory_bytes or 0) >> 20
        return TooLarge(
            f"{self._what} takes more than {limit_mib:,} MiB of memory", hint="send less at once"
        )

    def _parsed(self, printed: bytes, code: int) -> dict[str, Any]:
        try:
            reply: dict[str, Any] = json.loads(printed)
        except ValueError:
            # Native code ends the process where an allocation fails.
            if self._limits.memory_bytes is not None and code == -signal.SIGABRT:
                raise self._too_large() from None
            raise ModelFailed(f"{self._what} failed; see the server's log") from None
        if "kind" not in reply or "error" not in reply:
            return reply
        if reply["kind"] == MemoryError.__name__:
            raise self._too_large()
        raise error_from_json(reply, ModelFailed)


def answer_parent(answer: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """Print what `answer` makes of the question of the parent, or its error. See `Child`."""
    parent, memory = sys.argv[1:3]
    if not end_with(int(parent)):
        os._exit(3)
    if memory != str(None):
        resource.setrlimit(resource.RLIMIT_DATA, (int(memory), int(memory)))
    try:
        reply: Mapping[str, Any] = answer(json.loads(sys.stdin.read()))
    except BasculeError as error:
        reply = {**error_to_json(error), "error": masked_text(error.message)}
    except MemoryError:
        reply = {"error": "", "hint": "", "kind": MemoryError.__name__}
    # What this process has started can be found while it lives: it ends when the parent has looked.
    has_looked = SignalEvent()
    signal.signal(_SEEN, lambda *_: has_looked.set())
    _print(_ANSWER, reply)
    has_looked.wait(_LOOK_WITHIN_S)


def end_with(parent: int, number: int = signal.SIGKILL) -> bool:
    """Have the system send this process a signal when the *thread* that started it ends.

    False where the parent has ended already.
    """
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, number)
    return os.getppid() == parent


def tell_parent(part: Any) -> None:
    """Send the parent a part, any JSON, before the answer; see `Child.answer`."""
    _print(_PART, part)


def _print(kind: bytes, content: Any) -> None:
    with _telling:
        sys.stdout.write(f"\n{kind.decode()}{json.dumps(content, default=str)}\n")
        sys.stdout.flush()


def await_end(process: subprocess.Popen[Any], within_s: float) -> bool:
    """Wait for a process that was asked to end; it is killed after so long. Whether it ended."""
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return True


def start_announcing(
    command: Sequence[str], log: IO[bytes], within_s: float, **options: Any
) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
    """Start a server that prints a JSON document once it answers: the process, and the document.

    It must print no more: its standard output is closed then.

    Args:
        command: It leads a session of its own, so that a Ctrl-C here is not its.
        log: Takes its standard error; readable.
        within_s: How long the start may take.
        **options: Of `subprocess.Popen`.

    Raises:
        BasculeError: What the document says kept it from starting.
        Unavailable: It ended without one; the message has the last line of `log`.
        TimedOut: It did not answer in time, and was ended.
    """
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
        start_new_session=True, **options,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        with process.stdout:
            document = _document(process.stdout.fileno(), within_s)
        if document is None:
            log.seek(0)
            last = log.read().decode(errors="replace").strip().splitlines()[-1:]
            raise Unavailable(f"the server ended: {''.join(last)}")
        if "error" in document:
            raise error_from_json(document)
    except BaseException:
        end(process, _END_S)
        raise
    return process, document


def _document(output: int, within_s: float) -> dict[str, Any] | None:
    """The JSON document that a process prints; None where it ends without one."""
    printed, until_s = b"", time.monotonic() + within_s
    while True:
        wait_s = max(until_s - time.monotonic(), 0)
        if not select.select([output], [], [], wait_s)[0]:
            raise TimedOut(f"the server did not start within {within_s:g} s")
        piece = os.read(output, _READ_BYTES)
        printed += piece
        with suppress(ValueError):  # it is not whole yet
            document: dict[str, Any] = json.loads(printed)
            return document
        if not piece:
            return None


def end(process: subprocess.Popen[bytes], within_s: float) -> None:
    """Ask a process to end, and kill it after so long. Twice is fine."""
    process.terminate()
    await_end(process, within_s)


@contextmanager
def limited_memory(extra_bytes: int) -> Iterator[None]:
    """Inside the block, allocations fail that have this process grow by more (`RLIMIT_DATA`)."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    now = int(Path("/proc/self/statm").read_text().split()[5]) * _PAGE_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (now + extra_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _kill(leader: int, known: Sequence[int]) -> None:
    """Kill a process that was not waited for, its group, and descendants in groups of their own.

    Those of one that has ended are its children no more: they must be `known`. Their groups are
    killed too, because one may start another while this looks.
    """
    descendants = {*known, *_family(leader)[1:]}
    groups = {leader}  # also members whose parent has ended
    for pid in descendants:
        with suppress(ProcessLookupError):
            groups.add(os.getpgid(pid))
    for group in groups - {os.getpgrp()}:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    for pid in descendants:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _family(pid: int) -> list[int]:
    """A process, its children, and theirs; those whose parent has ended are not among them."""
    children = list[int]()
    with suppress(OSError):
        for listed in Path(f"/proc/{pid}/task").glob("*/children"):
            children += map(int, listed.read_text().split())
    return [pid, *(member for child in children for member in _family(child))]


def _private_bytes(pid: int) -> int:
    """The memory that a process and its children share with no file; 0 where that is not known."""
    total = 0
    for member in _family(pid):
        with suppress(OSError, ValueError):
            resident, shared = Path(f"/proc/{member}/statm").read_text().split()[1:3]
            total += (int(resident) - int(shared)) * _PAGE_BYTES
    return total
