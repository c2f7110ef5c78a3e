"""Messages that the next page shows once, in a signed cookie: "rolled back", or why not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from dataclasses import asdict, dataclass
from typing import Literal

from fastapi import Request, Response

_MAX_LETTERS = 1_500
_LASTS_S = 60


@dataclass(frozen=True, slots=True)
class Flash:
    """A message: what happened, or why it did not."""

    tone: Literal["good", "bad"]
    text: str


class Flashes:
    """Signs messages with a secret of this process."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def put(self, request: Request, response: Response, flash: Flash) -> None:
        """Have the next page show it."""
        cut = Flash(flash.tone, flash.text[:_MAX_LETTERS])
        body = base64.urlsafe_b64encode(json.dumps(asdict(cut)).encode())
        response.set_cookie(
            _name(request), f"{body.decode()}.{self._sign(body)}", max_age=_LASTS_S,
            httponly=True, samesite="strict", secure=request.url.scheme == "https",
        )  # fmt: skip

    def take(self, request: Request) -> Flash | None:
        """The message of a request; None without one, or with one that was not signed here."""
        body, _, signature = request.cookies.get(_name(request), "").partition(".")
        if not signature.isascii() or not hmac.compare_digest(signature, self._sign(body.encode())):
            return None
        return Flash(**json.loads(base64.urlsafe_b64decode(body)))

    def forget(self, request: Request, response: Response) -> None:
        """Show it no more."""
        response.delete_cookie(_name(request), httponly=True, samesite="strict")

    def _sign(self, body: bytes) -> str:
        return hmac.new(self._secret, body, hashlib.sha256).hexdigest()


def _name(request: Request) -> str:
    """With the port: browsers send a cookie to every port of a host."""
    return f"bascule_flash_{request.url.port or request.url.scheme}"
