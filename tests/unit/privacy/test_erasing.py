"""Erasure of a person: gone from every byte of the home, others untouched, proved."""

from __future__ import annotations

import base64
import gzip
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from tests.homes import finished, inline_jobs
from tests.ledger_rows import ids, table, take_in
from tests.privacy_home import (
    ADA,
    digests_of,
    found_in,
    full_home,
    keep,
    record,
    recording,
    rows_of_others,
)
from tests.tiers import first_of

from bascule.app import open_catalogue, open_objects
from bascule.backups import back_up, restore
from bascule.backups.archive import unpack
from bascule.catalogue import events, sealing
from bascule.catalogue.schema import audit_keys
from bascule.core import Invalid, NotFound, Untrusted, sha256_file
from bascule.jobs import INFERENCE, Jobs, Task
from bascule.kinds import KINDS
from bascule.kinds.deferred import Asking, payloads_of
from bascule.monitoring.ledger import Deletions, Ledger, Outcomes, write_segment
from bascule.monitoring.ledger.manifest import commit, read_manifest
from bascule.places import Folder, place_beside
from bascule.privacy import Erasure, Person, export_about, verify_proof
from bascule.settings import load_settings


@pytest.fixture
def settings(tmp_path):
    return load_settings(tmp_path, {"BASCULE_HOME": str(tmp_path / "home")})


def erasing(settings, text=ADA, *, name="e1"):
    return Erasure(
        id=name, home=settings.home, catalogue=open_catalogue(settings),
        person=Person("customer_id", text), by="dpo",
    )  # fmt: skip


def submitted(settings, jobs, text=ADA, **more):
    asked = KINDS["erasure"].parse({"field": "customer_id", "subject": text, **more})
    return jobs.submit(Task(kind="erasure", input=asked, by="dpo"))


def proof_of(settings, name):
    return verify_proof(settings.home / "erasures" / f"{name}.json")


def test_a_person_is_gone_from_every_byte_and_the_others_stay(settings, tmp_path):
    full_home(settings, tmp_path / "outside")
    places = {place.partition(": ")[0] for place in found_in(tmp_path, ADA)}
    assert len(places) >= 9
    others = rows_of_others(settings.home, ADA)
    csv = (tmp_path / "outside" / "out.csv").read_text().splitlines()
    jobs = inline_jobs(settings)
    job = submitted(settings, jobs)
    finished(jobs)
    assert jobs.get(job.id).problem is None
    proof = proof_of(settings, job.input["id"])
    assert proof["left"] == []
    assert ADA not in json.dumps(proof)
    assert found_in(tmp_path, ADA) == []
    assert rows_of_others(settings.home, ADA) == others
    rows = [(place["place"], place["rows"]) for place in proof["places"]]
    assert ("ledger late", 9) in rows
    written = {name for name, count in rows if name.startswith("batch") and count == 8}
    files = ("part-abc-00000.parquet", "out.csv", "out.db", "ids.parquet")
    assert written == {f"batch {name}" for name in files}
    assert "r5" not in pq.read_table(tmp_path / "outside/ids.parquet")["prediction_id"].to_pylist()
    assert any("postgresql://h/d#scores" in one for one in proof["elsewhere"])
    left = (tmp_path / "outside" / "out.csv").read_text().splitlines()
    assert left == [line for line in csv if ADA not in line]
    chunk = json.loads((tmp_path / "outside/out/_bascule/abc/chunk-00000.json").read_text())
    assert (chunk["rows"], chunk["erased"]) == (32, 8)
    unpack(settings.home / "before.tar.gz", tmp_path / "unpacked")  # verifies every digest


@pytest.mark.slow
def test_a_number_is_erased_where_it_names_the_person_alone(settings):
    record(settings.home, ["41", "42"], numbers=True)
    take_in(settings.home)
    (settings.home / "rows.csv").write_text("customer_id,age\r\n42,41\r\n7,42\r\n")
    (settings.home / "notes.md").write_text("42 is the answer")
    result = erasing(settings, "42").run()
    assert ids(settings.home) == ["r0"]
    assert (settings.home / "rows.csv").read_bytes() == b"customer_id,age\r\n7,42\r\n"
    assert (settings.home / "notes.md").read_text() == "42 is the answer"
    content = verify_proof(Path(result["proof"]))
    assert not content["searches_texts"]


