"""What the supervisor and a worker say to each other: lines of JSON over the worker's two pipes.

| from | line | means |
|---|---|---|
| supervisor | a `WorkerConfig` | what to serve and how; the first line |
| worker | `{"ready": true}` | it answers |
| supervisor | `{"prepare": 7, "services": [...], "plans": [...]}` | load what is new in this list, and change nothing |
| worker | `{"prepared": 7}`, or `{"failed": 7, ...}` | it is loaded and warm; or it is not, and nothing changed |
| supervisor | `{"commit": 7}` | serve that list from now on |
| worker | `{"committed": 7}` | new requests are answered by it; the others finish where they are |
| supervisor | `{"abandon": 7}` | let go of what was loaded for it |
| supervisor | `{"tell": 8}` | how are the models? |
| worker | `{"told": 8, "models": [...]}` | so |
| worker | `{"wish": 3, "load": "late", "place": "/opt/ml/models/..."}` | a caller asks for it (`wishes`) |
| worker | `{"wish": 4, "unload": "late"}` | likewise |
| supervisor | `{"granted": 3}`, or `{"refused": 4, ...}` | every worker has turned to it; or nothing changed |

The end of a pipe is the end of the other side.
"""  # noqa: E501 -- a table

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from bascule.core import Unavailable, error_from_json
from bascule.serving.workers.config import WorkerConfig

log = logging.getLogger(__name__)

Message = dict[str, Any]
_ANSWERS = ("prepared", "failed", "committed", "told")


class Lines:
    """Puts the pieces that come out of a pipe together to messages."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[Message]:
        """The messages that are whole now."""
        *whole, self._rest = (self._rest + piece).split(b"\n")
        for line in whole:
            yield json.loads(line)


class WorkerProcess:
    """One process of a worker, and the pipes to it. Started when it is made."""

    def __init__(
        self,
        config: WorkerConfig,
        inherited_fds: tuple[int, ...],
        on_load_request: Callable[[WorkerProcess, Message], None],
    ) -> None:
        """Start it.

        Args:
            config: What it is told first.
            inherited_fds: The descriptors that it needs.
            on_load_request: Takes a load request of a caller, on the thread that reads the pipe: it
                must not block.
        """
        self._worker = config.worker
        self._on_load_request = on_load_request
        self.started_s = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bascule.serving.workers.worker", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=inherited_fds,
            # What `timeout` or Ctrl-C sends to the group is for the supervisor to act on.
            process_group=0,
            # One thread per program is what its cost was measured with.
            env={**os.environ, "OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"},
        )
        self._heard: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._answers: dict[int, queue.SimpleQueue[Message | None]] = {}
        self._is_over = False
        self._reader = threading.Thread(
            target=self._read, args=(config,), name=f"bascule-hears-{config.worker}", daemon=True
        )
        try:
            self._reader.start()
        except RuntimeError:  # the system has no thread left
            self._process.kill()
            self._process.wait()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def tell(self, message: Message) -> None:
        """Say something. Nobody may be there to hear it: that is known when an answer is waited for."""  # noqa: E501
        assert self._process.stdin is not None
        with suppress(BrokenPipeError, ValueError):
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def hear(self, wait_s: float) -> Message | None:
        """The next message that answers nothing; None if none came in time.

        Raises:
            Unavailable: The process has ended.
        """
        try:
            message = self._heard.get(timeout=wait_s) if wait_s > 0 else self._heard.get_nowait()
        except queue.Empty:
            return None
        if message is None:
            self._heard.put(None)
            raise self._ended()
        return message

    def ask(self, number: int, message: Message) -> None:
        """Say something that is answered under a number; see `hear_of`."""
        answers = self._answers.setdefault(number, queue.SimpleQueue())
        if self._is_over:
            answers.put(None)
        self.tell(message)

    def hear_of(self, number: int, until_s: float) -> Message:
        """The next message that answers what was asked under this number.

        Raises:
            BasculeError: What the worker says went wrong.
            Unavailable: It has ended, or `until_s` (of the monotonic clock) has come.
        """
        answers = self._answers[number]
        try:
            message = answers.get(timeout=max(0.0, until_s - time.monotonic()))
        except queue.Empty:
            raise Unavailable(
                f"worker {self._worker} did not answer in time", hint="see its log above"
            ) from None
        if message is None:
            answers.put(None)
            raise Unavailable(
                f"worker {self._worker} has ended before it answered, and nothing was changed",
                hint="see its log above, then try again",
                retry_after_s=1,
            )
        if "failed" in message:
            raise error_from_json(message)
        return message

    def forget(self, number: int) -> None:
        """Nothing more is expected under this number."""
        self._answers.pop(number, None)

    def _ended(self) -> Unavailable:
        return Unavailable(f"worker {self._worker} has ended", hint="see its log above")

    def signal(self, number: int) -> None:
        """Send a signal; a process that has ended needs none."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    def wait(self, wait_s: float) -> bool:
        """Whether it has ended within so long."""
        try:
            self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        """Close the pipes of a process that has ended."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._reader.join(1.0)

    def _read(self, config: WorkerConfig) -> None:
        # Told here: a process that stands still does not take it, and others need looking after.
        self.tell(config.to_json())
        assert self._process.stdout is not None
        lines = Lines()
        with self._process.stdout as pipe:
            while piece := os.read(pipe.fileno(), 1 << 16):
                try:
                    for message in lines.feed(piece):
                        self._take(message)
                except ValueError:
                    log.exception("worker %d said what is no message", self._worker)
        self._is_over = True
        self._heard.put(None)
        for answers in tuple(self._answers.values()):
            answers.put(None)

    def _take(self, message: Message) -> None:
        number = next((message[word] for word in _ANSWERS if word in message), None)
        if "wish" in message:
            self._on_load_request(self, message)
        elif number is None:
            self._heard.put(message)
        elif (answers := self._answers.get(number)) is not None:
            answers.put(message)
