"""Two processes that ask each other over a socket pair: lines of JSON, answers by number.

| line | means |
|---|---|
| `{"ask": 3, "what": "models", ...}` | a question and its arguments |
| `{"answer": 3, "value": ...}` | its answer |
| `{"answer": 3, "error": ..., "hint": ..., ...}` | the error instead; see `core.error_to_json` |

The end of the socket is the end of the other process. A line that is no message ends it too.
"""

from __future__ import annotations

import itertools
import json
import logging
import queue
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from bascule.core import BasculeError, ModelFailed, Unavailable, error_from_json, error_to_json
from bascule.serving.workers.channel import Lines, Message

log = logging.getLogger(__name__)

AnswerFor = Callable[[str, Message], Any]
"""Answers a question with a value of JSON, on a thread that may wait; or raises."""

_ANSWERING_THREADS = 8
_MAX_SHOWN_BYTES = 200


class Peer:
    """One end of the socket pair. `start` it once."""

    def __init__(self, end: socket.socket, answer: AnswerFor, *, name: str) -> None:
        """Nothing is read yet.

        Args:
            end: This side's socket, which blocks.
            answer: Answers the questions of the other side.
            name: What messages call the other side.
        """
        self.ended = threading.Event()
        self._ended_because = "has ended"
        self._end = end
        self._answer = answer
        self._name = name
        self._numbers = itertools.count(1)
        self._waiting: dict[int, queue.SimpleQueue[Message | None]] = {}
        self._writing = threading.Lock()
        self._answering = ThreadPoolExecutor(_ANSWERING_THREADS, f"bascule-answers-{name}")
        self._reader = threading.Thread(
            target=self._read, name=f"bascule-hears-{name}", daemon=True
        )

    def start(self) -> None:
        self._reader.start()

    def ask(self, what: str, within_s: float, **arguments: Any) -> Any:
        """The answer to a question.

        Raises:
            BasculeError: What the other side raised.
            Unavailable: The other side has ended, or did not answer within `within_s`.
        """
        number = next(self._numbers)
        answers = self._waiting[number] = queue.SimpleQueue()
        try:
            if self.ended.is_set():
                raise self._gone(self._ended_because)
            self._send({"ask": number, "what": what, **arguments})
            message = answers.get(timeout=within_s)
        except queue.Empty:
            raise self._gone(f"did not answer in {within_s:g} s") from None
        finally:
            self._waiting.pop(number, None)
        if message is None:
            raise self._gone(self._ended_because)
        if "error" in message:
            raise error_from_json(message)
        return message["value"]

    def close(self) -> None:
        """End the conversation; questions that wait for an answer fail."""
        with suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)
        self._answering.shutdown(wait=False, cancel_futures=True)

    def _gone(self, why: str) -> Unavailable:
        return Unavailable(f"the {self._name} {why}", hint="try again", retry_after_s=1)

    def _send(self, message: Message) -> None:
        line = json.dumps(message).encode() + b"\n"
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
            log.exception("the %s %s", self._name, self._ended_because)
        self.ended.set()
        with self._writing:
            self._end.close()
        for answers in tuple(self._waiting.values()):
            answers.put(None)

    def _take(self, message: Message) -> None:
        if "ask" in message:
            number, what = message.pop("ask"), message.pop("what")
            with suppress(RuntimeError):  # closed: the other side fails by the end of the socket
                self._answering.submit(self._answer_to, number, what, message)
            return
        number = message["answer"]
        if "error" not in message and "value" not in message:
            raise KeyError("value")
        if (answers := self._waiting.get(number)) is not None:
            answers.put(message)

    def _answer_to(self, number: int, what: str, arguments: Message) -> None:
        try:
            answer: Message = {"value": self._answer(what, arguments)}
            json.dumps(answer)  # one that is not of JSON is a bug, which the other side is to know
        except BasculeError as error:
            answer = error_to_json(error)
        except Exception:
            log.exception("the question %r of the %s failed", what, self._name)
            bug = ModelFailed("an internal error", hint="see the server's log")
            answer = error_to_json(bug)
        self._send({"answer": number, **answer})
