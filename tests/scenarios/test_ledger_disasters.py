"""The ledger when its supervisor is killed again and again, and when its disk is full."""

from __future__ import annotations

import json
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from tests.conftest import Client, children_of
from tests.ledger_rows import take_in
from tests.scenarios.test_full_disks import PORTS, announced, apart, bascule, fill  # noqa: F401
from tests.scenarios.test_ledger_killed import SCRIBE, Asking, finish, ids_in
from tests.tiers import first_of
from tests.waiting import until

from bascule.core import BasculeError
from bascule.monitoring.ledger import Ledger, Sharing, read_status, shared_of
from bascule.monitoring.ledger.manifest import read_manifest

RECORDING = {"BASCULE_MONITORING__LEDGER": "on", "BASCULE_MONITORING__MAX_ROWS_PER_S": "1000000"}


def finish_soon(home):
    """Take in what is left, once the scribe of the killed server has ended."""

    def finished():
        with suppress(BasculeError):
            finish(home)
            return True
        return False

    until(finished, within_s=20)


@pytest.mark.parametrize("moments", first_of([2, 100]))
def test_a_supervisor_that_is_killed_at_random_moments_leaves_each_answer_once_or_named(
    start, cancer_bundle, tmp_path, moments
):
    home = tmp_path / "home"
    body = json.loads((cancer_bundle / "data/example.json").read_text())
    choose = random.Random(2)
    answered = set()
    for life in range(moments):
        server = start(cancer_bundle, env={"BASCULE_HOME": str(home), **RECORDING})
        asking = Asking(server.port, {**body, "id": ""}, name=f"{life}")
        time.sleep(choose.uniform(0.05, 1.5))
        server.end(signal.SIGKILL)
        server.process.stdout.close()
        asking.stop()
        answered |= asking.answered
    finish_soon(home)
    found = ids_in(home)
    gaps = Ledger(home).gaps()
    named = {name for gap in gaps for name in gap.ids}
    assert len(answered) > 0
    assert len(found) == len(set(found))
    assert answered - set(found) <= named
    assert not named & set(found)
    files = {str(one.relative_to(home / "ledger")) for one in home.rglob("ledger/*/*/*/*.parquet")}
    assert files == {one.file for one in read_manifest(home).segments}


@pytest.mark.slow
def test_a_full_disk_drops_answers_that_are_counted_and_refuses_no_prediction(
    apart,  # noqa: F811
    cancer_bundle,
    tmp_path,
):
    home = tmp_path / "home"
    server = apart({home: "6m"}, "serve", cancer_bundle, *PORTS, env=RECORDING)
    port = int(announced(server)["predictions"].rsplit(":", 1)[1])
    inside = Path(f"/proc/{server.pid}/root{home}")
    body = (cancer_bundle / "data/example.json").read_bytes()

    def ask(count):
        with Client(port) as client:
            return {client.request("POST", "/v2/models/gb/infer", body).answer().status
                    for _ in range(count)}  # fmt: skip

    def in_ledger():
        said = bascule(
            home, "ledger", "query", "select count(distinct id) n from predictions", beside=server
        )
        return json.loads(said.stdout)[0]["n"]

    def dropped():
        return json.loads(bascule(home, "ledger", "status", beside=server).stdout)["dropped"]

    assert ask(100) == {200}
    until(lambda: in_ledger() == 100)
    fill(inside)
    assert ask(300) == {200}
    time.sleep(1.5)  # a worker hands over its last block within a second
    (inside / "fill").unlink()
    assert ask(100) == {200}
    until(lambda: in_ledger() + dropped() == 500, within_s=30)
    assert dropped() > 0
    assert children_of(server.pid, SCRIBE)


@pytest.mark.slow
def test_hosts_with_one_store_serve_and_ask_one_ledger(
    start, cancer_bundle, tmp_path, s3_url, postgresql_url
):
    body = json.loads((cancer_bundle / "data/example.json").read_text())
    homes = [tmp_path / "a", tmp_path / "b"]
    answered = set()
    for number, home in enumerate(homes):
        env = {
            "BASCULE_HOME": str(home), "BASCULE_REGISTRY__OBJECTS": s3_url,
            "BASCULE_REGISTRY__STORE": postgresql_url, **RECORDING,
        }  # fmt: skip
        server = start(cancer_bundle, env=env)
        asking = Asking(server.port, body, name=f"host-{number}")
        time.sleep(0.5)
        asking.stop()
        assert server.end() == 0
        server.process.stdout.close()
        answered |= asking.answered
    for home in homes:  # a scribe that stops for more than 20 s is killed, and the next goes on
        take_in(home, Sharing(shared_of(home)))
    for home in homes:
        assert sorted(ids_in(home)) == sorted(answered)
        assert read_manifest(home).segments == []
    assert len(read_status(homes[0]).hosts) == 2