@pytest.mark.slow
def test_twice_is_once_and_the_history_has_the_digest_of_the_proof(settings):
    record(settings.home, [ADA, "cust-00000001"])
    first, again = erasing(settings).run(), erasing(settings).run()
    assert first == again
    erasing(settings, name="e2").run()
    assert proof_of(settings, "e2")["places"] == []
    with open_catalogue(settings).read() as connection:
        completed = events.find(connection, kinds=["erasure_completed"])
    digests = {sha256_file(settings.home / "erasures" / f"{name}.json") for name in ("e1", "e2")}
    assert {event.body["proof"] for event in completed} == digests


@pytest.mark.slow
def test_a_proof_that_was_altered_does_not_verify(settings):
    record(settings.home, [ADA])
    file = Path(erasing(settings).run()["proof"])
    envelope = json.loads(file.read_bytes())
    payload = base64.b64decode(envelope["payload"]).replace(b'"rows":1', b'"rows":2')
    file.write_text(json.dumps({**envelope, "payload": base64.b64encode(payload).decode()}))
    with pytest.raises(Untrusted, match="was altered"):
        verify_proof(file)


@pytest.mark.slow
def test_two_processes_at_once_end_well_and_leave_no_value(settings):
    """Two runners, as two control processes of one catalogue have."""
    record(settings.home, [ADA, "cust-00000001"])
    runners = [inline_jobs(settings), inline_jobs(settings)]
    jobs = [submitted(settings, runner) for runner in runners]
    finished(runners[0])
    problems = [str(runners[0].get(job.id).problem or "") for job in jobs]
    assert "" in problems
    assert all("under way" in one or "another erasure" in one for one in problems if one)
    assert ids(settings.home) == ["r1"]
    assert found_in(settings.home, ADA) == []


BODIES = {
    "of/a": ADA.encode(), "of/a.1": b"0.7", "of/b": b"[1]", "of/b.1": f'["{ADA}"]'.encode(),
    "of/c": b"{}" + bytes(8), "of/d": gzip.compress(b"{}"), "of/e": b'{"id": 7}', "of/e.1": b"0.2",
}  # fmt: skip
"""Requests and answers: with the value, and with numbers in bytes, which may be it."""


@pytest.mark.parametrize("before", ["", "Name:\n", "\u00a0", '"', "x"])
@pytest.mark.parametrize("text", [ADA, "Jos\u00e9 Garc\u00eda"])
def test_a_value_is_found_behind_what_json_escapes_also_in_json_in_a_text(before, text):
    person = Person("name", text)
    for body in (json.dumps([before + text]), json.dumps([json.dumps({"content": before + text})])):
        assert person.is_in(body.encode()) == (before != "x")


