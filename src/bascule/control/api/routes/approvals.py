"""The routes of requests that wait for a second person: list, approve, decline."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import FastAPI, Query, Request
from starlette.concurrency import run_in_threadpool

from bascule.control import operations as of_server
from bascule.control.answers import Approval
from bascule.control.api.acts import Acts
from bascule.control.api.conventions import Page, Paged
from bascule.control.api.inside import ask_inside
from bascule.control.api.rights import APPROVAL, SESSION, Authorise, caller_of, serves
from bascule.control.people.sessions import Sessions
from bascule.core import Refused, Unauthenticated
from bascule.security import ANY, Action, Decision, Permission, Person
from bascule.serving.transports import Authenticator


@dataclass(frozen=True, slots=True)
class Asker:
    """The person that asked, with the rights that the key or the session has now."""

    subject: str
    short_id: str
    permissions: tuple[Permission, ...]
    check: Callable[[Action, str], None]


def add_approvals(
    app: FastAPI, acts: Acts, guard: Authenticator | None, open_sessions: Callable[[], Sessions],
    authorise: Authorise,
) -> None:  # fmt: skip
    """Add the routes to `app`."""

    @serves(app, of_server.APPROVALS)
    def approvals(paged: Paged) -> Page[Approval]:
        """Requests that wait for a second person, and what came of earlier ones."""
        return paged.numbered(acts.approvals.list(), lambda approval: approval)

    @serves(app, of_server.DECIDE)
    async def decide(
        approval: str, decision: Decision, request: Request,
        reason: Annotated[str, Query(max_length=1_024, description="Why, for the history")] = "",
    ) -> Approval:  # fmt: skip
        """Approve a request, which then runs with the rights of the person that asked; or not."""
        book, decider = acts.approvals, caller_of(request).person

        def may_approve(thing: str) -> bool:
            model = thing.partition(":")[2].partition("@")[0] or ANY
            try:
                authorise(request, "approve", model)
            except (Refused, Unauthenticated):
                return False
            return guard is not None

        def decided() -> tuple[Mapping[str, Any], bytes]:
            return book.decide(approval, decision, decider, may_approve=may_approve, reason=reason)

        act, body = await run_in_threadpool(decided)
        if decision == "decline":
            return await run_in_threadpool(book.get, approval)
        asker = await run_in_threadpool(asker_of, Person(**act["asker"]))
        method, path = act["call"].split(" ", 1)
        headers = [(name.encode(), value.encode()) for name, value in act["headers"].items()]
        status, answer = await ask_inside(
            request, method, path, quote(path).encode(), act["query"].encode(), headers, body,
            **{SESSION: asker, APPROVAL: approval},
        )  # fmt: skip
        content = json.loads(answer) if answer else None
        return await run_in_threadpool(book.ended, approval, status, content)

    def asker_of(person: Person) -> Asker:
        sessions = () if person.key else open_sessions().live()
        own = [session for session in sessions if session.short_id == person.session]

        def check(action: Action, model: str) -> None:
            if guard is not None and person.key:
                guard.check_id(person.key, action, model)
            elif own:
                own[0].check(action, model)
            else:
                raise Refused(f"the session of {person.user} has ended", hint="ask again")

        permissions = own[0].permissions if own else ()
        return Asker(person.user, person.key or person.session, permissions, check)
