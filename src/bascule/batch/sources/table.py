"""The source that a text means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bascule.batch.databases.table import is_database
from bascule.core import Signature, load_named

if TYPE_CHECKING:
    from bascule.batch.jobs import Job
    from bascule.batch.ports import Source

SOURCES: Mapping[str, str] = {
    "delta": "bascule.batch.sources.delta:open_source",
    "delta+s3": "bascule.batch.sources.delta:open_source",
    "postgres": "bascule.batch.sources.postgresql:open_source",
    "postgresql": "bascule.batch.sources.postgresql:open_source",
}
"""By the scheme of the URL; then `databases.table`; any other text is a place of files."""


def open_source(job: Job, signature: Signature) -> Source:
    """Open the source of a job; its schema is read.

    Raises:
        NotFound: There is nothing.
        Invalid: It cannot be read, or an option does not fit it.
        Unavailable: It is away, or not reachable from here.
    """
    scheme, is_url, _ = job.source.partition("://")
    if is_url and scheme in SOURCES:
        source: Source = load_named(SOURCES[scheme])(job, signature)
        return source
    if is_database(job.source, job.query):
        from bascule.batch.sources.database import DatabaseSource

        return DatabaseSource(job, signature)
    from bascule.batch.sources.files import open_files

    return open_files(job, signature)
