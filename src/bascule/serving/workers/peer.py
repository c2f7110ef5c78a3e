"""Two processes that ask each other over a socket pair: lines of JSON, answers by number.

| line | means |
|---|---|
| `{"ask": 3, "what": "models", ...}` | a question and its arguments |
| `{"answer": 3, "value": ...}` | its answer |
| `{"answer": 3, "error": ..., "hint": ..., ...}` | the error instead; see `core.error_to_json` |

The end of the socket is the end of the other process. A line that is no message ends it too. What
the supervisor and a worker ask each other is in `worker`; for the control process see
`Supervisor` and `control.link`.
"""

from __future__ import annotations

import itertools
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from bascule.core import BasculeError, ModelFailed, Unavailable, error_from_json, error_to_json

log = logging.getLogger(__name__)

Message = dict[str, Any]
AnswerFor = Callable[[str, Message], Any]
"""Answers a question with a value of JSON, on a thread that may wait; or raises."""

_ANSWERING_THREADS = 8
_MAX_SHOWN_BYTES = 200


class Lines:
    """Puts the pieces that come out of a socket together to messages."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[Message]:
        """The messages that are whole now."""
        *whole, self._rest = (self._rest + piece).split(b"\n")
        for line in whole:
            yield json.loads(line)


class Peer:
    """One end of the socket pair. `start` it once."""

    def __init__(self, end: socket.socket, answer: AnswerFor, *, name: str) -> None:
        """Nothing is read yet.

        Args:
            end: This side's socket, which blocks.
            answer: Answers the questions of the other side.
            name: What messages call the other side: `the supervisor`, `worker 3`.
        """
        self.ended = threading.Event()
        self._ended_because = "has ended"
        self._end = end
        self._answer = answer
        self._name = name
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[Any]] = {}
        """Questions without an answer; what takes one out settles it."""
        self._writing = threading.Lock()
        self._answering = ThreadPoolExecutor(_ANSWERING_THREADS, f"bascule-answers-{name}")
        self._reader = threading.Thread(
            target=self._read, name=f"bascule-hears-{name}", daemon=True
        )

    def start(self) -> None:
        """Read what the other side sends.

        Raises:
            RuntimeError: The system has no thread left.
        """
        try:
            self._reader.start()
        except RuntimeError:
            self._end.close()
            raise

    def begin(self, what: str, **arguments: Any) -> Future[Any]:
        """Ask a question, and return at once; see `result`."""
        number = next(self._numbers)
        line = line_of({"ask": number, "what": what, **arguments})
        answer = self._waiting[number] = Future[Any]()
        if self.ended.is_set():
            self._fail(number)
        else:
            self._send(line)
        return answer

    def result(self, answer: Future[Any], within_s: float) -> Any:
        """The answer to a question.

        Raises:
            BasculeError: What the other side raised.
            Unavailable: The other side has ended, or did not answer within `within_s`.
        """
        try:
            return answer.result(max(0.0, within_s))
        except TimeoutError:
            raise self._gone(f"did not answer in {within_s:.3g} s") from None

    def ask(self, what: str, within_s: float, **arguments: Any) -> Any:
        """Ask a question, and wait for its answer; raises as `result`."""
        return self.result(self.begin(what, **arguments), within_s)

    def close(self) -> None:
        """End the conversation; questions that wait for an answer fail."""
        with suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)
        self._answering.shutdown(wait=False, cancel_futures=True)

    def _gone(self, why: str) -> Unavailable:
        hint = "see the server's log, then try again"
        return Unavailable(f"{self._name} {why}", hint=hint, retry_after_s=1)

    def _send(self, line: bytes) -> None:
        with self._writing, suppress(OSError):  # the reader notices that the other side has ended
            self._end.sendall(line)

    def _read(self) -> None:
        lines, piece = Lines(), b""
        try:
            while piece := self._end.recv(1 << 16):
                for message in lines.feed(piece):
                    self._take(message)
        except OSError:
            pass  # it has ended
        except (ValueError, KeyError, TypeError, RecursionError):
            self._ended_because = f"sent what is no message: {piece[:_MAX_SHOWN_BYTES]!r}"
            log.exception("%s %s", self._name, self._ended_because)
        self.ended.set()
        with self._writing:
            self._end.close()
        for number in tuple(self._waiting):
            self._fail(number)

    def _fail(self, number: int) -> None:
        if (answer := self._waiting.pop(number, None)) is not None:
            answer.set_exception(self._gone(self._ended_because))

    def _take(self, message: Message) -> None:
        if "ask" in message:
            number, what = message.pop("ask"), message.pop("what")
            with suppress(RuntimeError):  # closed: the other side fails by the end of the socket
                self._answering.submit(self._answer_to, number, what, message)
            return
        value = None if "error" in message else message["value"]
        if (answer := self._waiting.pop(message["answer"], None)) is None:
            return
        if "error" in message:
            answer.set_exception(error_from_json(message))
        else:
            answer.set_result(value)

    def _answer_to(self, number: int, what: str, arguments: Message) -> None:
        try:
            # Of JSON here: a value that cannot be is a bug, which the other side is to know.
            line = line_of({"answer": number, "value": self._answer(what, arguments)})
        except Exception as problem:
            if not isinstance(problem, BasculeError):
                log.exception("the question %r of %s failed", what, self._name)
                problem = ModelFailed("an internal error", hint="see the server's log")
            line = line_of(answer_with(number, problem))
        self._send(line)


def answer_with(number: int, error: BasculeError) -> Message:
    """The message that answers a question with an error."""
    return {"answer": number, **error_to_json(error)}


def line_of(message: Message) -> bytes:
    """A message as it is sent."""
    return json.dumps(message).encode() + b"\n"
