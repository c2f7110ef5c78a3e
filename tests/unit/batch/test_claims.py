from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from tests.stores import BUCKET
from tests.tiers import first_of

from bascule.batch import claims, job_of, planned
from bascule.batch.claims import Cell, Claim, FileCell, ObjectCell, held
from bascule.batch.manifest import Record
from bascule.batch.places import open_place
from bascule.batch.sinks.database import DatabaseSink
from bascule.core import Conflict, processes

from .conftest import flights

ELSEWHERE = "another-machine/pid:[1] 7 99"


@pytest.fixture(params=["file", "bucket", "sqlite", "duckdb", "postgresql"])
def cell(request: pytest.FixtureRequest, tmp_path: Path) -> Cell:
    if request.param == "file":
        return FileCell(tmp_path / "sink" / "claim", "sink")
    if request.param == "bucket":
        return ObjectCell(request.getfixturevalue("s3_url"), "claim", "sink")
    url = f"{request.param}:///{tmp_path}/s.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql_url")
    sink = DatabaseSink(job_of({"model": "m", "from": "in", "to": f"{url}#s"}))
    sink._make_tables()
    return sink._claim


def test_a_cell_is_written_by_one_of_two(cell):
    first, second = Claim("a", "1"), Claim("b", "2", 3, "host:1", ELSEWHERE)
    assert cell.read() is None
    assert cell.swap(None, first)
    assert not cell.swap(None, second)
    assert not cell.swap(second, second)
    assert cell.read() == first
    assert cell.swap(first, second)
    assert cell.read() == second


def test_of_many_that_begin_at_once_one_has_the_claim(cell):
    won, barrier = [], threading.Barrier(8)

    def begin(number: int) -> None:
        barrier.wait()
        if cell.swap(None, Claim("run", str(number))):
            won.append(str(number))

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert won == [cell.read().token]


@pytest.fixture
def file(tmp_path: Path) -> FileCell:
    return FileCell(tmp_path / "claim", "sink")


def test_a_claim_is_held_by_one_and_given_back(file):
    with held(file, "a", "sink"):
        assert claims._lives(file.read())
        with pytest.raises(Conflict, match="run a is under way") as refused:
            held(file, "b", "sink").__enter__()
        assert refused.value.facts["run"] == "a"
    with held(file, "b", "sink") as claim:
        assert file.read() == claim


def test_the_claim_of_a_process_that_is_gone_is_taken_over_at_once(file):
    """Also where another process has its number now, or where its exit status was not read."""
    killed = subprocess.Popen(["sleep", "60"])
    living = processes._began(killed.pid)
    for began in ("5", living):
        process = f"{processes._machine()} {killed.pid} {began}"
        file.swap(file.read(), Claim("a", "t", 0, "h", process))
        assert claims._lives(file.read()) == (began == living)
    killed.kill()
    os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)  # it stays as a zombie
    assert not claims._lives(file.read())
    with held(file, "b", "sink"):
        assert file.read().run == "b"
    killed.wait()


def test_a_claim_of_another_host_is_taken_over_once_it_is_not_renewed(file, monkeypatch):
    monkeypatch.setattr(claims, "TTL_S", 1.0)
    monkeypatch.setattr(claims, "_LOOK_S", 0.05)
    theirs = Claim("a", "t", 0, "their:1", ELSEWHERE)
    file.swap(None, theirs)
    reads = iter([theirs, theirs, msgspec.structs.replace(theirs, beat=1)])
    with monkeypatch.context() as patched:
        patched.setattr(FileCell, "read", lambda _: next(reads))
        with pytest.raises(Conflict, match="their:1"):
            held(file, "b", "sink").__enter__()
    with held(file, "b", "sink"):
        assert file.read().run == "b"


def test_a_claim_is_renewed(file, monkeypatch):
    monkeypatch.setattr(claims, "_RENEW_S", 0.01)
    with held(file, "a", "sink"):
        while file.read().beat < 3:
            pass


@pytest.mark.parametrize("sink", ["s/", "s3", "sqlite:///s.db#s", "duckdb:///s.db#s", "postgresql"])
@pytest.mark.parametrize("taker", first_of(["same run", "another"]))
def test_a_process_that_was_taken_over_commits_nothing(
    bundle, tmp_path, monkeypatch, request, sink, taker
):
    """A part in a bucket or folder is removed again, unless it may be one of the other's."""
    monkeypatch.chdir(tmp_path)
    pq.write_table(flights(10), "in.parquet")
    if sink in ("s3", "postgresql"):
        url = request.getfixturevalue(f"{sink}_url")
        sink = f"{url}/s/" if sink == "s3" else f"{url}#s"
    with planned(job_of({"model": "m", "from": "in.parquet", "to": sink}), bundle) as plan:
        run = plan.manifest.run
        with plan.sink.claim(run):
            plan.sink.open(plan.manifest, plan.scorer.schema)
            (batch,) = plan.source.read(plan.chunks[0], 100)
            with plan.sink.stage(plan.chunks[0]) as staged:
                staged.write(plan.scorer.score(batch, "p", 0)[0])
                _take_over(plan.sink, run if taker == "same run" else "other")
                with pytest.raises(Conflict, match="was taken over by"):
                    staged.commit(Record(0, 10, 0))
        assert plan.sink.runs() == ({}, False)


def _take_over(sink: Any, run: str) -> None:
    cell: Any = getattr(sink, "_claim", None)
    if cell is None and sink.is_local:
        cell = FileCell(Path(sink._base, "_bascule", "claim"), "s")
    elif cell is None:
        cell = ObjectCell(sink._text, "_bascule/claim", "s")
    assert cell.swap(cell.read(), Claim(run, "another", 9, "h", ELSEWHERE))


def test_the_options_of_a_bucket_are_those_of_its_rows(s3_server, monkeypatch, tmp_path, score):
    """Of the URL, in the words of pyarrow, without AWS's variables."""
    parts = {name: value for name, value in s3_server.environment.items() if "ACCESS" in name}
    for name in s3_server.environment:
        monkeypatch.delenv(name, raising=False)
    key, secret = parts["AWS_ACCESS_KEY_ID"], parts["AWS_SECRET_ACCESS_KEY"]
    host = s3_server.endpoint.removeprefix("http://")
    pq.write_table(flights(10), tmp_path / "in.parquet")
    url = f"s3://{key}:{secret}@{BUCKET}/{tmp_path.name}/"
    options = f"endpoint_override={host}&scheme=http&region=us-east-1"
    score(tmp_path / "in.parquet", f"{url}?{options}")
    filesystem, path = open_place(f"{url}?{options}")
    assert ds.dataset(path, format="parquet", filesystem=filesystem).count_rows() == 10
