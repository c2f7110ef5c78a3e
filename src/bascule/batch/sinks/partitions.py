"""A folder of partitions as a sink: `day=2026-01-01/part-RUN-0.parquet`.

Chunks are staged as Parquet below `_bascule/`, which readers of tables ignore. The end of the run
writes them by partition, and removes the files of other runs: with `replace` all of them, with
`replace_partitions` those in the partitions that this run has rows of. A run without rows of a
partition leaves it as it is. A kill between two steps is made good by the same command.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bascule.batch.scoring import ID
from bascule.batch.sinks.files import FileSink, run_of, sync
from bascule.batch.sinks.types import plain_schema
from bascule.batch.sinks.writers import type_of_format
from bascule.core import Conflict, Invalid, masked, writing

if TYPE_CHECKING:
    import pyarrow as pa

    from bascule.batch.jobs import Job

_STAGED = "_bascule"
_FILES = "files.json"
_FORMATS = {"parquet": "parquet", "csv": "csv", "arrow": "ipc"}


class PartitionedSink(FileSink):
    """A folder whose folders are named by values of columns."""

    _runs = "runs"

    def __init__(self, job: Job) -> None:
        if not job.sink.endswith("/") or job.mode == "upsert" or job.format == "jsonl":
            raise Invalid(
                f"partition_by: {masked(job.sink)} is no folder of Parquet, CSV or Arrow files "
                "that rows are added to or replaced in",
                hint="write a folder, with / at its end, and use --mode append or replace",
            )
        super().__init__(f"{job.sink}{_STAGED}/", "parquet")
        self.place, self._mode, self._by = masked(job.sink), job.mode, job.partition_by
        self._shown, self._joins = job.format or "parquet", True
        self._root = self._base.removesuffix(f"/{_STAGED}")

    def fits(self, schema: pa.Schema) -> pa.Schema:
        check_partitions(schema, self._by)
        return plain_schema(self.place, schema, type_of_format(self._shown))

    def check_apart(self, files: Iterable[str]) -> None:
        root = os.path.realpath(self._root) if self.is_local else self._root
        for path in files:
            file = os.path.realpath(path) if self.is_local else path
            if file.startswith(f"{root}/"):
                raise Invalid(f"{self.place} has files of the source", hint="write elsewhere")

    def runs(self) -> tuple[Mapping[str, bool], bool]:
        names = self._names(self._base)
        known = self._known(names)
        done = {run for run in known if f"{self._runs}/{run}/done.json" in names}
        shown = {run_of(Path(name).name) for name in self._data()}
        staged = {run_of(name) for name in names}
        return {run: run in done for run in sorted((shown | staged) & known | done)}, bool(
            shown - known
        )

    def _data(self) -> list[str]:
        """The files of rows, relative to the folder."""
        return sorted(one for one in self._names(self._root) if one[0] not in "_.")

    def _is_joined(self) -> bool:
        name = f"{self._folder}/{_FILES}"
        if name not in self._names(self._base):
            return False
        return set(msgspec.json.decode(self._get(name), type=list[str])) <= set(self._data())

    def _remove_others(self) -> None:
        """After the rows are there; see `_join`."""

    def _join(self) -> None:
        draft = self._drafts / "joined"
        shutil.rmtree(draft, ignore_errors=True)
        self._write(draft)
        files = sorted(str(one.relative_to(draft)) for one in draft.rglob("*") if one.is_file())
        others = self._others(files)
        self._put(_FILES, msgspec.json.encode(files))
        self._check_claim()
        for name in files:
            self._show(draft / name, f"{self._root}/{name}")
        for name in others:
            with self._reaching():
                self._filesystem.delete_file(f"{self._root}/{name}")
        if self._mode == "replace":
            super()._remove_others()

    def _write(self, draft: Path) -> None:
        import pyarrow as pa
        import pyarrow.dataset as ds

        with self._reaching(), writing(self.place):
            parts = ds.dataset(
                self._parts(), schema=self._schema, format="parquet", filesystem=self._filesystem
            )
            kinds = pa.schema([self._schema.field(name) for name in self._by])
            ds.write_dataset(
                parts.scanner(use_threads=False), str(draft), format=_FORMATS[self._shown],
                partitioning=ds.partitioning(kinds, flavor="hive"), use_threads=False,
                basename_template=f"part-{self._manifest.run}-{{i}}.{self._shown}",
            )  # fmt: skip

    def _others(self, files: list[str]) -> list[str]:
        """The files that go: of other runs, and those of this one that a kill has left.

        Raises:
            Conflict: A file of no run would go.
        """
        own, known = self._manifest.run, self._known(self._names(self._base))
        touched = {os.path.dirname(name) for name in files}
        goes: list[str] = []
        for name in self._data():
            run = run_of(os.path.basename(name))
            is_here = self._mode == "replace" or os.path.dirname(name) in touched
            if run == own and name not in files:
                goes.append(name)
            elif run != own and is_here and self._mode in ("replace", "replace_partitions"):
                if run not in known:
                    raise Conflict(
                        f"{self.place} has {name}, of no run of bascule: no run removes it",
                        hint="remove it, or choose another place",
                    )
                goes.append(name)
        return goes

    def _show(self, draft: Path, target: str) -> None:
        if not self.is_local:
            self._upload(draft, target)
            return
        with writing(self.place):
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            sync(draft)
            draft.replace(target)


def check_partitions(schema: pa.Schema, by: Iterable[str]) -> None:
    """Raise `Invalid` where a column of partitions is not written, or has no plain values."""
    import pyarrow.types as kinds

    for name in by:
        kind = schema.field(name).type if name in schema.names else None
        is_plain = kind is not None and any(
            is_kind(kind)
            for is_kind in (
                kinds.is_string, kinds.is_large_string, kinds.is_integer, kinds.is_boolean,
                kinds.is_date, kinds.is_dictionary,
            )
        )  # fmt: skip
        if not is_plain or name == ID:
            raise Invalid(
                f"partition_by: {name!r} is not written, or is no text, whole number or day",
                hint=f"columns that are written: {', '.join(schema.names[:20])}",
                field="partition_by",
            )
