"""What the audit chain has of requests: where acts come from, refusals, and acts without an event.

A room records its event in the transaction of the act (`catalogue.sealing`). What changes nothing
in the catalogue, such as a load, and what is refused, is recorded here, after it happened; where
the catalogue is away, the act stands and the log says that it is not in the chain.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from bascule.catalogue import origins
from bascule.core import BasculeError, NotFound, Refused
from bascule.operations import MAX_BODY_BYTES, Operation
from bascule.security import Person

if TYPE_CHECKING:
    from bascule.catalogue import Catalogue
    from bascule.control.approvals import Approvals

log = logging.getLogger(__name__)

REQUEST_ID = "X-Request-ID"
APPROVAL_HEADER = "Bascule-Approval"
"""The id of the approval that a request waits for."""
_KEPT = ("content-type", "if-match", "if-none-match")
_MAX_ID, _MAX_REASON = 128, 512
_REFUSALS_AT_ONCE, _REFUSALS_PER_S = 100.0, 1.0


def origin_of(request: Request, operation: Operation[Any]) -> origins.Origin:
    """Where the acts of a request come from, before its caller is known."""
    request_id = request.headers.get(REQUEST_ID, "")
    is_id = request_id.isprintable() and 0 < len(request_id) <= _MAX_ID
    return origins.Origin(
        operation.name, address=request.client.host if request.client else "",
        request=request_id if is_id else uuid.uuid4().hex,
        approval=request.scope.get("bascule.approval", ""),
    )  # fmt: skip


class Acts:
    """Records what requests did and were refused. Refusals are bounded."""

    def __init__(
        self, open_catalogue: Callable[[], Catalogue] | None,
        open_approvals: Callable[[], Approvals], protected: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Nothing is opened yet; None records nothing. `protected` takes a second person."""
        self._open, self._open_approvals, self.protected = open_catalogue, open_approvals, protected
        self._left, self._at_s, self._unrecorded = _REFUSALS_AT_ONCE, time.monotonic(), 0

    async def wait(
        self, request: Request, operation: Operation[Any], thing: str, asker: Person
    ) -> Response:
        """Keep a request until a second person decides, and answer that it waits."""
        if operation.max_body_bytes > MAX_BODY_BYTES:
            raise Refused(f"{thing} is protected: an upload cannot wait", hint="take it out of it")
        act = {
            "call": f"{request.method} {request.url.path}", "query": request.url.query,
            "headers": {name: request.headers[name] for name in _KEPT if name in request.headers},
        }  # fmt: skip
        body, book = await request.body(), self._open_approvals()
        approval = await run_in_threadpool(book.ask, thing, act, body, asker)
        content = {
            "approval": approval.id, "thing": thing, "ends_at": approval.ends_at.isoformat(),
            "sentence": f"{thing} waits for the approval of another person: {approval.id}",
        }  # fmt: skip
        return JSONResponse(content, 202, {APPROVAL_HEADER: approval.id})

    async def done(self, request: Request, operation: Operation[Any], user: str) -> None:
        """Record an act of which no room has recorded an event."""
        await self._record(request, operation, "requested", user, "", {})

    async def refused(
        self, request: Request, operation: Operation[Any], user: str | None, reason: str
    ) -> None:
        """Record that a caller tried what it may not.

        A caller without a key (`user` is None) must not add rows to the catalogue. Such tries, and
        those over the bound, are counted in the next record.
        """
        now_s = time.monotonic()
        passed_s, self._at_s = now_s - self._at_s, now_s
        self._left = min(_REFUSALS_AT_ONCE, self._left + passed_s * _REFUSALS_PER_S)
        if user is None or self._left < 1.0:
            self._unrecorded += 1
            return
        self._left -= 1.0
        more, self._unrecorded = self._unrecorded, 0
        body = {"not_recorded_before": more} if more else {}
        await self._record(request, operation, "refused", user, reason[:_MAX_REASON], body)

    async def _record(
        self, request: Request, operation: Operation[Any], kind: str, user: str, reason: str,
        body: dict[str, Any],
    ) -> None:  # fmt: skip
        from bascule.catalogue import events

        open_catalogue, path = self._open, request.url.path
        if open_catalogue is None:
            return
        sentence = f"{request.method} {path} {kind}"
        body |= {"sentence": sentence, "operation": operation.name}
        subject = events.Subject("operation", path)
        event = events.Event(subject, kind, datetime.now(UTC), user, reason, body)

        def append() -> None:
            with open_catalogue().write() as connection:
                events.append(connection, event)

        try:
            await run_in_threadpool(append)
        except NotFound:
            pass  # nothing was ever registered: there is no chain
        except BasculeError as error:
            log.error("%s by %s is not in the audit chain: %s", sentence, user, error)  # noqa: TRY400 -- in one line