@pytest.mark.parametrize("kind", ["files", pytest.param("s3", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("text", "left"), first_of([(ADA, ["of/e", "of/e.1"]), ("7", [])]))
def test_a_request_that_is_answered_later_goes_with_its_answer(request, settings, kind, text, left):
    objects = "" if kind == "files" else request.getfixturevalue("s3_url")
    settings.home.mkdir()
    place = place_beside(objects, settings.home, "deferred")
    for name, body in BODIES.items():
        place.create(name, body)
    erasure = replace(erasing(settings, text), objects=objects)
    (found,) = (one for one in erasure.find() if one.place == "requests answered later")
    assert sorted({*BODIES} - {*found.files}) == left
    erasure.run()
    assert proof_of(settings, "e1")["left"] == []
    assert sorted(name for name, _ in place.files("")) == left


def test_an_answer_that_comes_after_its_request_was_erased_is_not_kept(settings):
    settings.home.mkdir()
    payloads = payloads_of(settings)
    body = {"model": "m", "path": "/", "headers": {}, "callback": "", "bytes": 9}
    body["body"] = payloads.put(f'["{ADA}"]'.encode())
    job = Jobs(open_catalogue(settings)).submit(Task(kind=INFERENCE, input=body))

    class Model(BaseHTTPRequestHandler):
        def do_POST(self):
            erasing(settings).run()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f'["hello {ADA}"]'.encode())

    with HTTPServer(("127.0.0.1", 0), Model) as server:
        Thread(target=server.handle_request).start()
        asking = Asking(settings, job, SimpleNamespace(address=server.server_address, token=""))
        with pytest.raises(NotFound, match="kept no more"):
            asking.answer()
    assert list(payloads.files.files("")) == []


def test_an_answer_that_comes_while_its_request_is_erased_goes_too(settings, monkeypatch):
    settings.home.mkdir()
    place = place_beside("", settings.home, "deferred")
    place.create("of/a", f'["{ADA}"]'.encode())
    remove = Folder.remove
    monkeypatch.setattr(
        Folder, "remove",
        lambda self, name: remove(self, name) or (name == "of/a" and self.create("of/a.1", b"1")),
    )  # fmt: skip
    erasing(settings).run()
    assert list(place.files("")) == []


def test_what_cannot_be_erased_is_in_the_proof(settings):
    """A bundle keeps its rows; a file that is no text or table of ours is not destroyed."""
    record(settings.home, [ADA])
    (settings.home / "objects" / "ab").mkdir(parents=True)
    rows = pa.table({"customer_id": [ADA, "cust-00000001"]})
    pq.write_table(rows, settings.home / "objects" / "ab" / "heldout.parquet")
    (settings.home / "old.csv.gz").write_bytes(gzip.compress(f"{ADA},1\n".encode()))
    (settings.home / "state.bin").write_bytes(b"\xff" + ADA.encode())
    (settings.home / "mail.csv").write_text(f"to,about\n7,{ADA}\n")
    content = verify_proof(Path(erasing(settings).run()["proof"]))
    assert [one.partition(":")[0] for one in content["left"]] == [
        "objects/ab/heldout.parquet",
        "old.csv.gz",
        "state.bin",
    ]
    assert (settings.home / "mail.csv").read_text() == "to,about\n7,(erased)\n"


def test_the_outcome_of_a_row_that_came_after_its_erasure_is_erased(settings):
    record(settings.home, ["cust-00000001"])
    erasing(settings).run()
    recorder = recording(settings.home)
    keep(recorder, [ADA, "cust-00000001"], first=10)
    recorder.close()
    take_in(settings.home, Deletions())
    truths = pa.table({"id": ["r10", "r11"], "truth": [1, 1]})
    Outcomes(settings.home).add("late", truths)
    take_in(settings.home, Deletions())
    assert Ledger(settings.home).query("SELECT id FROM outcomes")["id"].to_pylist() == ["r11"]


def test_a_worker_that_lives_goes_on_after_what_it_wrote_is_blanked(settings):
    """Its spool file stays open: what is read of it is overwritten in place."""
    recorder = recording(settings.home)
    keep(recorder, [ADA, "cust-00000001"])
    recorder.flush()
    erasing(settings).run()
    assert found_in(settings.home, ADA) == []
    keep(recorder, ["cust-00000002", ADA], first=10)
    recorder.close()
    Outcomes(settings.home).add("late", pa.table({"id": ["r0", "r1"], "truth": [1, 1]}))
    take_in(settings.home, Deletions())
    kept = Ledger(settings.home).query("SELECT id FROM outcomes")["id"].to_pylist()
    assert kept == ["r1"]
    assert ids(settings.home) == ["r1", "r10"]
    assert found_in(settings.home, ADA) == []


def test_an_empty_subject_is_none():
    with pytest.raises(Invalid, match="1 to 1,024"):
        Person("customer_id", "")


@pytest.mark.slow
def test_a_trial_finds_and_changes_nothing(settings, tmp_path):
    full_home(settings, tmp_path / "outside")
    before = digests_of(tmp_path / "outside")
    places = erasing(settings).find()
    names = {place.place for place in places}
    assert names >= {"ledger late", "batch out.csv", "backup before.tar", "file late.md"}
    assert digests_of(tmp_path / "outside") == before
    rows = export_about(settings.home, open_catalogue(settings), Person("customer_id", ADA))
    assert [row["source"] for row in rows].count("ledger") == 9
    assert {row["row"]["input.customer_id"] for row in rows if row["source"] == "ledger"} == {ADA}


_ERASES = """
import sys
from pathlib import Path
from tests.unit.privacy.test_erasing import erasing
from bascule.settings import load_settings
home = Path(sys.argv[1])
erasing(load_settings(home.parent, {"BASCULE_HOME": str(home)})).run()
"""


@pytest.mark.slow
def test_killed_at_fifty_moments_it_goes_on_to_the_same_end(tmp_path):
    """Each copy of a home is erased by processes of which up to three are killed."""
    source = load_settings(tmp_path, {"BASCULE_HOME": str(tmp_path / "source" / "home")})
    full_home(source, tmp_path / "source" / "outside")
    others, kills, rest = rows_of_others(source.home, ADA), 0, random.Random(7)
    whole_s = None
    while kills < 50:
        copy = tmp_path / "copy"
        shutil.copytree(tmp_path / "source", copy)
        _move_sinks(copy)
        settings = load_settings(copy, {"BASCULE_HOME": str(copy / "home")})
        for attempt in range(4):
            may_take_s = None
            if attempt < 3 and whole_s is not None:
                may_take_s = whole_s * (0.3 + 0.6 * rest.random())
            started_s = time.monotonic()
            if _has_ended(settings.home, may_take_s):
                whole_s = whole_s or time.monotonic() - started_s
                break
            kills += 1
        proof = proof_of(settings, "e1")
        assert proof["left"] == []
        assert found_in(copy, ADA) == []
        assert rows_of_others(settings.home, ADA) == others
        chunk = json.loads((copy / "outside/out/_bascule/abc/chunk-00000.json").read_text())
        assert (chunk["rows"], chunk["erased"]) == (32, 8)
        shutil.rmtree(copy)


def _has_ended(home, may_take_s):
    """Erase in a process; False where it was killed after so many seconds."""
    command = [sys.executable, "-c", _ERASES, str(home)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        _, said = process.communicate(timeout=may_take_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return False
    assert process.returncode == 0, said.decode()
    return True


def _move_sinks(copy):
    """The jobs of a copied home wrote to the copied sinks."""
    with closing(sqlite3.connect(copy / "home" / "catalogue.db")) as connection:
        connection.execute("UPDATE jobs SET folder = ? WHERE kind = 'batch'", [f"{copy}/outside"])
        connection.commit()


@pytest.mark.slow
def test_ten_million_rows_take_a_minute_at_most(tmp_path):
    """Seconds of a processor; the person has a row in every one of twenty segments."""
    settings = load_settings(tmp_path, {"BASCULE_HOME": str(tmp_path / "home")})
    manifest = read_manifest(settings.home)
    for number in range(20):
        day = f"2026-11-{1 + number // 2:02d}"
        rows = table([f"{number}-{row}" for row in range(500_000)],
                     datetime.fromisoformat(f"{day}T12:00:00+00:00"))  # fmt: skip
        people = pa.array(
            [ADA if row == 7 else f"cust-{row % 90_000:08d}" for row in range(500_000)]
        )
        rows = rows.append_column("input.customer_id", pa.array(people))
        name = f"{number + 1:08d}-big-{number}.parquet"
        manifest.segments.append(write_segment(settings.home, rows, "gb", "1", day, name))
    manifest.sequence = 100
    commit(settings.home, manifest)
    started_s = time.process_time()
    erasing(settings).run()
    took_s = time.process_time() - started_s
    assert Ledger(settings.home).query("SELECT count(*) n FROM predictions").to_pylist() == [
        {"n": 9_999_980}
    ]
    assert took_s <= 60, f"{took_s:.1f} s"


def test_the_audit_chain_verifies_after_the_history_has_lost_a_person(settings, tmp_path):
    """That of the home, and that of a backup in it, which is restored."""
    catalogue = open_catalogue(settings)
    catalogue.create()
    with catalogue.write() as connection:
        event = events.Event(
            events.Subject("model", "late"), "tagged", datetime.now(UTC), ADA, f"{ADA} has asked"
        )
        events.append(connection, event)
    backup = settings.home / "before.tar"
    back_up(catalogue, open_objects(settings), settings.home, backup)
    assert erasing(settings).run()["envelope"]
    again = load_settings(tmp_path, {"BASCULE_HOME": str(tmp_path / "again")})
    restored = open_catalogue(again)
    restored.create()
    restore(backup, restored, open_objects(again), again.home)
    for chain in (catalogue, restored):
        assert sealing.verify(chain.read).problems == ()
        with chain.read() as connection:
            assert ADA not in repr(events.find(connection))
            assert ADA not in connection.scalars(sa.select(audit_keys.c.person)).all()
