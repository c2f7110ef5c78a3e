"""A Delta table as a source, in the version that is the newest when the job begins.

Files of a version never change, so that writers may go on. A chunk is some row groups of its files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bascule.batch.delta import explaining, open_table, url_of
from bascule.batch.places import is_url
from bascule.batch.sources.files import FileSource
from bascule.core import NotFound, Signature, masked

if TYPE_CHECKING:
    from bascule.batch.jobs import Job


def open_source(job: Job, signature: Signature) -> FileSource:
    """The source of a job; see `sources.table`."""
    place = masked(job.source)
    table = open_table(url_of(job.source), place)
    if table is None:
        raise NotFound(f"there is no Delta table at {place}", hint="check the path")
    with explaining(place):
        dataset = table.to_pyarrow_dataset()
    # A column that was added to the table later is missing in older files.
    url = url_of(job.source)
    return FileSource(
        place, "parquet", dataset, signature, job, may_lack_columns=True,
        root="" if is_url(url) else url,
    )  # fmt: skip
