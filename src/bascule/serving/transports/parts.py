"""One answer in parts on its way to its client: the same over every transport.

The rules:
- what fails before the first part is answered as a whole answer would be;
- a client that does not read stops the program (`PartWire.send`), one that goes away ends it;
- the caller's right is looked at as long as the answer runs (`check_rights`);
- an answer is counted and recorded once, when it has ended.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple, Protocol

from bascule.core import BasculeError, ModelFailed, TimedOut
from bascule.security import Action
from bascule.serving.calls import Answer, AnsweredBy, Call, Cancel, Parts, PartsOutcome
from bascule.serving.execution import AdmissionQueue, Predictor
from bascule.serving.telemetry import Ending
from bascule.serving.transports.request import Request

log = logging.getLogger(__name__)


class PartWire(Protocol):
    """How a transport writes the answer in parts to one request."""

    @property
    def backlog(self) -> AdmissionQueue: ...

    def allow(self, action: Action, model: str) -> object:
        """Raise unless the caller may do that to a model; see `Authenticator`."""

    def begin(self, content_type: bytes, extra: bytes, resume: Callable[[], None]) -> None:
        """Write the head, `extra` being lines of it.

        `resume` is called when the client has read after `send` was False.
        """

    def send(self, data: bytes) -> bool:
        """Write a part; False where the client has to read before there is room for another."""

    def end(self, data: bytes, error: BasculeError | None) -> None:
        """Write what comes behind the last part, and count the answer."""


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

    __slots__ = (
        "_cancel",
        "_form",
        "_is_begun",
        "_parts",
        "_predictor",
        "_request",
        "_wire",
        "count",
    )

    _cancel: Cancel

    def __init__(
        self, request: Request, wire: PartWire, predictor: Predictor, form: PartForm
    ) -> None:
        self._request = request
        self._wire = wire
        self._predictor = predictor
        self._form = form
        self._parts: Parts | None = None
        self._is_begun = False
        self.count = 0

    def ask(self, call: Call, allowed_s: float) -> None:
        """Have the predictor begin; raises as `Predictor.answer_in_parts`."""
        request = self._request
        request.on_gone = self._gone
        self._wire.backlog.senders.add(self)
        try:
            self._cancel = self._predictor.answer_in_parts(call, request, allowed_s, self._begin)
        except BaseException:
            request.on_gone = None
            self._wire.backlog.senders.discard(self)
            raise

    def _begin(self, outcome: PartsOutcome) -> None:
        if isinstance(outcome, BasculeError):
            self.finish(outcome)
            return
        self._parts = outcome
        outcome.start(self)

    def _begin_wire(self) -> None:
        parts = self._parts
        assert parts is not None
        self._is_begun = True
        self._wire.begin(*self._form.head(parts.by), parts.resume)

    def take(self, part: Answer) -> bool:
        """See `calls.Receiver`."""
        try:
            data = self._form.part(part)
        except BasculeError as error:
            self._end(error)
            return False
        except Exception:
            # The last line of defence, as for whole answers.
            log.exception("a part failed%s", self._request.named())
            self._end(ModelFailed("the part cannot be written", reason=""))
            return False
        if not self._is_begun:
            self._begin_wire()
        self.count += 1
        return self._wire.send(data)

    def finish(self, error: BasculeError | None) -> None:
        """See `calls.Receiver`."""
        ending = Ending.COMPLETE if error is None else Ending.FAILED
        if isinstance(error, TimedOut):
            ending = Ending.PART_LATE if self.count else Ending.FIRST_PART_LATE
        self._finish(error, ending)

    def _finish(self, error: BasculeError | None, ending: Ending) -> None:
        request = self._request
        self._note(ending)
        if error is None:
            if not self._is_begun:  # an answer of no parts
                self._begin_wire()
        elif self._is_begun:
            error = request.fails(error)
        else:
            request.fail(error)
            return
        self._wire.end(self._form.end(self.count, error), error)

    def _end(self, error: BasculeError, ending: Ending = Ending.FAILED) -> None:
        self._cancel()
        self._finish(error, ending)

    def stop(self, error: BasculeError) -> None:
        """See `admission.Sender`."""
        self._end(error, Ending.DRAINED)

    def check_right(self) -> None:
        """See `admission.Sender`."""
        try:
            self._wire.allow(self._predictor.needs, self._predictor.name)
        except BasculeError as error:
            self._end(error.with_traceback(None), Ending.REVOKED)

    def _gone(self) -> None:
        """The client has gone; its transport counts the answer."""
        self._cancel()
        self._note(Ending.CANCELLED)

    def _note(self, ending: Ending) -> None:
        request, unit = self._request, self._request.unit
        self._wire.backlog.senders.discard(self)
        request.on_gone = None
        request.series.count_ending(ending, self.count)
        known = unit if isinstance(unit, tuple) else ("" if unit is None else str(unit),)
        request.unit = known[0], str(self.count), ending, *known[3:]


def check_rights(backlog: AdmissionQueue) -> None:
    """End the answers in parts whose callers have lost their rights."""
    for sender in tuple(backlog.senders):
        sender.check_right()


def stop_all(backlog: AdmissionQueue, error: BasculeError) -> None:
    """End all answers in parts: the worker stops."""
    for sender in tuple(backlog.senders):
        sender.stop(error)
