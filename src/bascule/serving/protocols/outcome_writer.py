"""Writes outcomes on a thread, so that a slow disk delays no prediction.

The requests that wait while others are written are written together, by one `fsync` for each
model, and are answered when they are on the disk. Nothing is imported, and no thread is started,
before the first request.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bascule.core import BasculeError, Overloaded
from bascule.serving.transports import internal_error

if TYPE_CHECKING:
    from bascule.monitoring.ledger import Line, OutcomeSpool, Refused

log = logging.getLogger(__name__)

_MAX_WAITING_BYTES = 16 << 20
"""Of requests that are not written yet."""
_MAX_TOGETHER = 64
_IDLE_S = 60.0


class Added(NamedTuple):
    """What became of the outcomes of one request."""

    taken: int
    refused: Sequence[Refused]


Deliver = Callable[[Added | BasculeError], None]


class _Waiting(NamedTuple):
    model: str
    size_bytes: int
    read: Callable[[], Sequence[object]]
    deliver: Deliver
    loop: asyncio.AbstractEventLoop


class OutcomeWriter:
    """Keeps the outcomes that one worker receives, in the home at `home`."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._waiting_bytes = 0
        self._thread: threading.Thread | None = None

    def add(
        self, model: str, size_bytes: int, read: Callable[[], Sequence[object]], deliver: Deliver
    ) -> None:
        """Keep the outcomes that `read` returns. On the event loop.

        Args:
            model: Of which model.
            size_bytes: Of the request, counted until it is answered.
            read: Reads the outcomes; called on the thread, and may raise `BasculeError`.
            deliver: Called on the event loop, once, when they are on the disk.

        Raises:
            Overloaded: Too many bytes wait.
        """
        if self._waiting_bytes + size_bytes > _MAX_WAITING_BYTES and self._waiting_bytes:
            raise Overloaded(
                f"outcomes: {self._waiting_bytes:,} bytes wait for the disk already",
                hint="retry later",
                retry_after_s=1,
            )
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._write, name="bascule-outcomes", daemon=True
            )
            self._thread.start()
        self._waiting_bytes += size_bytes
        self._waiting.put(_Waiting(model, size_bytes, read, deliver, asyncio.get_running_loop()))

    def close(self) -> None:
        """Write what waits, and end."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()

    def _write(self) -> None:
        spool: OutcomeSpool | None = None
        is_open = True
        while is_open:
            try:
                together = [self._waiting.get(timeout=_IDLE_S)]
            except queue.Empty:
                if spool is not None:
                    spool.close()  # its files are complete: hosts share them
                continue
            while len(together) < _MAX_TOGETHER and not self._waiting.empty():
                together.append(self._waiting.get())
            is_open = None not in together
            requests = [one for one in together if one is not None]
            try:
                spool = spool or _open_spool(self._home)
            except Exception as problem:  # the thread must go on: callers wait for it
                for one in requests:
                    self._done(one, _told(problem))
                continue
            _keep(spool, requests, self._done)
        if spool is not None:
            spool.close()

    def _done(self, one: _Waiting, outcome: Added | BasculeError) -> None:
        def deliver() -> None:
            self._waiting_bytes -= one.size_bytes
            one.deliver(outcome)

        if not one.loop.is_closed():
            one.loop.call_soon_threadsafe(deliver)


def _open_spool(home: Path) -> OutcomeSpool:
    # Imported here: a worker that receives no outcomes need not have it in memory.
    from bascule.monitoring.ledger import OutcomeSpool

    return OutcomeSpool(home)


def _keep(
    spool: OutcomeSpool,
    together: Sequence[_Waiting],
    done: Callable[[_Waiting, Added | BasculeError], None],
) -> None:
    """Read requests, write them model by model, and answer each."""
    from bascule.monitoring.ledger import read_outcomes

    by_model: dict[str, list[tuple[_Waiting, list[Line], list[Refused]]]] = {}
    for one in together:
        try:
            lines, refused = read_outcomes(one.read())
        except Exception as problem:
            done(one, _told(problem))
        else:
            by_model.setdefault(one.model, []).append((one, lines, refused))
    for model, parts in by_model.items():
        failed: BasculeError | None = None
        try:
            spool.append(model, [lines for _, lines, _ in parts if lines])
        except Exception as error:
            failed = _told(error)
        for one, lines, refused in parts:
            done(one, failed or Added(len(lines), refused))


def _told(problem: Exception) -> BasculeError:
    if isinstance(problem, BasculeError):
        return problem
    log.error("outcomes could not be kept", exc_info=problem)
    return internal_error()
