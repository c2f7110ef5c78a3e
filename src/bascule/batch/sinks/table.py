"""The sink that a text means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bascule.batch.databases.table import is_database
from bascule.core import load_named

if TYPE_CHECKING:
    from bascule.batch.jobs import Job
    from bascule.batch.ports import Sink

SINKS: Mapping[str, str] = {
    "delta": "bascule.batch.sinks.delta:open_sink",
    "delta+s3": "bascule.batch.sinks.delta:open_sink",
}
"""By the scheme of the URL; then `databases.table`; any other text is a place of files."""


def open_sink(job: Job) -> Sink:
    """Open the sink of a job; nothing is written.

    Raises:
        Invalid: It cannot be written to, or an option does not fit it.
        Unavailable: It is away, or not reachable from here.
    """
    scheme, is_url, _ = job.sink.partition("://")
    if is_url and scheme in SINKS:
        sink: Sink = load_named(SINKS[scheme])(job)
        return sink
    if is_database(job.sink):
        from bascule.batch.sinks.database import DatabaseSink

        return DatabaseSink(job)
    from bascule.batch.sinks.files import FileSink

    if job.partition_by:
        from bascule.batch.sinks.partitions import PartitionedSink

        return PartitionedSink(job)
    return FileSink(job.sink, job.format, job.mode)
