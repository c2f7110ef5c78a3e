from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pytest

from bascule.batch.places import open_place
from bascule.core import Unavailable

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
    """A way to a server that ends the next connections in the middle of what is sent."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.cuts = 0
        self.has_cut = 0
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._to))
                self._ends += [caller, server]
                for one, other in ((caller, server), (server, caller)):
                    threading.Thread(
                        target=self._pass, args=(one, other, one is caller), daemon=True
                    ).start()

    def _pass(self, one: socket.socket, other: socket.socket, is_caller: bool) -> None:
        with suppress(OSError):
            while data := one.recv(1 << 16):
                if is_caller and self.cuts and b"PUT " in data and b"part-" in data:
                    self.cuts -= 1
                    self.has_cut += 1
                    other.sendall(data[: len(data) // 2])
                    break
                other.sendall(data)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for one in (self._listener, *self._ends):
            one.close()


@pytest.fixture
def cut(s3_url: str, s3_server, monkeypatch) -> Iterator[Cut]:
    port = urlsplit(s3_server.endpoint).port
    assert port is not None
    made = Cut(port)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{made.port}")
    yield made
    made.close()


def test_a_bucket_that_dies_in_the_middle_of_a_chunk_is_written_again(score, s3_url, cut):
    put(f"{s3_url}/in", 600)
    cut.cuts = 6
    score(f"{s3_url}/in", f"{s3_url}/out/", chunk_rows=300, workers=1)
    ids, names = stored(f"{s3_url}/out")
    assert cut.has_cut == 6
    assert ids == list(range(600))
    assert len([one for one in names if one.startswith("part-")]) == 1


def test_a_bucket_that_stays_away_is_an_error_and_shows_no_part(score, s3_url, cut):
    put(f"{s3_url}/in", 100)
    cut.cuts = 1000
    with pytest.raises(Unavailable, match="cannot be reached"):
        score(f"{s3_url}/in", f"{s3_url}/out/", retries=0)
    cut.cuts = 0
    assert score(f"{s3_url}/in", f"{s3_url}/out/").rows == 100
    assert stored(f"{s3_url}/out")[0] == list(range(100))


def test_a_delta_table_whose_bucket_dies_in_the_middle_is_written_whole(score, s3_url, cut):
    import deltalake

    put(f"{s3_url}/in", 600)
    cut.cuts = 6
    lake = f"{s3_url}/lake".replace("s3://", "delta+s3://")
    score(f"{s3_url}/in", lake, chunk_rows=300, workers=1)
    options = {"AWS_ALLOW_HTTP": "true"}
    table = deltalake.DeltaTable(f"{s3_url}/lake", storage_options=options)
    assert cut.has_cut == 6
    assert sorted(table.to_pyarrow_table().column("id").to_pylist()) == list(range(600))
