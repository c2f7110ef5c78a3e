"""The routes of requests that wait for a second person: list, approve, decline."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

from fastapi import FastAPI, Query, Request
from starlette.concurrency import run_in_threadpool

from bascule.control import operations as of_server
from bascule.control.answers import Approval
from bascule.control.api.conventions import Page, Paged
from bascule.control.api.inside import ask_inside
from bascule.control.api.rights import APPROVAL, SESSION, Authorise, caller_of, serves
from bascule.control.people.cookies import SignedIn
from bascule.control.people.sessions import Sessions
from bascule.core import Refused, Unauthenticated
from bascule.security import ANY, Action, Decision, Permission, Person
from bascule.serving.transports import Authenticator

if TYPE_CHECKING:
    from bascule.control.approvals import Approvals


@dataclass(frozen=True, slots=True)
class Asker:
    """The key that asked, with the rights that it has now, or a session that has ended."""

    subject: str
    short_id: str
    check: Callable[[Action, str], None]
    permissions: tuple[Permission, ...] = ()


def add_approvals(
    app: FastAPI, open_approvals: Callable[[], Approvals], guard: Authenticator | None,
    open_sessions: Callable[[], Sessions], authorise: Authorise,
) -> None:  # fmt: skip
    """Add the routes to `app`."""

    @serves(app, of_server.APPROVALS)
    def approvals(paged: Paged) -> Page[Approval]:
        """Requests that wait for a second person, and what came of earlier ones."""
        return paged.numbered(open_approvals().list(), lambda approval: approval)

    @serves(app, of_server.DECIDE)
    async def decide(
        approval: str, decision: Decision, request: Request,
        reason: Annotated[str, Query(max_length=1_024, description="Why, for the history")] = "",
    ) -> Approval:  # fmt: skip
        """Approve a request, which then runs with the rights of the person that asked; or not."""
        book, decider = open_approvals(), caller_of(request).person

        def may_approve(thing: str) -> bool:
            model = thing.partition(":")[2].partition("@")[0] or ANY
            try:
                authorise(request, "approve", model)
            except (Refused, Unauthenticated):
                return False
            return guard is not None

        decided, act, body = await run_in_threadpool(
            book.decide, approval, decision, decider, may_approve=may_approve, reason=reason
        )
        if decision == "decline":
            return decided
        asker = await run_in_threadpool(asker_of, Person(**act["asker"]))
        method, path = act["call"].split(" ", 1)
        headers = [(name.encode(), value.encode()) for name, value in act["headers"].items()]
        status, answer = await ask_inside(
            request, method, path, quote(path).encode(), act["query"].encode(), headers, body,
            **{SESSION: asker, APPROVAL: approval},
        )  # fmt: skip
        content = json.loads(answer) if answer else None
        return await run_in_threadpool(book.ended, approval, status, content)

    def asker_of(person: Person) -> SignedIn:
        def check(action: Action, model: str) -> None:
            if guard is None or not person.key:
                raise Refused(f"the session of {person.user} has ended", hint="ask again")
            guard.look()
            guard.check_id(person.key, action, model)

        key = Asker(person.user, person.key or person.session, check)
        sessions = open_sessions().live() if person.session else ()
        return next((live for live in sessions if live.short_id == person.session), key)
