"""A folder of files, or one file, as a sink: on disk or in a bucket.

Rows are in `part-RUN-CHUNK.parquet`. Beside them `_bascule/RUN` has the manifest, the records of
chunks and quarantined rows; readers of tables ignore names that begin with `_`. A chunk is staged
in a file that no reader looks at. Its record and quarantine are put in place first. Its rows come
last: their file *is* the commit, and is renamed (in a bucket: put) whole. The same chunk has the
same name and rows, so that committing it again changes nothing.

`_bascule/claim` says which run writes. A run removes its own files and, with `replace`, those of
runs whose manifests are in `_bascule`: no other file.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bascule.batch.claims import CONDITIONAL, Cell, Claim, FileCell, ObjectCell, check_token, held
from bascule.batch.manifest import Chunk, Manifest, Record
from bascule.batch.places import away, check_no_delta, is_url, open_place
from bascule.batch.sinks.types import cast, plain_schema
from bascule.batch.sinks.writers import (
    WRITERS,
    format_of_suffix,
    type_of_format,
    writable_format,
)
from bascule.core import BasculeError, Conflict, Invalid, Unavailable, masked, writing

if TYPE_CHECKING:
    import pyarrow as pa


_CLAIM = "claim"


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
        self._target, self._text = base, text
        self.token, self._is_swept = "", False
        path = Path(base)
        self._base = (
            str(path.with_name(f".{path.name}.parts")) if self._single else base.rstrip("/")
        )
        self._suffix, self._open_writer = WRITERS[self._format]

    # -- what is there --

    def runs(self) -> tuple[Mapping[str, bool], bool]:
        names = self._names(self._base)
        known = self._known(names)
        done = {run for run in known if f"{self._runs}/{run}/done.json" in names}
        parts = {run_of(one) for one in names if "/" not in one and one.endswith(self._suffix)}
        foreign = bool(parts - known)
        if self._single:
            foreign = Path(self._target).exists() and not (parts & known) | done
        return {run: run in done for run in sorted((parts & known) | done)}, foreign

    def _known(self, names: set[str]) -> set[str]:
        """The runs whose manifests are there."""
        prefix, suffix = f"{self._runs}/", "/manifest.json"
        found = (one.removeprefix(prefix) for one in names if one.startswith(prefix))
        return {one.removesuffix(suffix) for one in found if one.endswith(suffix)}

    def check_apart(self, files: Iterable[str]) -> None:
        """Raise `Invalid` where a run would write among the files of its own source."""
        own = self._target if self._single else self._base
        if self.is_local:
            own, files = os.path.realpath(own), map(_real_path(), files)
        for path in files:
            if own == path or (own == path.rpartition("/")[0] and path.endswith(self._suffix)):
                raise Invalid(f"{self.place} has files of the source", hint="write elsewhere")

    # -- who writes --

    @contextmanager
    def claim(self, run: str) -> Iterator[None]:
        name = f"{self._runs}/{_CLAIM}"
        cell: Cell
        if self.is_local:
            cell = FileCell(Path(self._base, name), self.place)
        elif self._text.partition("://")[0] in CONDITIONAL:
            cell = ObjectCell(self._text, name, self.place)
        else:
            yield  # a store without conditional writes has no claims
            return
        with held(cell, run, self.place) as claim:
            self.token = claim.token
            try:
                yield
            finally:
                self._sweep()
                self.token, self._is_swept = "", True

    def _check_claim(self, part: str = "") -> None:
        """Raise `Conflict` where another process has taken over, and undo `part` of this one."""
        if not self.token:
            return
        now = msgspec.json.decode(self._get(f"{self._runs}/{_CLAIM}"), type=Claim)
        if part and now.token != self.token and now.run != self._manifest.run:
            with suppress(BasculeError, OSError), self._reaching():
                self._filesystem.delete_file(f"{self._base}/{part}")
        check_token(self.place, self.token, now)

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
        if manifest.identity["mode"] == "replace" and not self._joins and self.runs()[1]:
            raise Conflict(
                f"{self.place} has files of no run of bascule, which a run does not remove",
                hint="remove them, or choose another place",
            )
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
        done = f"{self._folder}/done.json"
        if self._joins and done in names:
            if self._is_joined():
                return self._records(names, range(len(manifest.chunks)))
            with self._reaching():  # it was removed since
                self._filesystem.delete_file(f"{self._base}/{done}")
        chunks = [
            n for n, _ in enumerate(manifest.chunks) if {self._part(n), self._name(n)} & names
        ]
        return self._records(names, chunks)

    def _is_joined(self) -> bool:
        return Path(self._target).exists()

    def join(self, manifest: Manifest, schema: pa.Schema, token: str = "") -> Path:
        """Stage chunks of a run that another process has opened, with its token, in this folder."""
        self._manifest, self._schema, self.token = manifest, self.fits(schema), token
        self._folder = f"{self._runs}/{manifest.run}"
        within = Path(self._base, self._folder, "drafts") if self.is_local else None
        with writing(self.place):
            self._drafts = Path(tempfile.mkdtemp(prefix="bascule-batch-", dir=within))
        return self._drafts

    def _records(self, names: set[str], chunks: Any) -> list[Record]:
        found = (f"{self._folder}/chunk-{number:05d}.json" for number in chunks)
        return [msgspec.json.decode(self._get(one), type=Record) for one in found if one in names]

    def _part(self, number: int) -> str:
        """Where a chunk is committed: with `replace` beside the manifest, which no reader sees."""
        waits = self._manifest.identity["mode"] == "replace" and not self._joins
        return f"{self._folder}/{self._name(number)}" if waits else self._name(number)

    def _name(self, number: int) -> str:
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
        self._check_claim()
        if done not in self._names(self._base):
            self._check_rows()
            if self._manifest.identity["mode"] == "replace":
                self._show_parts()
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
        names, numbers = self._names(self._base), range(len(self._manifest.chunks))
        parts = ((self._part(n), self._name(n)) for n in numbers)
        return [f"{self._base}/{part if part in names else name}" for part, name in parts]

    def _show_parts(self) -> None:
        for path in self._parts():
            shown = f"{self._base}/{path.rpartition('/')[2]}"
            if path != shown:  # a bucket copies, and then deletes
                with self._reaching():
                    self._filesystem.move(path, shown)

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
            sync(draft)
            draft.replace(self._target)

    def _check_rows(self) -> None:
        """Raise `Conflict` where files of a format that counts its rows lack some of them."""
        import pyarrow.dataset as ds

        if kind := {"parquet": "parquet", "arrow": "ipc"}.get(self._format):
            records = self._records(self._names(self._base), range(len(self._manifest.chunks)))
            with self._reaching():
                parts = ds.dataset(self._parts(), format=kind, filesystem=self._filesystem)
                found, expected = parts.count_rows(), sum(one.rows for one in records)
            if found != expected:
                raise Conflict(f"{self.place} has {found:,} of the {expected:,} rows of this run")

    def _remove_others(self) -> None:
        names = self._names(self._base)
        for run in sorted(self._known(names) - {self._manifest.run}):
            own = (f"part-{run}-", f"{self._runs}/{run}/")
            # The manifest last: after a kill it still names what is left.
            found = [name for name in names if name.startswith(own)]
            for name in sorted(found, key=lambda name: name.endswith("/manifest.json")):
                with self._reaching():
                    self._filesystem.delete_file(f"{self._base}/{name}")
            if self.is_local:
                shutil.rmtree(Path(self._base, self._runs, run), ignore_errors=True)

    def publish(self, draft: Path, name: str) -> None:
        """Put a finished draft in place, whole."""
        target = f"{self._base}/{name}"
        if self.is_local:
            with writing(target):
                sync(draft)
                draft.replace(target)
                sync(Path(target).parent)
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
        if not self._is_swept:  # after the claim, the drafts may be those of another process
            self._sweep()

    def _sweep(self) -> None:
        if not hasattr(self, "_drafts"):
            return
        shutil.rmtree(self._drafts, ignore_errors=True)
        own = Path(self._base, self._folder)
        has_parts = self._manifest.run in self.runs()[0] or any(own.glob("part-*"))
        if self.is_local and not has_parts:
            shutil.rmtree(own, ignore_errors=True)


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
        sink._check_claim()
        sink.publish(self._drafts[0], sink._part(self._number))
        sink._check_claim(sink._part(self._number))

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


def _real_path() -> Callable[[str], str]:
    """`os.path.realpath` for many files of few folders."""
    folder = cache(os.path.realpath)

    def path(file: str) -> str:
        if os.path.islink(file):
            return os.path.realpath(file)
        at = file.rfind("/") + 1
        return os.path.join(folder(file[:at]), file[at:])

    return path


def run_of(name: str) -> str:
    """The run that the name of a file tells; empty where it is of none."""
    return name.split("-")[1] if name.startswith("part-") and name.count("-") == 2 else ""


def sync(path: Path) -> None:
    """On the disk before it is named, so that a power cut leaves no empty file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
