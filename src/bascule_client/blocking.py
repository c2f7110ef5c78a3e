"""The blocking client."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from bascule_client.addresses import Address, parse_address
from bascule_client.answer import Answer
from bascule_client.conversation import Ask, Conversation, Steps, common_headers, timed
from bascule_client.errors import Invalid
from bascule_client.outcomes import OutcomesAdded
from bascule_client.tensors import RequestOptions
from bascule_client.wire import Lost, Outcome, Reply, ReplyReader, head_of

if TYPE_CHECKING:  # of no use to a client that predicts alone
    from bascule_client.control import ControlClient
    from bascule_client.later import LaterAnswer

T = TypeVar("T")

IDLE_S = 60.0
"""How long an idle connection is kept; a Bascule server closes it after 75 s."""

MAX_IDLE = 32
_READ_BYTES = 256 << 10
_JOINED_BYTES = 64 << 10
"""Up to this, head and body are one piece; copying more costs more than another call."""


class Client:
    """Asks a server for predictions, as `Bundle.predict` asks a bundle in the hand.

    Safe for threads: each has a connection of its own while it asks, and connections are kept.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        model: str | None = None,
        key: str | None = None,
        timeout_s: float = 10.0,
        retries: int = 3,
        max_request_bytes: int = 16 << 20,
        tls_authority: str | Path | None = None,
        tls_certificate: str | Path | None = None,
        tls_key: str | Path | None = None,
        control_url: str = "",
    ) -> None:
        """Open nothing yet.

        Args:
            url: `http://HOST:PORT`, `https://HOST:PORT` or `unix:/PATH`. A path in front of the
                server's own may follow.
            model: `gb`, or `gb/3` for one version; None where the server serves one model alone.
            key: The caller's, where the server asks for keys.
            timeout_s: How long one call may take in all, retries included. Each request carries
                the time left, and the server abandons it after that.
            retries: How often a request may be sent again; see `retrying` for which.
            max_request_bytes: A table with more is sent in parts, by rows.
            tls_authority: PEM: who must have signed the server's certificate; those that the
                system trusts if None.
            tls_certificate: PEM: the client's own, where the server asks for one.
            tls_key: PEM: its key, if it is not in the same file.
            control_url: The address of the control API, for `control`; port 8082 of the same host
                by default.

        Raises:
            Invalid: The address is none, or a file cannot be used.
        """
        self._key = key or ""
        self._control_url = control_url
        self._control: ControlClient | None = None
        self._address = parse_address(
            url, tls_authority=tls_authority, tls_certificate=tls_certificate, tls_key=tls_key
        )
        self._headers = common_headers(self._address.host_header, key)
        self._conversation = Conversation(
            url, model=model, timeout_s=timeout_s, retries=retries,
            max_request_bytes=max_request_bytes,
        )  # fmt: skip
        self._idle: deque[tuple[socket.socket, float]] = deque()
        self._lock = threading.Lock()
        self._is_closed = False

    def predict(
        self,
        data: Any,
        *,
        confidence: float | None = None,
        conformal: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        outputs: list[str] | tuple[str, ...] | None = None,
        model: str | None = None,
        as_json: bool = False,
        timeout_s: float | None = None,
    ) -> Answer:
        """The model's answer for any table or matrix that fits its signature.

        Args:
            data: The rows, as `Bundle.predict` takes them.
            confidence: How often the truth should be inside the set or interval that is added.
            conformal: The method; see `Bundle.predict`.
            parameters: Of other extra outputs, by name. None switches off what the server adds.
            outputs: The outputs wanted; all if None.
            model: Another than the client's.
            as_json: Send and read decimal numbers in place of bytes. The values are the same but
                for infinite ones, which come as NaN.
            timeout_s: Another than the client's.

        Raises:
            Invalid: The rows do not fit; the message names the column.
            BasculeError: The server's error, as the same kind; `TimedOut` after `timeout_s`,
                `Unavailable` if the server cannot be reached.
        """
        asked = RequestOptions.of(
            outputs, parameters, as_json=as_json, confidence=confidence, conformal=conformal
        )
        return self._carried(self._conversation.predict(data, asked, model, timeout_s))

    def submit(
        self,
        data: Any,
        *,
        parameters: Mapping[str, Any] | None = None,
        outputs: list[str] | tuple[str, ...] | None = None,
        model: str | None = None,
        callback: str = "",
    ) -> LaterAnswer:
        """Have rows answered later, by a job of the server at `control_url`.

        Args:
            data: The rows, as `predict` takes them, in one request.
            parameters: See `predict`.
            outputs: See `predict`.
            model: Another than the client's.
            callback: An address of the server's setting `deferred.callbacks`, told the end.

        Raises:
            Overloaded: Too many requests wait.
            BasculeError: See `predict`.
        """
        from bascule_client.later import LaterAnswer

        asked = RequestOptions.of(outputs, parameters, as_json=False)
        request, known = self._carried(self._conversation.whole_request(data, asked, model))
        _, _, _, name, *versions = request.path.split("/")
        job = self.control.send(
            f"/api/v1/models/{name}/inferences", request.body, dict(request.headers),
            query={"version": "".join(versions[1:]), "callback": callback},
        )  # fmt: skip
        return LaterAnswer(self.control, job["id"], known.places)

    def add_outcomes(
        self,
        outcomes: Any,
        *,
        model: str | None = None,
        id_column: str = "id",
        truth_column: str = "truth",
        time_column: str | None = None,
        timeout_s: float | None = None,
    ) -> OutcomesAdded:
        """Tell the server what was true, by prediction ids such as `Answer.ids`.

        Args:
            outcomes: Pairs of id and truth, rows as dictionaries, or a table of any library.
            model: Another than the client's.
            id_column: The column, or key, of the prediction ids: `ID#ROW`, or `ID` for row 0.
            truth_column: That of the truths: numbers, texts or booleans.
            time_column: That of the times when each became true; now if None.
            timeout_s: Another than the client's; for all outcomes together.

        Returns:
            How many are on the server's disk, and those that were refused, with the reason. The
            same outcomes again change nothing; of several truths the last one counts.

        Raises:
            Invalid: A column is missing.
            BasculeError: See `predict`; outcomes of earlier requests are kept.
        """
        return self._carried(
            self._conversation.add_outcomes(
                outcomes, model, id_column, truth_column, time_column, timeout_s
            )
        )

    def metadata(self, model: str | None = None) -> dict[str, Any]:
        """What the model takes and returns, as the protocol says it."""
        return self._carried(self._conversation.metadata(model))

    def models(self) -> list[str]:
        """The names of what is served, as the prediction port tells them."""
        return self._carried(self._conversation.models())

    @property
    def control(self) -> ControlClient:
        """The control API: deploy, roll out and back, look at models and alerts."""
        if self._control is None:
            from bascule_client.control import ControlClient, control_url_of

            url = self._control_url or control_url_of(self._address)
            tls = self._address.tls if url.startswith("https") else None
            self._control = ControlClient(url, key=self._key, tls=tls)
        return self._control

    def ready(self, model: str | None = None) -> bool:
        """Whether the model (the server, if none is named) can be asked now. Asked once."""
        return self._carried(self._conversation.ready(model))

    def close(self) -> None:
        """End the connections. What is under way ends as it would have; nothing new is asked."""
        self._is_closed = True
        while self._idle:
            self._idle.pop()[0].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._address.url!r})"

    # -- carrying out --

    def _carried(self, steps: Steps[T]) -> T:
        if self._is_closed:
            raise Invalid("the client was closed", hint="ask inside its with block")
        outcome: Outcome | None = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as end:
                made: T = end.value
                return made
            if isinstance(step, Ask):
                outcome = self._sent(step)
            else:
                time.sleep(step.wait_s)
                outcome = None

    def _sent(self, ask: Ask) -> Outcome:
        until = time.monotonic() + ask.allowed_s
        try:
            connection = self._taken() or _connected(self._address, until)
        except TimeoutError:
            return Lost("no connection in time", reached=False, late=True)
        except OSError as problem:
            return Lost(reason_of(problem), reached=False)
        reader = ReplyReader()
        try:
            refused = _send(connection, ask, self._address.prefix, self._headers, until)
            reply = _read(connection, reader, until)
        except TimeoutError:
            connection.close()
            return Lost("no answer in time", late=True)
        except (OSError, ValueError) as trouble:
            connection.close()
            return Lost(reason_of(trouble))
        except BaseException:
            connection.close()
            raise
        if refused is None and reader.keeps:
            self._kept(connection)
        else:
            connection.close()
        return reply

    def _taken(self) -> socket.socket | None:
        """A connection that was kept and is still open, the one that was last used."""
        while True:
            try:
                connection, since = self._idle.pop()
            except IndexError:
                return None
            if time.monotonic() - since < IDLE_S and not _is_readable(connection):
                return connection
            connection.close()

    def _kept(self, connection: socket.socket) -> None:
        with self._lock:
            if not self._is_closed and len(self._idle) < MAX_IDLE:
                self._idle.append((connection, time.monotonic()))
                return
        connection.close()


