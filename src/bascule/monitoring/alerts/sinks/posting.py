"""Posts JSON to a receiver: no redirects, one deadline, a bounded answer."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import SplitResult, urlsplit

from bascule.core import VERSION
from bascule.monitoring.alerts.sinks.receivers import Receiver
from bascule_client.deadlines import DeadlineConnection

MAX_ANSWER_BYTES = 2_048
MAX_RETRY_AFTER_S = 3_600.0
_SHOWN = 200


def post(receiver: Receiver, path: str, body: bytes, headers: Mapping[str, str]) -> None:
    """Post `body` to the receiver's `url` followed by `path`.

    Raises:
        Unavailable: It did not answer 2xx in `timeout_s`. A redirect is not followed: the body and
            its signature are for the address in the settings alone.
        Invalid: The address is not one.
    """
    parts = _address(receiver)
    context = ssl.create_default_context() if parts.scheme == "https" else None
    host = parts.hostname or ""
    connection = DeadlineConnection(host, parts.port, receiver.timeout_s, context)
    target = (parts.path.rstrip("/") if path else parts.path or "/") + path
    sent = {
        "Content-Type": "application/json", "User-Agent": f"bascule/{VERSION}", **headers,
    }  # fmt: skip
    try:
        connection.request("POST", f"{target}?{parts.query}" if parts.query else target, body, sent)
        with connection.getresponse() as answer:
            if 200 <= answer.status < 300:
                return
            said = _read(answer)
    except OSError as error:
        raise receiver.away(f"{type(error).__name__}: {error}") from None
    except (http.client.HTTPException, ValueError) as error:
        # Without its text, which may quote the address, and that may be a secret.
        raise receiver.away(type(error).__name__) from None
    finally:
        connection.close()
    told = said.decode("utf-8", "replace")[:_SHOWN].replace("\n", " ").strip()
    wait_s = _retry_after_s(answer.headers.get("Retry-After", ""))
    raise receiver.away(f"answered {answer.status} {told}".strip(), retry_after_s=wait_s)


def _address(receiver: Receiver) -> SplitResult:
    try:
        parts = urlsplit(receiver.secret_of("url"))
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one:
        raise receiver.wrong("url", "it is not http://HOST:PORT or https://HOST:PORT")
    return parts


def _read(answer: http.client.HTTPResponse) -> bytes:
    """The beginning of an answer that says why, as far as it has come."""
    try:
        return answer.read1(MAX_ANSWER_BYTES)
    except (OSError, http.client.HTTPException):
        return b""


def _retry_after_s(said: str) -> float:
    """Seconds or an HTTP date (RFC 9110, 10.2.3); at most an hour; 0 for anything else."""
    if said.isascii() and said.isdigit():
        return min(float(said), MAX_RETRY_AFTER_S)
    try:
        until = parsedate_to_datetime(said)
    except (TypeError, ValueError):
        return 0.0
    if until.tzinfo is None:
        return 0.0
    return min(max(0.0, (until - datetime.now(UTC)).total_seconds()), MAX_RETRY_AFTER_S)
