from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pytest
from tests.stores import seaweed
from tests.tiers import first_of

from bascule.batch.delta import open_table
from bascule.batch.places import open_place

from .conftest import flights


def put(url: str, rows: int) -> None:
    filesystem, path = open_place(url)
    ds.write_dataset(flights(rows), path, format="parquet", filesystem=filesystem)


def stored(url: str) -> tuple[list[int], list[str]]:
    """The ids in a place, and the names of all its objects."""
    filesystem, path = open_place(url)
    rows = ds.dataset(path, format="parquet", filesystem=filesystem).to_table()
    infos = filesystem.get_file_info(pafs.FileSelector(path, recursive=True))
    names = [one.base_name for one in infos if one.type == pafs.FileType.File]
    return sorted(rows.column("id").to_pylist()), names


def test_a_bucket_is_scored_into_a_bucket(score, s3_url):
    put(f"{s3_url}/in", 1000)
    score(f"{s3_url}/in", f"{s3_url}/out/", chunk_rows=400)
    score(f"{s3_url}/in/*.parquet", f"{s3_url}/other/", limit=3)
    ids, names = stored(f"{s3_url}/out")
    assert ids == list(range(1000))
    assert "done.json" in names
    assert score(f"{s3_url}/in", f"{s3_url}/out/", chunk_rows=400).rows == 1000


class Cut:
    """A way to a server that ends connections in the middle of what is written there."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.cuts = 0
        """Of the next requests that write an object whose name has `names`."""
        self.names = b"part-"
        self.only_answers = False
        """Whether the request arrives, and its answer is lost."""
        self.has_cut = 0
        self.when_cut: Callable[[], object] = lambda: None
        self._mute: set[socket.socket] = set()
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._to))
                except OSError:  # it is away
                    caller.close()
                    continue
                self._ends += [caller, server]
                for one, other in ((caller, server), (server, caller)):
                    threading.Thread(
                        target=self._pass, args=(one, other, one is caller), daemon=True
                    ).start()

    def _pass(self, one: socket.socket, other: socket.socket, is_caller: bool) -> None:
        with suppress(OSError):
            while data := one.recv(1 << 16):
                if is_caller and self.cuts and b"PUT " in data and self.names in data:
                    self.cuts -= 1
                    self.has_cut += 1
                    self.when_cut()
                    if not self.only_answers:
                        other.sendall(data[: len(data) // 2])
                        break
                    self._mute.add(other)
                if one in self._mute:
                    break
                other.sendall(data)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for one in (self._listener, *self._ends):
            one.close()


@pytest.fixture
def cut(s3_url: str, s3_server) -> Iterator[Cut]:
    port = urlsplit(s3_server.endpoint).port
    assert port is not None
    with closing(Cut(port)) as made:
        yield made


JOB = """
import json, sys
from pathlib import Path
from bascule.batch import job_of, run_job
from bascule.bundle import load
from bascule.core import BasculeError
try:
    made = run_job(job_of(json.loads(sys.argv[1])), load(sys.argv[2]), Path(sys.argv[3]))
    print(json.dumps({"rows": made.rows}))
except BasculeError as error:
    print(json.dumps({"kind": type(error).__name__, "error": error.message, "hint": error.hint}))
"""


@pytest.fixture
def score_by(table_bundle: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A job in a process of its own: Delta's library lets no thread of its caller run meanwhile."""

    def run(cut: Cut, source: str, sink: str, **options: Any) -> dict[str, Any]:
        job = json.dumps({"model": "table", "from": source, "to": sink, **options})
        done = subprocess.run(
            [sys.executable, "-c", JOB, job, table_bundle, tmp_path / "home"],
            env={**os.environ, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{cut.port}"},
            stdout=subprocess.PIPE, check=True, timeout=120,
        )  # fmt: skip
        made: dict[str, Any] = json.loads(done.stdout)
        return made

    return run


def test_a_bucket_that_dies_in_the_middle_of_a_chunk_is_written_again(score_by, s3_url, cut):
    put(f"{s3_url}/in", 600)
    cut.cuts = 6
    score_by(cut, f"{s3_url}/in", f"{s3_url}/out/", chunk_rows=300, workers=1)
    ids, names = stored(f"{s3_url}/out")
    assert cut.has_cut == 6
    assert ids == list(range(600))
    assert len([one for one in names if one.startswith("part-")]) == 1


@pytest.mark.parametrize("scheme", first_of(["s3", "delta+s3"]))
def test_a_bucket_that_stays_away_is_an_error_with_the_next_step_and_shows_no_row(
    score_by, s3_url, cut, scheme
):
    sink = f"{scheme}{s3_url.removeprefix('s3')}/out/"
    put(f"{s3_url}/in", 100)
    cut.cuts = 1000
    refused = score_by(cut, f"{s3_url}/in", sink, retries=0)
    assert (refused["kind"], cut.has_cut > 0) == ("Unavailable", True)
    assert f"{sink} cannot be reached" in refused["error"]
    assert "the same command goes on" in refused["hint"]
    assert ids_at(sink) == []
    cut.cuts = 0
    assert score_by(cut, f"{s3_url}/in", sink) == {"rows": 100}
    assert ids_at(sink) == list(range(100))


def ids_at(sink: str) -> list[int]:
    """What a reader sees: none where there is no table yet."""
    url = sink.removeprefix("delta+").rstrip("/")
    if sink.startswith("delta"):
        table = open_table(url, sink)
        return [] if table is None else sorted(table.to_pyarrow_table()["id"].to_pylist())
    filesystem, path = open_place(url)
    rows = ds.dataset(path, format="parquet", filesystem=filesystem).to_table()
    return sorted(rows["id"].to_pylist()) if rows.num_columns else []


@pytest.mark.parametrize("only_answers", first_of([False, True]))
def test_a_commit_of_delta_that_is_cut_off_is_there_once(
    score, score_by, s3_url, cut, only_answers
):
    """Whether the request was lost or its answer: the table is asked for the transaction."""
    lake = f"delta+{s3_url}/lake"
    put(f"{s3_url}/in", 100)
    put(f"{s3_url}/more", 130)
    score(f"{s3_url}/in", lake)
    cut.names, cut.only_answers, cut.cuts = b"_delta_log", only_answers, 1
    assert score_by(cut, f"{s3_url}/more", lake, mode="append") == {"rows": 130}
    assert cut.has_cut == 1
    assert ids_at(lake) == sorted([*range(100), *range(130)])


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["s3", "delta+s3"])
def test_a_server_that_is_killed_while_a_bucket_is_written_to_is_waited_for(
    score_by, tmp_path, monkeypatch, scheme
):
    with seaweed(tmp_path) as server, closing(Cut(server.port)) as cut:
        for name, value in server.s3.environment.items():
            monkeypatch.setenv(name, value)
        put(server.s3.url("in"), 600)
        again = threading.Thread(target=server.start)

        def die() -> None:
            server.kill()
            again.start()

        cut.when_cut, cut.cuts = die, 1
        sink = f"{scheme}://{server.s3.url('out').partition('://')[2]}/"
        made = score_by(cut, server.s3.url("in"), sink, chunk_rows=300, workers=1, retries=10)
        again.join()
        assert (cut.has_cut, made) == (1, {"rows": 600})
        assert ids_at(sink) == list(range(600))
