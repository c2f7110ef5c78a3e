"""Inference that is answered later, and the callback of its end, as jobs on threads."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from bascule.core import (
    BasculeError,
    ModelFailed,
    NotFound,
    Refused,
    TimedOut,
    TooLarge,
    Unavailable,
)
from bascule.jobs import CALLBACK, INFERENCE, MAX_ANSWER_BYTES, Job, Kind, Payloads
from bascule.security import ON_BEHALF
from bascule_client.deadlines import DeadlineConnection
from bascule_client.kinds import error_of
from bascule_client.wire import Reply

if TYPE_CHECKING:
    from bascule.control import ServerLink
    from bascule.settings import Settings

_SPARE_S = 5.0
"""For the server to say that the time is over."""
_MAX_LOST = 3
"""How often a request is sent whose connection the server ends: the request may be why."""
_FAILED_EVENT = b"event: error\ndata: "
_SHOWN = ("content-type", "inference-header-content-length", "deprecation", "sunset", "link")


class Waiting:
    """Work on the thread that asks for it, which waits for a server; see `running.Child`.

    Attributes:
        server: The server beside this process; None without one.
        stopped: See `Live`.
        end: Ends what is waited for; replaced by the code of the kind.
    """

    def __init__(self, settings: Settings, kind: Kind, job: Any, server: ServerLink | None) -> None:
        self._run = partial(kind.run, settings, job, self)
        self.server, self.stopped = server, ""
        self.end: Callable[[], None] = lambda: None

    def answer(self, _take: Callable[[Any], None] = lambda _: None) -> dict[str, Any]:
        return {"result": self._run()}

    def stop(self, _within_s: float) -> None:
        self.stopped = "it must stop"
        self.end()


def payloads_of(settings: Settings) -> Payloads:
    """Where requests and answers are."""
    return Payloads(settings.home / "deferred", timedelta(hours=settings.deferred.kept_hours))


def serves(settings: Settings, server: ServerLink | None, job: Job) -> bool:
    """Whether a job can be done here: of an inference, whether the server has its model.

    Any server ends one that has waited for longer than requests are kept.
    """
    if server is None or job.kind == CALLBACK:
        return server is not None
    payloads = payloads_of(settings)
    if datetime.now(UTC) - job.created_at > payloads.kept:
        return True
    with suppress(BasculeError):
        return (payloads.folder / job.input["body"]).exists() and job.input["model"] in server.names
    return False


def infer(settings: Settings, job: Job, live: Waiting) -> dict[str, Any]:
    """Ask the server for the caller, and keep its answer: file, headers, size.

    Raises:
        BasculeError: The error that the server answered.
    """
    from bascule.app import client_tls_of

    asked, server, allowed_s = job.input, live.server, settings.deferred.deadline_s
    payloads = payloads_of(settings)
    try:
        body = (payloads.folder / asked["body"]).read_bytes()
    except FileNotFoundError:
        raise NotFound("the request is kept no more", hint="submit it again") from None
    assert server is not None
    host, port = server.address
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    headers = {
        "bascule-id": job.id, **asked["headers"], "Accept-Encoding": "identity",
        "X-Request-Timeout-Ms": str(int(allowed_s * 1e3)),
    }  # fmt: skip
    if server.token:
        headers["Authorization"] = f"Bearer {server.token}{ON_BEHALF}{job.key}"
    connection = DeadlineConnection(host, port, allowed_s + _SPARE_S, client_tls_of(settings))
    live.end = partial(_wake, connection)
    is_sent = False
    try:
        connection.connect()
        if live.stopped:
            raise Unavailable(live.stopped, hint="it is asked again")
        is_sent = True
        connection.request("POST", asked["path"], body, headers)
        with connection.getresponse() as answer:
            headers, content = _answer_of(answer)
    except TimeoutError:
        raise TimedOut(f"no answer in {allowed_s:g} s", hint="see deferred.deadline_s") from None
    except (OSError, http.client.HTTPException) as problem:
        if is_sent and job.attempt >= _MAX_LOST:
            raise ModelFailed("the server ended the connection", hint="see its log") from None
        raise Unavailable(f"the server is away: {problem!r}", hint="it is asked again") from None
    finally:
        connection.close()
    name = payloads.put(content, f"{asked['body']}.{job.attempt}")
    return {"file": name, "headers": headers, "bytes": len(content)}


def _wake(connection: DeadlineConnection) -> None:
    """End what a thread waits for on a connection; to close it would not."""
    with suppress(OSError, AttributeError):
        connection.sock.shutdown(socket.SHUT_RDWR)


def _answer_of(answer: http.client.HTTPResponse) -> tuple[dict[str, str], bytes]:
    """The headers that are kept, and the bytes; raises the error that it is."""
    told = {name.lower(): value for name, value in answer.headers.items()}
    content = answer.read(MAX_ANSWER_BYTES + 1)
    if len(content) > MAX_ANSWER_BYTES:
        raise TooLarge(f"the answer is over {MAX_ANSWER_BYTES:,} bytes", hint="ask less")
    if answer.length:  # a `read` of so many says nothing of an end that came too soon
        raise http.client.IncompleteRead(b"", answer.length)
    if answer.status != 200:
        raise error_of(Reply(answer.status, told, content))
    _, is_failure, problem = content.rpartition(_FAILED_EVENT)
    if is_failure and told.get("content-type", "").startswith("text/event-stream"):
        raise error_of(Reply(json.loads(problem)["status"], {}, problem))
    kept = {name: told[name] for name in told if name in _SHOWN or name.startswith("bascule-")}
    return kept, content


def tell(settings: Settings, job: Job, _live: Waiting) -> None:
    """Post the state of an inference, and where its answer is. Raises `Unavailable`."""
    from bascule.monitoring.alerts.sinks import Receiver, post, signature

    said, chosen = {**job.input, "id": job.id}, settings.deferred
    if (url := said.pop("url")) not in chosen.callbacks:
        raise Refused(f"{url} is in deferred.callbacks no more", hint="poll for the answer")
    receiver = Receiver(name=CALLBACK, url=url, secret=chosen.callback_secret)
    said["link"] = f"{settings.console.public_url}/api/v1/jobs/{said['job']}/answer"
    body, headers = json.dumps(said).encode(), {"Idempotency-Key": job.id}
    if receiver.secret:
        secret = receiver.secret_of("secret").encode()
        headers["Bascule-Signature"] = signature(secret, body, int(time.time()))
    post(receiver, "", body, headers)


_LONGER = timedelta(days=14)
"""Than any answer is kept: until then the job says that the answer is gone."""
INFER = Kind(
    name=INFERENCE, run=infer, right="infer", places=16, retries=20, kept=_LONGER, pause_s=60.0,
    is_private=True,
)  # fmt: skip
TELL = Kind(name=CALLBACK, run=tell, places=16, retries=40, pause_s=3_600.0, is_private=True)
