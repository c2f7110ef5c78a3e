"""Inference that is answered later, and the callback of its end, as jobs on threads."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from bascule.core import BasculeError, ModelFailed, NotFound, TooLarge, Unavailable, synced
from bascule.jobs import (
    CALLBACK,
    INFERENCE,
    MAX_ANSWER_BYTES,
    Job,
    Kind,
    Payloads,
    check_callback,
)
from bascule.security import ON_BEHALF
from bascule_client.deadlines import DeadlineConnection
from bascule_client.kinds import error_of, kind_of
from bascule_client.wire import Reply

if TYPE_CHECKING:
    from bascule.control import ServerLink
    from bascule.settings import Settings

_CHUNK_BYTES = 1 << 20
_MAX_ERROR_BYTES = _TAIL_BYTES = 64 << 10
_SPARE_S = 5.0
"""What the server has to say that the time is over."""
_MAX_LOST = 3
"""How often the model is asked where the server ends the connection: the request may be why."""
_FAILED_EVENT = b"event: error\ndata: "
_CALLBACK_S = 10.0


class Waiting:
    """Work that waits for another server, on the thread that asks; see `running.Child`.

    Attributes:
        server: The server beside this process; None without one.
        stopped: See `Live`.
        on_stop: Ends what is waited for; replaced by the code of the kind.
    """

    def __init__(self, settings: Settings, kind: Kind, job: Any, server: ServerLink | None) -> None:
        self._settings, self._kind, self._job = settings, kind, job
        self.server, self.stopped = server, ""
        self.on_stop: Callable[[], None] = lambda: None

    def answer(self, take: Callable[[Any], None] = lambda _: None) -> dict[str, Any]:  # noqa: ARG002
        return {"result": self._kind.run(self._settings, self._job, self)}

    def stop(self, within_s: float) -> None:  # noqa: ARG002
        self.stopped = "it must stop"
        self.on_stop()


def serves_of(settings: Settings, server: ServerLink | None) -> Callable[[Job], bool]:
    """Whether the server of this process serves what a job asks, and has its request.

    What is served is asked for once a second, however many jobs wait.
    """
    payloads = Payloads(settings.deferred, settings.home)
    known, until_s = frozenset[str](), 0.0

    def serves(job: Job) -> bool:
        nonlocal known, until_s
        if server is not None and time.monotonic() > until_s:
            known = frozenset()
            with suppress(BasculeError):
                known = server.names
            until_s = time.monotonic() + 1.0
        is_there = payloads.path(job.input["body"]).exists()
        return server is not None and job.input["model"] in known and is_there

    return serves


def infer(settings: Settings, job: Job, live: Waiting) -> dict[str, Any]:
    """Ask the server, and keep its answer: name, headers and size of the file.

    Raises:
        BasculeError: The error that the server answered.
    """
    asked, options, server = job.input, settings.deferred, live.server
    payloads = Payloads(options, settings.home)
    try:
        body = payloads.path(asked["body"]).read_bytes()
    except FileNotFoundError:
        raise NotFound("the request is kept no more", hint="submit it again") from None
    assert server is not None
    host, port = server.address
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    headers = {
        "Accept-Encoding": "identity", "Bascule-Id": job.id, **asked["headers"],
        "X-Request-Timeout-Ms": str(int(options.deadline_s * 1e3)),
    }  # fmt: skip
    if server.token:
        headers["Authorization"] = f"Bearer {server.token}{ON_BEHALF}{job.key}"
    connection = DeadlineConnection(host, port, options.deadline_s + _SPARE_S, _tls(settings))
    live.on_stop = lambda: _cut(connection)
    is_sent = False
    try:
        connection.connect()
        if live.stopped:
            raise Unavailable(live.stopped)
        is_sent = True
        connection.request("POST", _path(asked), body, headers)
        with connection.getresponse() as answer:
            return _kept(answer, payloads, f"{asked['body']}.{job.attempt}")
    except TimeoutError:
        raise kind_of(504)(f"no answer within {options.deadline_s:g} s") from None
    except (OSError, http.client.HTTPException) as problem:
        if is_sent and job.attempt >= _MAX_LOST:
            raise ModelFailed(f"the server ended the connection {job.attempt} times") from None
        raise Unavailable(f"the server does not answer: {problem!r}") from None
    finally:
        connection.close()


def _path(asked: Mapping[str, Any]) -> str:
    version = f"/versions/{quote(asked['version'], safe='')}" if asked["version"] else ""
    end = "infer_stream" if asked["parts"] else "infer"
    return f"/v2/models/{quote(asked['model'], safe='')}{version}/{end}"


def _tls(settings: Settings) -> ssl.SSLContext | None:
    """Trusts the server's own certificate alone, whatever its name: the address is this host's."""
    certificate = settings.serving.tls_certificate
    if not certificate:
        return None
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _cut(connection: DeadlineConnection) -> None:
    """Wake the thread that waits on a connection: closing it would not."""
    with suppress(OSError, AttributeError):
        connection.sock.shutdown(2)


def _kept(answer: http.client.HTTPResponse, payloads: Payloads, name: str) -> dict[str, Any]:
    told = {key.lower(): value for key, value in answer.headers.items()}
    if answer.status != 200:
        raise error_of(Reply(answer.status, told, answer.read(_MAX_ERROR_BYTES)))
    size, tail = 0, b""
    try:
        with synced(payloads.path(name)) as file:
            while piece := answer.read1(_CHUNK_BYTES):
                size += len(piece)
                if size > MAX_ANSWER_BYTES:
                    raise TooLarge(f"the answer is over {MAX_ANSWER_BYTES:,} bytes")
                file.write(piece)
                tail = (tail + piece)[-_TAIL_BYTES:]
        if answer.length:  # `read1` says nothing of an end that came too soon
            raise http.client.IncompleteRead(b"", answer.length)
        _, is_failure, problem = tail.rpartition(_FAILED_EVENT)
        if is_failure and told.get("content-type", "").startswith("text/event-stream"):
            said = json.loads(problem)
            raise kind_of(said["status"])(said["error"])
    except BaseException:
        payloads.remove(name)
        raise
    shown = ("content-type", "inference-header-content-length", "deprecation", "sunset", "link")
    kept = {key: told[key] for key in told if key in shown or key.startswith("bascule-")}
    return {"file": name, "headers": kept, "bytes": size}


def tell(settings: Settings, job: Job, _live: Waiting) -> None:
    """Post the state of an inference, and where its answer is. Raises `Unavailable`."""
    from bascule.monitoring.alerts.sinks import Receiver, post, signature

    said, options = job.input, settings.deferred
    check_callback(said["url"], options.callbacks)  # the settings may have changed meanwhile
    receiver = Receiver(
        name=CALLBACK, url=said["url"], secret=options.callback_secret, timeout_s=_CALLBACK_S
    )
    place = f"{settings.console.public_url.rstrip('/')}/api/v1/inferences/{said['inference']}"
    told = {name: said[name] for name in ("inference", "model", "state")} | {"link": place}
    body, headers = json.dumps({"id": job.id, **told}).encode(), {"Idempotency-Key": job.id}
    if receiver.secret:
        secret = receiver.secret_of("secret").encode()
        headers["Bascule-Signature"] = signature(secret, body, int(time.time()))
    post(receiver, "", body, headers)


def _model(content: Mapping[str, Any]) -> str:
    return str(content["model"])


def _pause_s(most_s: float) -> Callable[[int], float]:
    return lambda attempt: min(most_s, 2.0 ** min(attempt, 16) / 2)


_KEPT = timedelta(days=14)
"""Longer than any answer: until then one that is gone is told from one that never was."""
INFER = Kind(
    name=INFERENCE, run=infer, right="infer", model_of=_model, places=16, retries=20, kept=_KEPT,
    again=_pause_s(60.0), is_of_server=True, is_private=True,
)  # fmt: skip
TELL = Kind(
    name=CALLBACK, run=tell, model_of=_model, places=16, retries=40, again=_pause_s(3_600.0),
    is_private=True,
)  # fmt: skip
