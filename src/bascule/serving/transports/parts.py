"""One answer in parts on its way to its client: the same over every transport.

The rules:
- what fails before the first part is answered as a whole answer would be;
- a client that does not read stops the program (`RequestInParts`), one that goes away ends it;
- the caller's right is looked at as long as the answer runs (`check_rights`);
- an answer is counted and recorded once, when it has ended.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

from bascule.core import BasculeError, ModelFailed, TimedOut, Unavailable
from bascule.serving.calls import Answer, AnsweredBy, Call, Cancel, Parts, PartsOutcome
from bascule.serving.execution import AdmissionQueue, Predictor
from bascule.serving.telemetry import Ending
from bascule.serving.transports.request import Request

log = logging.getLogger(__name__)


class RequestInParts(Request):
    """A request whose transport can answer it in parts."""

    __slots__ = ()

    @abstractmethod
    def begin_parts(self, content_type: bytes, extra: bytes, resume: Callable[[], None]) -> None:
        """Begin an answer.

        Args:
            content_type: Of the answer.
            extra: Header lines, each ended by CRLF.
            resume: What to call when the client has read after `send_part` was False.
        """

    @abstractmethod
    def send_part(self, data: bytes) -> bool:
        """Send a part; False where the client has to read before there is room for another."""

    @abstractmethod
    def end_parts(self, data: bytes, error: BasculeError | None) -> None:
        """End an answer that has begun, and count it; `data` comes behind the last part."""


class PartForm(NamedTuple):
    """How a protocol writes an answer in parts.

    Attributes:
        head: From what answers to the type of the answer, and lines of its head.
        part: A part.
        end: What comes behind the last part: how many there were, and the error if one ended it.
    """

    head: Callable[[AnsweredBy], tuple[bytes, bytes]]
    part: Callable[[Answer], bytes]
    end: Callable[[int, BasculeError | None], bytes]


class PartSender:
    """Sends the answer to one request (a `calls.Receiver`). On the event loop only."""

    __slots__ = ("_backlog", "_cancel", "_form", "_parts", "_predictor", "_request", "count")

    def __init__(
        self, request: RequestInParts, predictor: Predictor, form: PartForm, backlog: AdmissionQueue
    ) -> None:
        self._request = request
        self._predictor = predictor
        self._form = form
        self._backlog = backlog
        self._parts: Parts | None = None
        self._cancel: Cancel | None = None
        self.count = 0

    def ask(self, call: Call, allowed_s: float) -> None:
        """Have the predictor begin; raises as `Predictor.answer_in_parts`."""
        request = self._request
        request.on_gone = self._gone
        self._backlog.senders.add(self)
        try:
            self._cancel = self._predictor.answer_in_parts(call, request, allowed_s, self._begin)
        except BaseException:
            request.on_gone = None
            self._backlog.senders.discard(self)
            raise

    def _begin(self, outcome: PartsOutcome) -> None:
        if isinstance(outcome, BasculeError):
            self.finish(outcome)
            return
        self._parts = outcome
        self._request.begin_parts(*self._form.head(outcome.by), outcome.resume)
        outcome.start(self)

    def take(self, part: Answer) -> bool:
        """See `calls.Receiver`."""
        try:
            data = self._form.part(part)
        except BasculeError as error:
            self.end(error)
            return False
        except Exception:
            # The last line of defence, as for whole answers.
            log.exception("a part could not be written%s", self._request.named())
            self.end(ModelFailed("the model's answer cannot be told", reason=""))
            return False
        self.count += 1
        return self._request.send_part(data)

    def finish(self, error: BasculeError | None) -> None:
        """See `calls.Receiver`."""
        self._finish(error, _ending_of(error, self.count))

    def _finish(self, error: BasculeError | None, ending: Ending) -> None:
        request = self._request
        self._note(ending)
        if error is not None and self._parts is None:
            request.fail(error)
            return
        if error is not None:
            error = request.fails(error)
        request.end_parts(self._form.end(self.count, error), error)

    def end(self, error: BasculeError, ending: Ending | None = None) -> None:
        """End an answer that is on its way with an error."""
        assert self._cancel is not None
        self._cancel()
        self._finish(error, ending or _ending_of(error, self.count))

    def stop(self, error: BasculeError) -> None:
        """See `admission.Sender`."""
        self.end(error, Ending.DRAINED)

    def _gone(self) -> None:
        """The client has gone; its transport counts the answer."""
        assert self._cancel is not None
        self._cancel()
        self._note(Ending.CANCELLED)

    def _note(self, ending: Ending) -> None:
        request = self._request
        self._backlog.senders.discard(self)
        request.on_gone = None
        request.series.count_ending(ending, self.count)
        unit = request.unit
        request.unit = "" if unit is None else str(unit), str(self.count), ending

    def check_right(self) -> None:
        """End the answer if its caller may not have it any more."""
        try:
            self._request.allow(self._predictor.needs, self._predictor.name)
        except BasculeError as error:
            self.end(error.with_traceback(None), Ending.REVOKED)


def _ending_of(error: BasculeError | None, parts: int) -> Ending:
    if error is None:
        return Ending.COMPLETE
    if isinstance(error, TimedOut):
        return Ending.PART_LATE if parts else Ending.FIRST_PART_LATE
    return Ending.FAILED


def check_rights(backlog: AdmissionQueue) -> None:
    """End the answers in parts whose callers have lost their rights."""
    for sender in tuple(backlog.senders):
        sender.check_right()


def end_all(backlog: AdmissionQueue) -> None:
    """End all answers in parts: the worker stops."""
    stopping = Unavailable("the server is stopping", hint="retry", retry_after_s=1)
    for sender in tuple(backlog.senders):
        sender.stop(stopping)
