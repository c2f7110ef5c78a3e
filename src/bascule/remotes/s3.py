"""Bundles in a bucket of S3, or of a store that speaks its protocol.

The client, its credentials and its patience are those of a registry's objects there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bascule.places import bounded_stream, connect, explaining, is_missing
from bascule.remotes.objects import Remote, Writer, changed, gone, no_bucket

if TYPE_CHECKING:
    from obstore import GetOptions

_MANY = 1_000
_CHUNK_BYTES = 1 << 20


@contextmanager
def open_place(url: str, bucket: str, prefix: str) -> Iterator[S3]:
    """The objects under `prefix` of a bucket; `url` is what both are called.

    Raises:
        MissingExtra: The client is not installed.
    """
    yield S3(url, bucket, prefix)


class S3:
    """See `Place`."""

    def __init__(self, url: str, bucket: str, prefix: str) -> None:
        self._url = url
        self._store = connect(bucket, prefix)

    def objects(self) -> Iterator[Remote]:
        import obstore
        from obstore.exceptions import BaseError

        with explaining(self._url):
            try:
                pages = obstore.list(self._store, chunk_size=_MANY)
                for one in bounded_stream(self._url, pages):
                    yield Remote(one["path"], one["size"], one["e_tag"] or "")
            except (BaseError, FileNotFoundError) as error:
                if is_missing(error):
                    raise no_bucket(self._url) from None
                raise

    def copy(self, one: Remote, into: Writer) -> None:
        import obstore
        from obstore.exceptions import PreconditionError

        options: GetOptions = {"if_match": one.state} if one.state else {}
        with explaining(self._url):
            try:
                for chunk in obstore.get(self._store, one.name, options=options).stream(
                    _CHUNK_BYTES
                ):
                    into.write(bytes(chunk))
            except PreconditionError:
                raise changed(one, self._url) from None
            except FileNotFoundError:
                raise gone(one, self._url) from None
