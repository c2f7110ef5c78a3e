"""Work that takes seconds or hours, on threads of the control process: each starts a child."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bascule.core import BasculeError, NotFound, Overloaded, Unavailable

DoTask = Callable[[str, Mapping[str, Any]], dict[str, Any]]
"""Does a task by its name, in a process of its own; raises `BasculeError`."""

Lane = Literal["quick", "run"]
_PLACES: Mapping[Lane, int] = {"quick": 2, "run": 4}
"""How much of each kind is done at once: two children fill a small machine."""
_MOST_WAITING = 32
_KEPT = 200
_KEPT_S = 3_600.0


@dataclass(slots=True)
class Work:
    """One piece of work.

    Attributes:
        id: Unguessable: who has it may see the result.
        title: In a few words.
        owner: Who asked for it.
        key: Work with the same key has the same result; empty for work of its own.
        began_s: By the monotonic clock.
        ended_s: The same; None while it is under way.
        ended_at: By the wall clock, in seconds since 1970.
        result: What it made; None until then, or where it failed.
        problem: Why it failed; None where it did not.
    """

    id: str
    title: str
    owner: str
    key: str = ""
    began_s: float = field(default_factory=time.monotonic)
    ended_s: float | None = None
    ended_at: float | None = None
    result: Any = None
    problem: BasculeError | None = None

    @property
    def is_done(self) -> bool:
        return self.ended_s is not None

    @property
    def seconds(self) -> float:
        """How long it has taken so far, with the time that it waited."""
        return (time.monotonic() if self.ended_s is None else self.ended_s) - self.began_s


class Works:
    """The work of this process. What is done is kept for an hour; a restart forgets it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._works: dict[str, Work] = {}
        self._places = {lane: threading.Semaphore(n) for lane, n in _PLACES.items()}

    def start(
        self, title: str, do: Callable[[], Any], *, owner: str, key: str = "", lane: Lane = "quick"
    ) -> Work:
        """Begin; work with the same `key` that is under way is that work.

        Raises:
            Overloaded: Too much waits already.
        """
        with self._lock:
            self._forget()
            under_way = [one for one in self._works.values() if not one.is_done]
            same = next((one for one in under_way if key and one.key == key), None)
            if same is not None:
                return same
            if len(under_way) >= _MOST_WAITING:
                raise Overloaded(
                    f"{_MOST_WAITING} tasks are under way", hint="retry later", retry_after_s=10
                )
            work = Work(secrets.token_urlsafe(12), title, owner, key)
            self._works[work.id] = work
        threading.Thread(
            target=self._do, args=(work, do, self._places[lane]), name="bascule-work", daemon=True
        ).start()
        return work

    def get(self, work: str) -> Work:
        """One by its id. Raises `NotFound`."""
        with self._lock:
            found = self._works.get(work)
        if found is None:
            raise NotFound(
                "this task is not known: it ended over an hour ago, or the server was restarted",
                hint="start it again",
            )
        return found

    def latest(self, key: str) -> Work | None:
        """The newest work with this key."""
        with self._lock:
            found = [one for one in self._works.values() if one.key == key]
        return found[-1] if found else None

    def done(self, key: str) -> Work | None:
        """The newest work with this key that has a result."""
        with self._lock:
            found = [one for one in self._works.values() if one.key == key]
        return next((one for one in reversed(found) if one.is_done and not one.problem), None)

    @staticmethod
    def _do(work: Work, do: Callable[[], Any], place: threading.Semaphore) -> None:
        with place:
            try:
                work.result = do()
            except BasculeError as problem:
                work.problem = problem
            except Exception as problem:  # the page must say that it ended
                work.problem = Unavailable(
                    f"{work.title} failed: {type(problem).__name__}", hint="see the server's log"
                )
                raise
            finally:
                work.ended_at, work.ended_s = time.time(), time.monotonic()

    def _forget(self) -> None:
        """Drop what ended long ago, and the oldest beyond a number. The lock is held."""
        now = time.monotonic()
        ended = [one for one in self._works.values() if one.ended_s is not None]
        old = [one for one in ended if now - (one.ended_s or now) > _KEPT_S]
        for one in old + ended[: max(0, len(ended) - len(old) - _KEPT)]:
            self._works.pop(one.id, None)
