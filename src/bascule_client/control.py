"""Asks the control API of a server: JSON, pages of lists, files up and down.

A request that changes something carries an `Idempotency-Key`, so it is sent again when the
connection is lost before its answer. Errors are raised as the kinds that the server raised.
"""

from __future__ import annotations

import http.client
import json
import ssl
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlencode

from bascule_client.addresses import Address, parse_address
from bascule_client.deadlines import DeadlineConnection
from bascule_client.errors import (
    KINDS,
    BasculeError,
    Invalid,
    Refused,
    Unauthenticated,
    Unavailable,
)  # fmt: skip
from bascule_client.kinds import kind_of
from bascule_client.wire import Reply

KIND_URN = "urn:bascule:error:"
PAGE = 1_000
CONTROL_PORT = 8082
_TRIES = 2
_CHUNK_BYTES = 1 << 20
_KINDS = {kind.__name__: kind for kind in KINDS}
_EXAMPLE = "give for example http://127.0.0.1:8082"
_HINT = "start one with bascule serve or bascule control, and check its address and port"


class ControlClient:
    """Asks one control API. Each request has a connection of its own."""

    def __init__(
        self,
        url: str,
        *,
        key: str = "",
        timeout_s: float = 180.0,
        tls: ssl.SSLContext | None = None,
        hint: str = _HINT,
    ) -> None:
        """Open nothing yet.

        Args:
            url: `http://HOST:PORT` or `https://HOST:PORT`; a path in front may follow.
            key: The caller's, where the server asks for keys.
            timeout_s: How long a request may take, and each 64 kB of a long one. Longer than it
                takes to load a model.
            tls: What an https address is checked with; the system's authorities if None.
            hint: The next step where no server answers.

        Raises:
            Invalid: The address cannot be one, or is a Unix socket.
        """
        self._address = parse_address(url)
        if self._address.unix_socket:
            raise Invalid(f"{url} is a Unix socket, which a control API has not", hint=_EXAMPLE)
        self._tls = tls or self._address.tls
        self._timeout_s = timeout_s
        self._hint = hint
        self._headers = {"Accept": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"

    def do(self, operation: str, body: Any = None, *, user: str = "", **names: object) -> Any:
        """The JSON answer of an operation, which is named as in `docs/reference/control-api.md`.

        `do("POST /api/v1/rollouts/{rollout}/{command}", {"reason": "slow"}, rollout="late",
        command="abort")`

        Args:
            operation: Method and path.
            body: Is sent as JSON; None for no body.
            user: The name for histories, where callers need no keys.
            **names: The names of the path; others go into the query, but those that are None.

        Raises:
            Unavailable: No control API answers there.
            BasculeError: The error that the server raised.
        """
        method, _, path = operation.partition(" ")
        target = _target(*placed(path, names))
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **_of_user(user)}
        return self._send(method, target, lambda: content, headers, _json)

    def list(self, operation: str, **names: object) -> Iterator[Any]:
        """The items of a list, page by page; see `do`."""
        wanted: dict[str, Any] = {"limit": PAGE, **names}
        while True:
            page = self.do(operation, **wanted)
            yield from page["items"]
            wanted["cursor"] = page["next"]
            if page["next"] is None:
                return

    def upload(self, path: str, file: Path, *, user: str = "") -> Any:
        """The JSON answer to a file."""

        def opened() -> IO[bytes]:
            return file.open("rb")

        headers = {"Content-Type": "application/octet-stream", **_of_user(user)}
        return self._send("POST", path, opened, headers, _json)

    def send(
        self, path: str, content: bytes, headers: Mapping[str, str], *,
        query: Mapping[str, object],
    ) -> Any:  # fmt: skip
        """The JSON answer to bytes, of the media type in the headers."""
        return self._send("POST", _target(path, query), lambda: content, headers, _json)

    def read(self, path: str) -> Reply:
        """An answer as it comes, in memory."""

        def whole(answer: http.client.HTTPResponse) -> Reply:
            headers = {name.lower(): value for name, value in answer.headers.items()}
            return Reply(answer.status, headers, answer.read())

        reply: Reply = self._send("GET", path, lambda: None, {}, whole)
        return reply

    def download(self, path: str, target: Path) -> str:
        """Write an answer to a new file; returns its entity tag, without quotes."""

        def kept(answer: http.client.HTTPResponse) -> str:
            with target.open("wb") as file:
                while chunk := answer.read1(_CHUNK_BYTES):
                    file.write(chunk)
            if answer.length:  # `read1` says nothing of an end that came too soon
                raise http.client.IncompleteRead(b"", answer.length)
            return (answer.headers.get("ETag") or "").strip('"')

        tag: str = self._send("GET", path, lambda: None, {}, kept)
        return tag

    def _send(
        self,
        method: str,
        target: str,
        content: Callable[[], bytes | IO[bytes] | None],
        more: Mapping[str, str],
        read: Callable[[http.client.HTTPResponse], Any],
    ) -> Any:
        headers = {**self._headers, **more}
        if method != "GET":
            headers["Idempotency-Key"] = f'"{uuid.uuid4()}"'
        for left in reversed(range(_TRIES)):
            body = content()
            try:
                with closing(self._connection()) as connection:
                    if body is not None and not isinstance(body, bytes):
                        headers["Content-Length"] = str(body.seek(0, 2))
                        body.seek(0)
                    answer = _answer(
                        connection, method, self._address.prefix + target, body, headers
                    )
                    if answer.status >= 400:
                        raise _error_of(answer)
                    if approval := answer.headers.get("Bascule-Approval"):
                        raise Refused(
                            f"this waits for the approval of another person: {approval}",
                            hint=f"bascule audit approve {approval}; it is done then",
                        )
                    return read(answer)
            except (ConnectionError, http.client.RemoteDisconnected) as problem:
                if left == 0 or isinstance(problem, ConnectionRefusedError):
                    raise self._away() from None
            except (OSError, ValueError, http.client.HTTPException):
                raise self._away() from None
            finally:
                if body is not None and not isinstance(body, bytes):
                    body.close()
        raise AssertionError("every try returns or raises")

    def _connection(self) -> DeadlineConnection:
        address = self._address
        return DeadlineConnection(
            address.host, address.port, self._timeout_s, self._tls, renews=True
        )

    def _away(self) -> BasculeError:
        host, port = self._address.host, self._address.port
        shown = f"[{host}]" if ":" in host else host
        return Unavailable(
            f"no server's control API answers at {shown}:{port}"
            + ("" if self._tls is None else ", over TLS"),
            hint=self._hint,
        )


