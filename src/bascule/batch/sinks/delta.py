"""A Delta table as a sink: all rows of a run become visible by one commit.

Chunks are staged as Parquet below `_bascule/`, which readers of Delta tables ignore. The commit
carries the transaction `bascule-RUN`. Delta Lake accepts the same transaction twice, so that the
sink asks the table for it first; every run's commit carries `bascule` as well, with a number of the
run, so that the table refuses one that was begun before another run's, and a run that replaces rows
knows whether its own are those that stand. A new table is made empty, because Delta Lake
takes two first commits for appends. A commit that is killed leaves files that no version names: the
next process of the run removes them, and VACUUM does.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bascule.batch.addresses import literal
from bascule.batch.delta import explaining, open_table, storage_options, url_of
from bascule.batch.scoring import ID
from bascule.batch.sinks.files import FileSink
from bascule.batch.sinks.partitions import check_partitions
from bascule.batch.sinks.types import check_columns, plain_schema, plain_type
from bascule.core import Conflict, masked

if TYPE_CHECKING:
    import pyarrow as pa

    from bascule.batch.jobs import Job

_STAGED = "_bascule"
_JOINING = "joining.json"
_OF_ALL = "bascule"
"""The transaction that all runs share."""


class DeltaSink(FileSink):
    """A table, which is made if it is not there; its partitions and constraints are kept."""

    _runs = "runs"

    def __init__(self, job: Job) -> None:
        self._url = url_of(job.sink)
        self._mode, self._key, self._by = job.mode, job.key, list(job.partition_by)
        self._id = job.names.get(ID, f"{job.prefix}{ID}")
        super().__init__(f"{self._url}/{_STAGED}/", "parquet")
        self.place, self._opened_ns = masked(job.sink), time.time_ns()
        self._joins = True

    def runs(self) -> tuple[Mapping[str, bool], bool]:
        known, _ = super().runs()
        table = open_table(self._url, self.place)
        return known, not known and table is not None and bool(table.file_uris())

    def fits(self, schema: pa.Schema) -> pa.Schema:
        """The types of the table that is there, or those that Delta has."""
        import pyarrow as pa

        check_partitions(schema, self._by)
        made = plain_schema(self.place, schema, _delta_type)
        table = open_table(self._url, self.place)
        if table is None or self._mode == "replace":
            return made
        known = pa.schema(table.schema().to_arrow())
        check_columns(self.place, known.names, schema)
        return pa.schema([known.field(name).remove_metadata() for name in made.names])

    def _is_joined(self) -> bool:
        table = open_table(self._url, self.place)
        return table is not None and self._has_rows(table)

    def _has_rows(self, table: Any) -> bool:
        """Whether the table has the rows of this run: committed, and not replaced since."""
        if self._mode == "replace":
            return bool(table.transaction_version(_OF_ALL) == self._number_of_run)
        return table.transaction_version(self._transaction) is not None

    @property
    def _transaction(self) -> str:
        return f"{_OF_ALL}-{self._manifest.run}"

    @property
    def _number_of_run(self) -> int:
        """63 bits of the run's name: the version of a transaction is a signed number."""
        return int.from_bytes(hashlib.sha256(self._manifest.run.encode()).digest()[:8]) >> 1

    def _join(self) -> None:
        table = self._opened()
        was_begun = f"{self._folder}/{_JOINING}" in self._names(self._base)
        if not self._has_rows(table):
            if self._mode == "error" and table.file_uris():
                raise Conflict(
                    f"{self.place} has got rows of another writer since this run began",
                    hint="choose another place, or --mode append, replace or upsert",
                )
            if not was_begun:
                self._put(_JOINING, b"{}")
            self._check_claim()
            self._write(table)
        if was_begun:
            self._remove_orphans()

    def _opened(self) -> Any:
        """The table, which is made where there is none."""
        import deltalake

        table = open_table(self._url, self.place)
        if table is None:
            options = storage_options(self._url)
            with explaining(self.place):
                deltalake.DeltaTable.create(
                    self._url, self._schema, mode="ignore", storage_options=options,
                    partition_by=self._by or None,
                )  # fmt: skip
            table = open_table(self._url, self.place)
        return table

    def _write(self, table: Any) -> None:
        import deltalake
        import pyarrow as pa

        versions = {self._transaction: 1, _OF_ALL: self._number_of_run}
        transactions = [deltalake.Transaction(*named) for named in versions.items()]
        properties = deltalake.CommitProperties(app_transactions=transactions)
        rows = pa.RecordBatchReader.from_batches(self._schema, self._staged_batches())
        how: dict[str, Any] = {"mode": "append"}
        if self._mode == "replace":
            how = {"mode": "overwrite", "schema_mode": "overwrite"}
        elif self._mode == "replace_partitions" and (touched := self._touched()):
            how = {"mode": "overwrite", "predicate": touched}
        with explaining(self.place):
            if self._mode == "upsert":
                self._merge(table, rows, properties)
                return
            # The table refuses a transaction that was committed since it was opened.
            deltalake.write_deltalake(
                table, rows, storage_options=storage_options(self._url),
                commit_properties=properties, **how,
            )  # fmt: skip

    def _touched(self) -> str | None:
        """The condition of the partitions that the run has rows of; None where it has none."""
        import pyarrow as pa

        found: set[tuple[object, ...]] = set()
        for batch in self._staged_batches():
            values = pa.Table.from_batches([batch.select(self._by)])
            rows = values.group_by(self._by).aggregate([]).to_pylist()
            found |= {tuple(row.values()) for row in rows}
        return (
            " OR ".join(
                "(" + " AND ".join(map(_is_value, self._by, values)) + ")" for values in found
            )
            or None
        )

    def _remove_orphans(self) -> None:
        """Remove what a killed commit has left: files of this run's rows that no version names."""
        table = open_table(self._url, self.place)
        assert table is not None
        with explaining(self.place):
            every, named = (
                table.vacuum(0, enforce_retention_duration=False, full=full)
                for full in (True, False)
            )
        base = self._base.removesuffix(f"/{_STAGED}")
        drafts = [name for name in self._names(base) if "#" in name]  # of whole files on a disk
        with self._reaching():
            mark = self._filesystem.get_file_info(f"{self._base}/{self._folder}/{_JOINING}")
            for name in [*({*every} - {*named}), *drafts]:
                file = self._filesystem.get_file_info(f"{base}/{name}")
                if (file.mtime_ns or 0) < mark.mtime_ns:
                    continue
                if file.mtime_ns < self._opened_ns if name in drafts else self._is_own(file.path):
                    self._filesystem.delete_file(file.path)

    def _is_own(self, path: str) -> bool:
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        own = pa.array(map(self._manifest.prefix_of, range(len(self._manifest.chunks))))
        with self._filesystem.open_input_file(path) as file:
            table = pq.read_table(file, columns=[self._id])
        found = (pc.utf8_slice_codeunits(ids, 0, len(own[0].as_py())) for ids in table.columns)
        return any(pc.any(pc.is_in(prefixes, own)).as_py() for prefixes in found)

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


def _is_value(name: str, value: object) -> str:
    column = "`" + name.replace("`", "``") + "`"
    if value is None:
        return f"{column} IS NULL"
    is_plain = isinstance(value, int)  # true and false too
    return f"{column} = {str(value).lower() if is_plain else literal(str(value))}"


def _delta_type(kind: pa.DataType) -> pa.DataType | None:
    import pyarrow.types as kinds

    is_unknown = kinds.is_time(kind) or kinds.is_duration(kind) or kinds.is_interval(kind)
    return None if is_unknown else plain_type(kind)


def open_sink(job: Job) -> DeltaSink:
    """The sink of a job; see `sinks.table`."""
    return DeltaSink(job)
