"""The client of buckets of S3, or of a store that speaks its protocol."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from bascule.core import (
    BasculeError,
    Unavailable,
    Untrusted,
    is_kept_elsewhere,
    library,
    secret_in,
)

if TYPE_CHECKING:
    from obstore.store import S3Credential, S3Store

_RETRY_FOR = timedelta(seconds=20)


@contextmanager
def explaining(place: str) -> Iterator[None]:
    """Errors of the client in our words: its own may quote keys and answers of the server."""
    from obstore.exceptions import BaseError

    problem: Exception
    try:
        yield
        return
    except BasculeError:
        raise
    except (BaseError, OSError, ValueError) as error:
        problem = error
    raise _explained(problem, place) from None


def is_missing(problem: Exception) -> bool:
    """Whether an error of the client says that an object, or the bucket of a listing, is not there.

    Of a listing the client tells no kind, so what the server says is looked at.
    """
    return isinstance(problem, FileNotFoundError) or "NoSuchBucket" in str(problem)


def _explained(problem: Exception, place: str) -> BasculeError:
    from obstore import exceptions

    # Of a listing the client tells no kind, so the status is looked for as well.
    refusals = exceptions.PermissionDeniedError | exceptions.UnauthenticatedError
    if isinstance(problem, refusals) or re.search(r"code: 40[13]\b", str(problem)):
        return Unavailable(
            f"the credentials do not allow access to {place}",
            hint="check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and what they may do there",
        )
    if is_missing(problem):
        return Unavailable(f"there is no bucket for {place}", hint="make the bucket first")
    if isinstance(problem, ValueError):
        return Untrusted(f"a manifest in {place} cannot be read", hint="push it again")
    return Unavailable(
        f"{place} cannot be reached ({type(problem).__name__})",
        hint="check AWS_ENDPOINT_URL, AWS_REGION and the network",
    )


def connect(bucket: str, prefix: str) -> S3Store:
    """The client of what is under `prefix`; it tries again, for a bounded time.

    Raises:
        MissingExtra: It is not installed.
    """
    store = library("obstore.store", "s3")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    is_elsewhere = any(is_kept_elsewhere(os.environ.get(name, "")) for name in names)

    def credentials() -> S3Credential:
        access, secret = (secret_in(os.environ[name]) for name in names)
        # obstore asks again for each request, because they end so soon.
        ends_at = datetime.now(UTC) + timedelta(seconds=1)
        return {"access_key_id": access, "secret_access_key": secret, "expires_at": ends_at}

    client: S3Store = store.S3Store(
        bucket,
        prefix=prefix or None,
        credential_provider=credentials if is_elsewhere else None,
        client_options={
            # An address that says http:// asks for it.
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=5),
            "timeout": timedelta(minutes=10),
        },
        retry_config={"max_retries": 4, "retry_timeout": _RETRY_FOR},
    )
    return client
