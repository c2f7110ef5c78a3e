"""A Delta table as a sink: all rows of a run become visible by one commit.

Chunks are staged as Parquet below `_bascule/`, which readers of Delta tables ignore. The commit
carries the transaction `bascule-RUN`. Delta Lake accepts the same transaction twice, so that the
sink asks the table for it first. A commit that is killed leaves files that no version names, as
every Delta writer's does: VACUUM removes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bascule.batch.delta import explaining, open_table, storage_options, url_of
from bascule.batch.manifest import Manifest, Record
from bascule.batch.sinks.files import FileSink
from bascule.batch.sinks.types import plain_schema
from bascule.core import Invalid, masked

if TYPE_CHECKING:
    import pyarrow as pa

    from bascule.batch.jobs import Job

_STAGED = "_bascule"


class DeltaSink(FileSink):
    """A table, which is made if it is not there; its partitions and constraints are kept."""

    _runs = "runs"

    def __init__(self, job: Job) -> None:
        self._url = url_of(job.sink)
        self._mode, self._key = job.mode, job.key
        super().__init__(f"{self._url}/{_STAGED}/", "parquet")
        self.place = masked(job.sink)
        self._joins = True

    def runs(self) -> tuple[Mapping[str, bool], bool]:
        known, _ = super().runs()
        table = open_table(self._url, self.place)
        return known, not known and table is not None and bool(table.file_uris())

    def open(self, manifest: Manifest, schema: pa.Schema) -> list[Record]:
        table = open_table(self._url, self.place)
        if table is not None and self._mode != "replace":
            names = [field.name for field in table.schema().fields]
            absent = [name for name in schema.names if name not in names]
            if absent:
                raise Invalid(
                    f"{self.place} has no column {absent[0]!r}",
                    hint="add it, choose --columns and --keep, or write to another table",
                    field=absent[0],
                )
        return super().open(manifest, plain_schema(schema))

    def _join(self) -> None:
        import deltalake
        import pyarrow as pa

        table = open_table(self._url, self.place)
        transaction = f"bascule-{self._manifest.run}"
        if table is not None and table.transaction_version(transaction) is not None:
            return
        properties = deltalake.CommitProperties(
            app_transactions=[deltalake.Transaction(transaction, 1)]
        )
        rows = pa.RecordBatchReader.from_batches(self._schema, self._staged_batches())
        with explaining(self.place):
            if self._mode == "upsert" and table is not None:
                self._merge(table, rows, properties)
                return
            deltalake.write_deltalake(
                self._url, rows, mode="overwrite" if self._mode == "replace" else "append",
                schema_mode="overwrite" if self._mode == "replace" else None,
                storage_options=storage_options(self._url), commit_properties=properties,
            )  # fmt: skip

    def _merge(self, table: Any, rows: Any, properties: Any) -> None:
        key = "`" + self._key.replace("`", "``") + "`"
        merge = table.merge(
            rows, predicate=f"old.{key} = new.{key}", source_alias="new", target_alias="old",
            commit_properties=properties,
        )  # fmt: skip
        merge.when_matched_update_all().when_not_matched_insert_all().execute()

    def _staged_batches(self) -> Iterator[pa.RecordBatch]:
        import pyarrow.parquet as pq

        for part in self._parts():
            with self._reaching(), self._filesystem.open_input_file(part) as file:
                yield from pq.ParquetFile(file).iter_batches()


def open_sink(job: Job) -> DeltaSink:
    """The sink of a job; see `sinks.table`."""
    return DeltaSink(job)
