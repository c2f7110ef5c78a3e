"""Erasure over PostgreSQL, over hosts that share a ledger in S3, and as a job that is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time

import pyarrow as pa
import pytest
import sqlalchemy as sa
from tests.ledger_rows import take_in
from tests.privacy_home import ADA, found_in, full_home, record, rows_of_others

from bascule.app import open_catalogue
from bascule.jobs import Task
from bascule.kinds import KINDS, runner_of
from bascule.monitoring.ledger import Ledger, Outcomes, Sharing, connect_home, shared_of
from bascule.privacy import Erasure, Person, content_of
from bascule.settings import load_settings


def settings_of(home, **variables):
    return load_settings(home.parent, {"BASCULE_HOME": str(home), **variables})


def erasing(settings, name="e1"):
    return Erasure(
        id=name, home=settings.home, catalogue=open_catalogue(settings),
        person=Person("customer_id", ADA), by="dpo", objects=settings.registry.objects,
    )  # fmt: skip


@pytest.mark.slow
def test_over_postgresql_no_row_of_any_table_has_the_value(tmp_path, postgresql_url):
    settings = settings_of(tmp_path / "home", BASCULE_REGISTRY__STORE=postgresql_url)
    full_home(settings, tmp_path / "outside")
    result = erasing(settings).run()
    assert found_in(tmp_path, ADA) == []
    with open_catalogue(settings).read() as connection:
        tables = sa.MetaData()
        tables.reflect(connection)
        rows = [
            str(row)
            for table in tables.sorted_tables
            for row in connection.execute(sa.select(table))
        ]
    assert rows
    assert not [row for row in rows if ADA in row]
    assert "write-ahead log" in json.dumps(_content(result)["elsewhere"])


@pytest.mark.slow
def test_on_hosts_that_share_a_ledger_the_value_goes_and_stays_away(tmp_path, s3_url):
    homes = [tmp_path / name for name in ("a", "b")]
    for home in homes:
        home.mkdir()
        connect_home(home, s3_url)
    record(homes[0], [ADA, "cust-00000001"])
    shutil.copy(homes[0] / "private.key", homes[1])
    record(homes[1], [ADA, "cust-00000002"], first=10)
    for home in homes:
        take_in(home, Sharing(shared_of(home), every_s=0))
    Outcomes(homes[0]).add("late", pa.table({"id": ["r0", "r10", "r1"], "truth": [1, 1, 1]}))
    record(homes[1], [ADA, "cust-00000003"], first=20)  # not shared yet
    settings = settings_of(homes[0], BASCULE_REGISTRY__OBJECTS=s3_url)
    stop = _beating(homes[1])
    try:
        content = _content(erasing(settings).run())
    finally:
        stop()
    assert content["left"] == []
    assert any("earlier versions of objects" in one for one in content["elsewhere"])
    record(homes[1], [ADA, "cust-00000004"], first=30)  # late, on the other host
    for home in [*homes, *homes]:
        take_in(home, Sharing(shared_of(home), every_s=0))
    left = Ledger(homes[0]).query("SELECT id FROM predictions ORDER BY id")["id"].to_pylist()
    assert left == ["r1", "r11", "r21", "r31"]
    assert Ledger(homes[0]).query("SELECT id FROM outcomes")["id"].to_pylist() == ["r1"]
    assert found_in(homes[0], ADA) == found_in(homes[1], ADA) == []
    store = shared_of(homes[0])
    kept = [bytes(store._api.get(store._store, name).bytes()) for name in store.names("")]
    (tmp_path / "bucket").mkdir()
    for number, data in enumerate(kept):
        (tmp_path / "bucket" / f"{number}").write_bytes(data)
    assert found_in(tmp_path / "bucket", ADA) == []


@pytest.mark.slow
def test_a_job_whose_process_is_killed_is_resumed(tmp_path):
    settings = settings_of(tmp_path / "home")
    full_home(settings, tmp_path / "outside")
    others = rows_of_others(settings.home, ADA)
    jobs = runner_of(settings)
    asked = KINDS["erasure"].parse({"field": "customer_id", "subject": ADA})
    job = jobs.submit(Task(kind="erasure", input=asked, by="dpo"))
    kills, give_up_at = 0, time.monotonic() + 240
    while jobs.get(job.id).state != "done":
        assert time.monotonic() < give_up_at
        time.sleep(1.2)
        for child in _children("bascule.kinds.child") if kills < 4 else ():
            os.kill(child, signal.SIGKILL)
            kills += 1
        if jobs.get(job.id).state == "failed":
            jobs.command(job.id, "resume")
    done = jobs.get(job.id)
    assert kills == 4
    assert done.problem is None, done.problem
    assert _content(done.result)["left"] == []
    assert found_in(tmp_path, ADA) == []
    assert rows_of_others(settings.home, ADA) == others


def _children(module):
    import psutil

    return [
        child.pid
        for child in psutil.Process().children(recursive=True)
        if module in " ".join(child.cmdline())
    ]


def _beating(home):
    """The scribe of another host, which does its part meanwhile."""
    import threading

    from bascule.monitoring.ledger import Scribe

    stopping, ended = threading.Event(), threading.Event()

    def run():
        scribe = Scribe(home)
        chore = Sharing(shared_of(home), every_s=0)
        while not stopping.wait(0.2):
            chore.work(scribe, threading.Event())
        scribe.close()
        ended.set()

    threading.Thread(target=run).start()

    def stop():
        stopping.set()
        assert ended.wait(30)

    return stop


def _content(result):
    return content_of(result["envelope"])
