"""What the source and the sink in Delta Lake share: URLs, tables, errors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bascule.batch.places import FULL_HINT, away, is_full, said_in_a_line
from bascule.core import Invalid, NotFound, library, masked


def url_of(text: str) -> str:
    """The path or URL of the table of `delta://PATH` or `delta+s3://BUCKET/PREFIX`.

    Raises:
        Invalid: It names no folder.
    """
    scheme, _, path = text.partition("://")
    if not path.strip("/"):
        raise Invalid(
            f"{masked(text)} names no folder",
            hint="write delta://RELATIVE, delta:///ABSOLUTE or delta+s3://BUCKET/PREFIX",
        )
    kind = scheme.partition("+")[2]
    return (f"{kind}://{path}" if kind else os.path.abspath(os.path.expanduser(path))).rstrip("/")


def open_table(url: str, place: str) -> Any | None:
    """The table at a URL in its newest version; None where there is none.

    Raises:
        MissingExtra: The package is not installed.
        Unavailable: The bucket is away.
    """
    deltalake = library("deltalake", "delta")
    options = storage_options(url)
    with explaining(place):
        if not deltalake.DeltaTable.is_deltatable(url, options):
            return None
        return deltalake.DeltaTable(url, storage_options=options)


def storage_options(url: str) -> dict[str, str]:
    """What the library does not see in AWS's usual variables: an endpoint without TLS."""
    is_plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    return {"AWS_ALLOW_HTTP": "true"} if url.startswith("s3://") and is_plain else {}


@contextmanager
def explaining(place: str) -> Iterator[None]:
    """Raise errors of the library as kinds of `BasculeError`."""
    from deltalake import exceptions

    try:
        yield
    except exceptions.TableNotFoundError:
        raise NotFound(f"there is no Delta table at {place}", hint="check the path") from None
    except (exceptions.CommitFailedError, exceptions.DeltaProtocolError) as problem:
        if "Concurrent transaction" in str(problem):  # of the same run, which is looked at again
            raise away(place, problem) from None
        raise Invalid(f"{place}: {said_in_a_line(problem)}") from None
    except (exceptions.DeltaError, OSError) as problem:
        if is_full(problem):
            raise Invalid(f"{place}: {said_in_a_line(problem)}", hint=FULL_HINT) from None
        raise away(place, problem) from None
