"""A home with data of people, and a search of all that is in it, decoded and unpacked."""

from __future__ import annotations

import hashlib
import io
import json
import sqlite3
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from bascule.app import open_catalogue, open_objects
from bascule.backups import back_up
from bascule.catalogue import Reply, Requests, events
from bascule.core import sha256_file
from bascule.jobs import DONE, Jobs, Task
from bascule.monitoring.ledger import Ledger, Outcomes, SpoolWriter, hash_key
from bascule.serving.calls import Answer, AnsweredBy, Call
from bascule.serving.telemetry import LedgerRecorder, MetricLabels
from bascule.settings import Settings

ADA = "cust-48151623"


def recording(home: Path, private: Mapping[str, str] = {}) -> LedgerRecorder:
    """The recorder of a worker."""
    return LedgerRecorder(
        SpoolWriter(home), private=private, key=hash_key(home), max_rows_per_s=10**9
    )


def keep(
    recorder: LedgerRecorder,
    people: Sequence[str],
    *,
    first: int = 0,
    model: str = "late",
    numbers: bool = False,
) -> None:
    """A request for each person, numbered from `first`."""
    answer = Answer({"y": np.ones(1)}, AnsweredBy(model, "1", "onnx"))
    for number, name in enumerate(people, first):
        context: Any = SimpleNamespace(
            prediction_id=f"r{number}", caller="", protocol="oip", trace=(b"", b""), started_ns=0
        )
        who = np.array([float(name)]) if numbers else np.array([name], object)
        call = Call({"customer_id": who, "amount": np.array([float(number)])}, 1)
        recorder.add(context, call, answer, MetricLabels(model, "1"), 200, 1)


def record(
    home: Path, people: Sequence[str], *, private: Mapping[str, str] = {}, **options: Any
) -> None:
    """What a worker that has ended leaves; see `keep`."""
    recorder = recording(home, private)
    keep(recorder, people, **options)
    recorder.close()


def found_in(place: Path, text: str) -> list[str]:
    """Where a text is: in bytes, inflated streams, decoded columns, tables, archives."""
    return sorted(
        f"{file.relative_to(place)}: {how}"
        for file in place.rglob("*")
        if file.is_file()
        for how in _ways(file.name, file.read_bytes(), file, text)
    )


def _ways(name: str, data: bytes, file: Path | None, text: str) -> Iterator[str]:
    spellings = {text.encode(), json.dumps(text)[1:-1].encode(), text.encode("utf-16-le")}
    if any(one in data for one in spellings):
        yield "bytes"
    if name.endswith((".gz", ".tgz")):
        data = zlib.decompress(data, wbits=31)
    if name.endswith((".tar", ".gz", ".tgz")):
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                opened = archive.extractfile(member)
                assert opened is not None
                for way in _ways(member.name, opened.read(), None, text):
                    yield f"{member.name} {way}"
    if data[:4] == b"PAR1":
        table = pq.read_table(io.BytesIO(data))
        for column in table.column_names:
            if any(text == _plain(value) for value in table[column].to_pylist()):
                yield f"column {column}"
    if file is not None and data[:15] == b"SQLite format 3":
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
            for (table_name,) in connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table'"
            ).fetchall():
                for row in connection.execute(f'SELECT * FROM "{table_name}"'):
                    if any(text in str(value) for value in row):
                        yield f"table {table_name}"


def _plain(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def rows_of_others(home: Path, text: str) -> str:
    """A digest of all rows of the ledger that are not of a person, with their truths."""
    sql = """SELECT id, "input.customer_id" AS who, "input.amount" AS amount, "output.y" AS y, truth
    FROM newest_predictions ORDER BY id"""
    rows = Ledger(home).query(sql, model="late").to_pylist()
    left = [row for row in rows if row["who"] != text]
    return hashlib.sha256(json.dumps(left).encode()).hexdigest()


def full_home(settings: Settings, outside: Path) -> list[str]:
    """Fill a home with data of Ada and of others everywhere; the ids of Ada's requests."""
    home = settings.home
    people = [ADA if number % 5 == 0 else f"cust-{number:08d}" for number in range(40)]
    record(home, people)
    ours = [f"r{number}" for number in range(0, 40, 5)]
    Outcomes(home).add("late", pa.table({"id": [f"r{n}" for n in range(40)], "truth": [1] * 40}))
    catalogue = open_catalogue(settings)
    catalogue.create()
    _sinks(outside, people, catalogue)
    with catalogue.write() as connection:
        from datetime import UTC, datetime

        events.append(connection, events.Event(
            events.Subject("model", "late"), "noted", datetime.now(UTC), "ada", f"about {ADA}",
            {"customer_id": ADA, "other": [ADA, "cust-00000001"]},
        ))  # fmt: skip
    now = datetime.now(UTC)
    requests = Requests(catalogue)
    requests.begin("k1", "me", "d", now=now)
    requests.finish("k1", "me", Reply(200, (), json.dumps({"who": ADA}).encode()))
    jobs = Jobs(catalogue)
    for kind, content, result in (
        ("preview", {"where": f"customer_id = '{ADA}'"}, {"preview": [[ADA, "33"]]}),
        ("replay", {"id": "r5", "on": ""}, {"rows": [{"amount": 5.0}]}),
    ):
        jobs.end(jobs.start(Task(kind=kind, input=content)), DONE, result=result)
    (home / "reports").mkdir()
    (home / "reports" / "late.md").write_text(f"| {ADA} | 3 |\n| cust-00000001 | 4 |\n")
    pq.write_table(pa.table({"customer_id": people}), home / "rows.parquet")
    for name in ("before.tar", "before.tar.gz"):
        back_up(catalogue, open_objects(settings), home, home / name, with_ledger=True)
    record(home, [ADA, "cust-99999999"], first=40)  # not in the backups, and in no segment yet
    return [*ours, "r40"]


def _sinks(outside: Path, people: Sequence[str], catalogue: Any) -> None:
    """What batch runs have written: Parquet in a folder, a file of CSV, a table of SQLite."""
    outside.mkdir()
    table = pa.table({"customer_id": people, "score": [0.5] * len(people)})
    (outside / "out" / "_bascule" / "abc").mkdir(parents=True)
    pq.write_table(table, outside / "out" / "part-abc-00000.parquet", compression="lz4")
    chunk = {"chunk": 0, "rows": 40, "quarantined": 0, "seconds": 0.1}
    (outside / "out" / "_bascule" / "abc" / "chunk-00000.json").write_text(json.dumps(chunk))
    pyarrow.csv.write_csv(table, outside / "out.csv")
    with closing(sqlite3.connect(outside / "out.db")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE scores (customer_id TEXT, score REAL)")
        connection.executemany("INSERT INTO scores VALUES (?, 0.5)", [(who,) for who in people])
        connection.commit()
    jobs = Jobs(catalogue)
    ids = [f"r{number}" for number in range(len(people))]
    pq.write_table(pa.table({"prediction_id": ids, "score": ids}), outside / "ids.parquet")
    for place in (
        "out/",
        "out.csv",
        "ids.parquet",
        "sqlite:///out.db#scores",
        "postgresql://h/d#scores",
    ):
        task = Task(kind="batch", input={"to": place}, folder=str(outside))
        jobs.end(jobs.start(task), DONE, result={})


def digests_of(folder: Path) -> dict[str, str]:
    """Of every file below a folder."""
    return {
        str(file.relative_to(folder)): sha256_file(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
