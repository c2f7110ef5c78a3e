"""Refuses requests of the control API by the names that they use; see `transports.hosts`."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from bascule.control.api.problems import bug, problem_of
from bascule.serving.transports import HostPolicy


def answering_to(hosts: HostPolicy, app: ASGIApp) -> ASGIApp:
    """`app` behind the policy: what it refuses reaches no route and no authentication."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        headers: list[tuple[bytes, bytes]] = scope.get("headers", [])
        named = {
            name: [value for key, value in headers if key == name] for name in (b"host", b"origin")
        }
        refusal = hosts.refusal(named[b"host"], named[b"origin"])
        if refusal is None:
            await app(scope, receive, send)
            return
        path = str(scope.get("path", ""))
        refused = problem_of(refusal, path) or bug(path)
        await refused(scope, receive, send)

    return answer