def _connected(address: Address, until: float) -> socket.socket:
    if address.unix_socket:
        made = socket.socket(socket.AF_UNIX)
        try:
            made.settimeout(max(until - time.monotonic(), 1e-6))
            made.connect(address.unix_socket)
        except BaseException:
            made.close()
            raise
        return made
    allowed_s = max(until - time.monotonic(), 1e-6)
    made = socket.create_connection((address.host, address.port), timeout=allowed_s)
    try:
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if address.tls is not None:
            made.settimeout(max(until - time.monotonic(), 1e-6))
            return address.tls.wrap_socket(made, server_hostname=address.host)
    except BaseException:
        made.close()
        raise
    return made


def _send(
    connection: socket.socket, ask: Ask, prefix: str, headers: str, until: float
) -> OSError | None:
    """Send it. An error is returned: a server may answer before it has read the whole request."""
    request = timed(ask)
    head = head_of(request, prefix, headers)
    body = request.body
    joined = len(body) <= _JOINED_BYTES
    pieces = (head + body,) if joined else (head, body)
    try:
        for piece in pieces:
            connection.settimeout(max(until - time.monotonic(), 1e-6))
            connection.sendall(piece)
    except TimeoutError:
        raise
    except OSError as problem:
        return problem
    return None


def _read(connection: socket.socket, reader: ReplyReader, until: float) -> Reply:
    while True:
        connection.settimeout(max(until - time.monotonic(), 1e-6))
        reply = reader.feed(connection.recv(_READ_BYTES))
        if reply is not None:
            return reply


def _is_readable(connection: socket.socket) -> bool:
    """Whether an idle connection has something to read: its end."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def reason_of(problem: Exception) -> str:
    """Why a connection did not come to be, or ended, in words."""
    said: str = getattr(problem, "strerror", None) or str(problem)
    return said or type(problem).__name__
