"""Inference that is answered later, and the callback of its end, as jobs on threads."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from bascule.core import (
    BasculeError,
    ModelFailed,
    NotFound,
    Refused,
    TimedOut,
    TooLarge,
    Unavailable,
    secret_in,
)
from bascule.jobs import CALLBACK, INFERENCE, MAX_ANSWER_BYTES, Job, Kind, Payloads
from bascule.places import place_beside
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
_SHOWN = ("content-type", "inference-header-content-length")


def payloads_of(settings: Settings) -> Payloads:
    """Where requests and answers are."""
    chosen = settings.deferred
    return Payloads(
        files=place_beside(secret_in(settings.registry.objects), settings.home, "deferred"),
        kept=timedelta(hours=chosen.kept_hours), max_mb=chosen.max_mb, max_key_mb=chosen.max_key_mb,
        max_key_requests=chosen.max_key_requests, runs_per_model=chosen.runs_per_model,
    )  # fmt: skip


def serves(payloads: Payloads, server: ServerLink | None, job: Job) -> bool:
    """Whether a job can be done here: of an inference, whether the server has its model.

    Any server ends one that has waited for longer than requests are kept.
    """
    is_old = datetime.now(UTC) - job.created_at > payloads.kept
    if server is None or is_old or job.kind == CALLBACK:
        return server is not None
    with suppress(BasculeError):
        return payloads.files.is_here(job.input["body"]) and job.input["model"] in server.names
    return False


class Asking:
    """Asks the server for the caller, on this thread, and keeps its answer; a `running.Child`."""

    def __init__(self, settings: Settings, job: Job, server: ServerLink) -> None:
        self._settings, self._job, self._server = settings, job, server
        self._connection: DeadlineConnection | None = None
        self._is_stopped = False

    def answer(self, take: Callable[[Any], None] = lambda _: None) -> dict[str, Any]:
        """File, headers and size of the answer; raises the error that the server answered."""
        job, payloads = self._job, payloads_of(self._settings)
        gone = NotFound("the request is kept no more", hint="submit it again")
        if (body := payloads.files.read(job.input["body"])) is None:
            raise gone
        headers, content = self._asked(body, take)
        name = payloads.put(content, f"{job.input['body']}.{job.attempt}")
        if payloads.files.read(job.input["body"]) is None:  # it was erased meanwhile
            payloads.files.remove(name)
            raise gone
        return {"result": {"file": name, "headers": headers, "bytes": len(content)}}

    def _asked(self, body: bytes, take: Callable[[Any], None]) -> tuple[dict[str, str], bytes]:
        from bascule.app import client_tls_of

        job, allowed_s, is_sent = self._job, self._settings.deferred.deadline_s, False
        host, port = self._server.address
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        tls = client_tls_of(self._settings)
        self._connection = connection = DeadlineConnection(host, port, allowed_s + _SPARE_S, tls)
        headers = {
            "bascule-id": job.id, **job.input["headers"], "Accept-Encoding": "identity",
            "X-Request-Timeout-Ms": str(int(allowed_s * 1e3)),
        }  # fmt: skip
        if self._server.token:
            headers["Authorization"] = f"Bearer {self._server.token}{ON_BEHALF}{job.key}"
        try:
            connection.connect()
            if self._is_stopped:
                raise Unavailable("it must stop", hint="it is asked again")
            is_sent = True
            connection.request("POST", job.input["path"], body, headers)
            with connection.getresponse() as answer:
                return _answer_of(answer)
        except TimeoutError:
            message = f"no answer in {allowed_s:g} s"
            raise TimedOut(message, hint="see deferred.deadline_s") from None
        except (OSError, http.client.HTTPException) as problem:
            lost = job.progress.get("lost", 0) + (is_sent and not self._is_stopped)
            take({"tell": {**job.progress, "lost": lost}})
            if lost >= _MAX_LOST:
                raise ModelFailed("the server ended the connection", hint="see its log") from None
            message = f"the server is away: {problem!r}"
            raise Unavailable(message, hint="it is asked again") from None
        finally:
            connection.close()

    def stop(self, _within_s: float) -> None:
        self._is_stopped = True
        if self._connection is not None:
            with suppress(OSError, AttributeError):  # to close it would not wake the reader
                self._connection.sock.shutdown(socket.SHUT_RDWR)


def _answer_of(answer: http.client.HTTPResponse) -> tuple[dict[str, str], bytes]:
    """The headers that are kept, and the bytes; raises the error that it is."""
    headers = {name.lower(): value for name, value in answer.headers.items()}
    content = answer.read(MAX_ANSWER_BYTES + 1)
    if len(content) > MAX_ANSWER_BYTES:
        raise TooLarge(f"the answer is over {MAX_ANSWER_BYTES:,} bytes", hint="ask less")
    if answer.length:  # a `read` of so many says nothing of an end that came too soon
        raise http.client.IncompleteRead(b"", answer.length)
    if answer.status == 401:  # a right that has ended ends the job
        raise Unavailable("the server does not know the key yet", hint="it is asked again")
    if answer.status != 200:
        raise error_of(Reply(answer.status, headers, content))
    kept = {
        name: headers[name] for name in headers if name in _SHOWN or name.startswith("bascule-")
    }
    return kept, content


class Telling:
    """Posts the state of an inference, and where its answer is; a `running.Child`."""

    def __init__(self, settings: Settings, job: Job, _server: ServerLink) -> None:
        self._settings, self._job = settings, job

    def answer(self, _take: Callable[[Any], None] = lambda _: None) -> dict[str, Any]:
        """Nothing; raises `Unavailable`."""
        from bascule.monitoring.alerts.sinks import Receiver, post, signature

        notice, chosen = {**self._job.input, "id": self._job.id}, self._settings.deferred
        if (url := notice.pop("url")) not in chosen.callbacks:
            raise Refused(f"{url} is in deferred.callbacks no more", hint="poll for the answer")
        receiver = Receiver(name=CALLBACK, url=url, secret=chosen.callback_secret)
        notice["link"] = f"{self._settings.console.public_url}/api/v1/jobs/{notice['job']}/answer"
        body, headers = json.dumps(notice).encode(), {"Idempotency-Key": self._job.id}
        if receiver.secret:
            secret = receiver.secret_of("secret").encode()
            headers["Bascule-Signature"] = signature(secret, body, int(time.time()))
        post(receiver, "", body, headers)
        return {"result": None}

    def stop(self, _within_s: float) -> None:
        """It ends by itself, within the seconds that a receiver has."""


_LONGER = timedelta(days=14)
"""Than any answer is kept: until then the job says that the answer is gone."""
INFER = Kind(
    name=INFERENCE, run=Asking, right="infer", places=16, retries=20, kept=_LONGER, pause_s=60.0,
    is_private=True,
)  # fmt: skip
TELL = Kind(name=CALLBACK, run=Telling, places=16, retries=40, pause_s=3_600.0, is_private=True)