def control_url_of(address: Address) -> str:
    """The control API beside the server at `address`: the same host, the default port.

    Raises:
        Invalid: The server is reached by a Unix socket, which tells no host.
    """
    if address.unix_socket:
        raise Invalid("control_url is not given", hint=_EXAMPLE)
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{'http' if address.tls is None else 'https'}://{host}:{CONTROL_PORT}"


def placed(path: str, names: Mapping[str, object]) -> tuple[str, dict[str, object]]:
    """A path with its names in braces filled in, quoted, and the names that are not in it."""
    quoted = {name: quote(str(value), safe="") for name, value in names.items()}
    others = {name: value for name, value in names.items() if f"{{{name}}}" not in path}
    return path.format(**quoted), others


def _of_user(user: str) -> dict[str, str]:
    return {"Bascule-User": quote(user)} if user else {}


def _target(path: str, query: Mapping[str, object]) -> str:
    given = {name: value for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _answer(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    body: bytes | IO[bytes] | None,
    headers: Mapping[str, str],
) -> http.client.HTTPResponse:
    try:
        connection.request(method, target, body, dict(headers))
    except (BrokenPipeError, ConnectionResetError):
        # A server that refuses a long body answers before it has read it.
        if connection.sock is None:
            raise
    return connection.getresponse()


def _json(answer: http.client.HTTPResponse) -> Any:
    return json.loads(answer.read())


def _error_of(answer: http.client.HTTPResponse) -> BasculeError:
    """The error that a problem document (RFC 9457) tells of."""
    kind = kind_of(answer.status)
    try:
        said = json.loads(answer.read())
        kind = _KINDS.get(str(said.get("type", "")).removeprefix(KIND_URN), kind)
        message = str(said.get("detail") or said.get("error") or "")
        hint = str(said.get("hint") or "")
        model = (said.get("facts") or {}).get("model")
    except (ValueError, AttributeError, RecursionError):
        message, hint, model = "", "", None
    if kind is Unauthenticated:
        hint = "set BASCULE_KEY to a key that allows it; bascule keys create NAME makes one"
    facts = {} if model is None else {"model": str(model)}
    return kind(message or f"the answer has status {answer.status}", hint=hint, **facts)
