"""A folder of files, or one file, as a sink: on disk or in a bucket.

Rows are in `part-RUN-CHUNK.parquet`. Beside them `_bascule/RUN` has the manifest, the records of
chunks and quarantined rows; readers of tables ignore names that begin with `_`. A chunk is staged
in a file that no reader looks at. Its record and quarantine are put in place first. Its rows come
last: their file *is* the commit, and is renamed (in a bucket: put) whole. The same chunk has the
same name and rows, so that committing it again changes nothing.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bascule.batch.manifest import Chunk, Manifest, Record
from bascule.batch.places import away, check_no_delta, is_url, open_place
from bascule.batch.sinks.types import cast, plain_schema
from bascule.batch.sinks.writers import (
    WRITERS,
    format_of_suffix,
    type_of_format,
    writable_format,
)
from bascule.core import Invalid, Unavailable, masked, writing

if TYPE_CHECKING:
    import pyarrow as pa


class FileSink:
    """Files of one format in a folder; or one file, which is joined at the end."""

    _runs = "_bascule"

    def __init__(self, text: str, format_: str = "", mode: str = "error") -> None:
        import pyarrow.fs as pafs

        self.place = masked(text)
        suffix = Path(text).suffix.lower()
        self._single = None if text.endswith("/") else format_of_suffix(suffix)
        self._format = writable_format(format_ or self._single or "parquet")
        self._filesystem, base = open_place(text)
        self._joins = self._single is not None
        check_no_delta(self._filesystem, base, text)
        self.is_local = isinstance(self._filesystem, pafs.LocalFileSystem)
        if self._single and (not self.is_local or is_url(text)):
            raise Invalid(
                f"{self.place} is one file of a bucket", hint="name a folder, with / at its end"
            )
        if mode == "upsert" or (mode == "append" and self._single):
            raise Invalid(
                f"mode {mode}: rows of {self.place} cannot be changed",
                hint="append to a folder, or replace its rows",
                field="mode",
            )
        self._target = base
        path = Path(base)
        self._base = (
            str(path.with_name(f".{path.name}.parts")) if self._single else base.rstrip("/")
        )
        self._suffix, self._open_writer = WRITERS[self._format]

    # -- what is there --

    def runs(self) -> tuple[Mapping[str, bool], bool]:
        names = self._names(self._base)
        done = {one.split("/")[1] for one in names if one.endswith("/done.json")}
        parts = [one for one in names if "/" not in one and one.endswith(self._suffix)]
        runs = {_run_of(one) for one in parts}
        foreign = "" in runs
        if self._single:
            foreign = Path(self._target).exists() and not runs | done
        return {run: run in done for run in sorted((runs | done) - {""})}, foreign

    def _names(self, base: str) -> set[str]:
        import pyarrow.fs as pafs

        with self._reaching():
            selector = pafs.FileSelector(base, recursive=True, allow_not_found=True)
            infos: list[Any] = self._filesystem.get_file_info(selector)
        return {
            one.path[len(base) :].lstrip("/") for one in infos if one.type == pafs.FileType.File
        }

    def fits(self, schema: pa.Schema) -> pa.Schema:
        return plain_schema(self.place, schema, type_of_format(self._format))

    def open(self, manifest: Manifest, schema: pa.Schema) -> list[Record]:
        self._manifest, self._schema = manifest, self.fits(schema)
        self._folder = f"{self._runs}/{manifest.run}"
        with self._reaching():
            self._filesystem.create_dir(f"{self._base}/{self._folder}", recursive=True)
        if self.is_local:
            self._drafts = Path(self._base, self._folder, "drafts")
            shutil.rmtree(self._drafts, ignore_errors=True)
            with writing(self.place):
                self._drafts.mkdir()
        else:
            self._drafts = Path(tempfile.mkdtemp(prefix="bascule-batch-"))
        names = self._names(self._base)
        if f"{self._folder}/manifest.json" not in names:
            self._put("manifest.json", msgspec.json.encode(manifest))
        if f"{self._folder}/done.json" in names:
            return self._records(names, range(len(manifest.chunks)))
        chunks = [n for n in range(len(manifest.chunks)) if self._part(n) in names]
        return self._records(names, chunks)

    def join(self, manifest: Manifest, schema: pa.Schema) -> Path:
        """Stage chunks of a run that another process has opened; the folder of the drafts."""
        self._manifest, self._schema = manifest, self.fits(schema)
        self._folder = f"{self._runs}/{manifest.run}"
        within = Path(self._base, self._folder, "drafts") if self.is_local else None
        with writing(self.place):
            self._drafts = Path(tempfile.mkdtemp(prefix="bascule-batch-", dir=within))
        return self._drafts

    def _records(self, names: set[str], chunks: Any) -> list[Record]:
        found = (f"{self._folder}/chunk-{number:05d}.json" for number in chunks)
        return [msgspec.json.decode(self._get(one), type=Record) for one in found if one in names]

    def _part(self, number: int) -> str:
        return f"part-{self._manifest.run}-{number:05d}{self._suffix}"

    # -- what is written --

    @contextmanager
    def stage(self, chunk: Chunk) -> Iterator[_StagedFile]:
        staged = _StagedFile(self, chunk.number)
        try:
            yield staged
        finally:
            staged.discard()

    def finish(self) -> None:
        done = f"{self._folder}/done.json"
        if done not in self._names(self._base):
            if self._manifest.identity["mode"] == "replace":
                self._remove_others()
            if self._joins:
                self._join()
            self._put("done.json", b"{}")
        if self._joins:  # what is joined has the rows; also after a kill between the two steps
            for part in sorted(self._names(self._base)):
                if part.startswith(f"part-{self._manifest.run}-"):
                    with self._reaching():
                        self._filesystem.delete_file(f"{self._base}/{part}")

    def _parts(self) -> list[str]:
        """The paths of the rows of all chunks, in their order."""
        return [f"{self._base}/{self._part(n)}" for n in range(len(self._manifest.chunks))]

    def _join(self) -> None:
        """Make one thing of all parts. Again is the same as once."""
        import pyarrow.dataset as ds

        draft, parts = self._drafts / "joined", self._parts()
        with writing(self.place):
            if self._format in ("csv", "jsonl"):  # as bytes: text says less than a column knew
                self._open_writer(draft, self._schema).close()
                head = draft.stat().st_size
                with draft.open("ab") as joined:
                    for part in parts:
                        with Path(part).open("rb") as file:
                            file.seek(head)
                            shutil.copyfileobj(file, joined)
            else:
                writer = self._open_writer(draft, self._schema)
                form = {"arrow": "ipc"}.get(self._format, self._format)
                for part in parts:
                    for batch in ds.dataset(part, schema=self._schema, format=form).to_batches():
                        writer.write_batch(batch)
                writer.close()
            _sync(draft)
            draft.replace(self._target)

    def _remove_others(self) -> None:
        keep = f"part-{self._manifest.run}-"
        for name in self._names(self._base):
            is_part = "/" not in name and name.endswith(self._suffix) and not name.startswith(keep)
            is_run = name.startswith(f"{self._runs}/") and not name.startswith(f"{self._folder}/")
            if is_part or is_run:
                self._filesystem.delete_file(f"{self._base}/{name}")
        if self.is_local:
            for folder in Path(self._base, self._runs).iterdir():
                if folder.name != self._manifest.run:
                    shutil.rmtree(folder, ignore_errors=True)

    def publish(self, draft: Path, name: str) -> None:
        """Put a finished draft in place, whole."""
        target = f"{self._base}/{name}"
        if self.is_local:
            with writing(target):
                _sync(draft)
                draft.replace(target)
                _sync(Path(target).parent)
            return
        self._upload(draft, target)

    def _upload(self, draft: Path, target: str) -> None:
        """Put an object in one write: what fails is not completed when the stream is closed."""
        import pyarrow as pa

        # `pyarrow.fs.copy_files` does not raise what closing its stream raises.
        length = draft.stat().st_size
        with self._reaching(), self._filesystem.open_output_stream(target) as stream:
            if length:
                stream.write(pa.memory_map(str(draft)).read_buffer())
        with self._reaching():
            size = self._filesystem.get_file_info(target).size
        if size != length:
            raise Unavailable(f"{self.place}: {target} has {size} bytes after it was written")

    def _put(self, name: str, content: bytes) -> None:
        draft = self._drafts / name
        with writing(self.place):
            draft.write_bytes(content)
        self.publish(draft, f"{self._folder}/{name}")

    def _get(self, name: str) -> bytes:
        with self._reaching(), self._filesystem.open_input_stream(f"{self._base}/{name}") as file:
            return bytes(file.read())

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            if self.is_local:
                with writing(self.place):
                    yield
            else:
                yield
        except OSError as problem:
            raise away(self.place, problem) from None

    def close(self) -> None:
        if not hasattr(self, "_drafts"):
            return
        shutil.rmtree(self._drafts, ignore_errors=True)
        if self.is_local and self._manifest.run not in self.runs()[0]:  # no chunk was committed
            shutil.rmtree(Path(self._base, self._folder), ignore_errors=True)


class _StagedFile:
    """A chunk in drafts."""

    def __init__(self, sink: FileSink, number: int) -> None:
        self._sink = sink
        self._number = number
        self._drafts = [sink._drafts / f"{kind}-{number:05d}" for kind in ("rows", "quarantine")]
        self._record = sink._drafts / f"record-{number:05d}"
        self._writer: Any = None
        self._poison: Any = None

    def write(self, batch: pa.RecordBatch) -> None:
        with writing(self._sink.place):
            if self._writer is None:
                self._writer = self._sink._open_writer(self._drafts[0], self._sink._schema)
            self._writer.write_batch(cast(self._sink.place, batch, self._sink._schema))

    def quarantine(self, rows: pa.Table) -> None:
        with writing(self._sink.place):
            if self._poison is None:
                self._poison = WRITERS["parquet"][1](self._drafts[1], rows.schema)
            self._poison.write_table(rows)

    def commit(self, record: Record) -> None:
        import pyarrow as pa

        sink = self._sink
        if self._writer is None:
            self.write(pa.RecordBatch.from_pylist([], sink._schema))
        with writing(sink.place):
            self._close()
            self._record.write_bytes(msgspec.json.encode(record))
        if self._drafts[1].exists():
            sink.publish(self._drafts[1], f"{sink._folder}/quarantine-{self._number:05d}.parquet")
        sink.publish(self._record, f"{sink._folder}/chunk-{self._number:05d}.json")
        sink.publish(self._drafts[0], sink._part(self._number))

    def _close(self) -> None:
        for writer in (self._writer, self._poison):
            if writer is not None:
                writer.close()
        self._poison = None

    def discard(self) -> None:
        with suppress(OSError):  # a full disk: the draft goes
            self._close()
        for draft in (*self._drafts, self._record):
            draft.unlink(missing_ok=True)


def _run_of(name: str) -> str:
    return name.split("-")[1] if name.startswith("part-") and name.count("-") == 2 else ""


def _sync(path: Path) -> None:
    """On the disk before it is named, so that a power cut leaves no empty file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
