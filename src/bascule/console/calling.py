"""Asks the control API in this process, with the session of a page: how pages change anything.

The request passes through the same route as one from the network: the same rights, checks, errors
and history. The session travels in the request's ASGI scope, where no client can put one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response

from bascule.console.flash import Flash
from bascule.console.session import current
from bascule.console.site import see
from bascule.control import SESSION, ask_inside
from bascule.operations import Operation


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API answered.

    Attributes:
        status: Of HTTP.
        body: The JSON value; None without one.
    """

    status: int
    body: Any

    @property
    def is_done(self) -> bool:
        return self.status < 400

    @property
    def problem(self) -> str:
        """Why it is not done, with the next step; empty if it is."""
        if self.is_done:
            return ""
        said = self.body if isinstance(self.body, dict) else {}
        detail, hint = said.get("detail", f"status {self.status}"), said.get("hint", "")
        return f"{detail} ({hint})" if hint else str(detail)


async def call(
    request: Request, operation: Operation[Any], names: Mapping[str, str] | None = None,
    body: Any = None, *, content_type: str = "application/json", query: str = "",
) -> Answer:  # fmt: skip
    """Ask for an operation of the control API.

    Args:
        request: That of the page; its session decides.
        operation: Which one.
        names: The values in the path.
        body: Sent as JSON, or as the bytes that it is; None for no body.
        content_type: Of bytes.
        query: Of the address.
    """
    named = names or {}
    sent = b"" if body is None else body
    sent = sent if isinstance(sent, bytes) else json.dumps(body).encode()
    status, answered = await ask_inside(
        request, operation.method, operation.path.format(**named), operation.at(**named).encode(),
        query.encode(), [(b"content-type", content_type.encode())], sent,
        **{SESSION: current(request)},
    )  # fmt: skip
    return Answer(status, json.loads(answered) if answered else None)


async def act(
    request: Request, to: str, operation: Operation[Any], names: Mapping[str, str] | None = None,
    body: Any = None, *, done: str = "",
) -> Response:  # fmt: skip
    """Ask for an operation, and show the page `to` with a message: that it is done, or why not.

    `done` is the message; without one, the sentence of the answer.
    """
    answer = await call(request, operation, names, body)
    if answer.problem:
        return see(request, to, Flash("bad", answer.problem))
    is_waiting = answer.status == 202 and "approval" in answer.body
    sentence = answer.body["sentence"] if is_waiting or not done else done
    return see(request, to, Flash("good", sentence))
