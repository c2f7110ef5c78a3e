"""Bundles in a bucket of Google Cloud Storage.

Credentials are the application's default ones: of the service account that a container runs as,
or of the file that GOOGLE_APPLICATION_CREDENTIALS names. STORAGE_EMULATOR_HOST is honoured, as by
every client of it.

Google's own client, though obstore speaks to it too: obstore 0.12 refuses the credentials of
workload identity federation (`external_account`), and lists by an interface that the emulator of
the tests answers with 501.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bascule.core import BasculeError, Unavailable, library
from bascule.places import bounded
from bascule.remotes.objects import Remote, Writer, changed, gone, no_bucket

_RETRY_FOR_S = 120.0
_SLOW_BYTES_PER_S = 8e6
"""What is read no slower than this may still fail at its end, and go on from there."""

_TIMEOUT_S = (10.0, 60.0)
"""For a connection, and for the next bytes on it."""

_FIELDS = "items(name,size,generation),nextPageToken"


@contextmanager
def open_place(url: str, bucket: str, prefix: str) -> Iterator[Gcs]:
    """The objects under `prefix` of a bucket; `url` is what both are called.

    Raises:
        MissingExtra: The client is not installed.
        Unavailable: There are no credentials.
    """
    storage = library("google.cloud.storage", "gcs")
    with _explaining(url):
        # Of a project only the making of buckets would have to know.
        client = storage.Client(project=None)
    try:
        yield Gcs(url, client.bucket(bucket), prefix)
    finally:
        client.close()


class Gcs:
    """See `Place`."""

    def __init__(self, url: str, bucket: Any, prefix: str) -> None:
        self._url = url
        self._bucket = bucket
        self._folder = f"{prefix}/" if prefix else ""

    def objects(self) -> Iterator[Remote]:
        with _explaining(self._url):
            pages = self._bucket.list_blobs(
                prefix=self._folder, fields=_FIELDS, timeout=_TIMEOUT_S, retry=_retry()
            ).pages
            for blob in bounded(self._url, lambda _: _page(pages)):
                name = blob.name.removeprefix(self._folder)
                yield Remote(name, int(blob.size), str(blob.generation))

    def copy(self, one: Remote, into: Writer) -> None:
        blob = self._bucket.blob(self._folder + one.name)
        with _explaining(self._url, one):
            blob.download_to_file(
                into,
                if_generation_match=int(one.state),
                raw_download=True,  # the bytes that were listed, packed or not
                timeout=_TIMEOUT_S,
                retry=_retry(one.size_bytes),
            )


def _page(pages: Iterator[Any]) -> list[Any] | None:
    page = next(pages, None)
    return None if page is None else list(page)


@contextmanager
def _explaining(url: str, one: Remote | None = None) -> Iterator[None]:
    """Errors of the client in our words: its own may quote tokens and answers."""
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.storage.exceptions import DataCorruption
    from urllib3.exceptions import HTTPError

    problem: Exception
    try:
        yield
        return
    except BasculeError:
        raise
    except (GoogleAPIError, GoogleAuthError, DataCorruption, HTTPError, OSError) as error:
        problem = error
    raise _explained(problem, url, one) from None


def _explained(problem: Exception, url: str, one: Remote | None) -> BasculeError:
    from google.api_core import exceptions
    from google.auth.exceptions import DefaultCredentialsError, RefreshError

    what = url if one is None else f"{one.name} of {url}"
    if isinstance(problem, DefaultCredentialsError):
        return Unavailable(
            f"there are no Google credentials to read {url} with",
            hint="run as a service account, or name its file in GOOGLE_APPLICATION_CREDENTIALS",
        )
    refusals = exceptions.Forbidden | exceptions.Unauthorized | RefreshError
    if isinstance(problem, refusals):
        return Unavailable(
            f"the Google credentials may not read {what}",
            hint="grant the service account the role Storage Object Viewer on the bucket",
        )
    if isinstance(problem, exceptions.NotFound):
        return no_bucket(url) if one is None else gone(one, url)
    if one is not None and isinstance(problem, exceptions.PreconditionFailed):
        return changed(one, url)
    cause = problem.cause if isinstance(problem, exceptions.RetryError) else problem
    return Unavailable(
        f"{what} cannot be read ({type(cause).__name__})",
        hint="check the network, and the state of Google Cloud Storage",
    )


def _retry(size_bytes: int = 0) -> Any:
    """The library's own: of what may be transient, with growing waits.

    Its clock runs while bytes come, too, so it has to know how many there will be.
    """
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_timeout(_RETRY_FOR_S + size_bytes / _SLOW_BYTES_PER_S)
