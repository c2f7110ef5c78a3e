"""Private fields that are encrypted or tokenised: readable by role, after rotations, by Vault."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
import urllib.request
from datetime import UTC, date, datetime
from functools import partial
from types import SimpleNamespace

import pytest
from tests.controls import asking, control_app
from tests.homes import finished, inline_jobs
from tests.ledger_rows import take_in
from tests.privacy_home import ADA, found_in, record
from tests.stores import free_ports
from tests.tiers import first_of

from bascule.app import open_catalogue, open_registry
from bascule.catalogue import Requests
from bascule.control import ServerLink
from bascule.core import Invalid, Untrusted
from bascule.monitoring.ledger import (
    FieldKeys,
    Ledger,
    Sharing,
    Tombstone,
    Trimming,
    connect_home,
    delete,
    note_master,
    put_tombstone,
    read_manifest,
    shared_of,
)
from bascule.monitoring.ledger.trimming import expired
from bascule.security import Permission, create_key, vault
from bascule.serving.telemetry import Counters
from bascule.serving.transports import Authenticator
from bascule.settings import load_settings

ENCRYPTED, TOKEN = "input.customer_id.encrypted", "input.customer_id.token"


def sealed(home, how, people=(ADA, "cust-00000001", ADA)):
    record(home, people, private={"customer_id": how})
    take_in(home)


def values(home, column, **options):
    rows = Ledger(home, **options).query(f'SELECT "{column}" v FROM predictions', model="late")
    return rows["v"].to_pylist()


def test_encrypted_values_are_shown_to_readers_of_private_values_alone(tmp_path):
    record(tmp_path, [ADA], private={"customer_id": "encrypt"})
    assert values(tmp_path, ENCRYPTED) == ["(private)"]  # still in the spool
    sealed(tmp_path, "encrypt")
    assert set(values(tmp_path, ENCRYPTED)) == {"(private)"}
    opened = values(tmp_path, ENCRYPTED, is_private=True)
    assert sorted(opened) == ["cust-00000001", ADA, ADA, ADA]
    assert found_in(tmp_path, ADA) == []
    assert (tmp_path / "master.key").stat().st_mode & 0o077 == 0


def test_equal_values_have_equal_tokens_which_sql_finds_and_opens(tmp_path):
    sealed(tmp_path, "tokenise")
    first, other, again = values(tmp_path, TOKEN)
    assert first == again != other
    sql = f"SELECT count(*) n FROM predictions WHERE \"{TOKEN}\" = private_token('{ADA}')"
    assert Ledger(tmp_path).query(sql, model="late").to_pylist() == [{"n": 2}]
    assert FieldKeys(tmp_path).open([first, None]) == [ADA, None]


@pytest.mark.parametrize("how", first_of(["encrypt", "hash", "tokenise"]))
def test_the_rows_of_a_person_are_found_however_they_are_kept(tmp_path, how):
    from bascule.privacy.erasing import subject_of
    from bascule.privacy.persons import Person

    sealed(tmp_path, how)
    subject = subject_of(tmp_path, Person("customer_id", ADA))
    assert delete(tmp_path, "late", "", subject=subject).rows == 2
    assert Ledger(tmp_path).query("SELECT id FROM predictions")["id"].to_pylist() == ["r1"]


@pytest.mark.parametrize("how", first_of(["tokenise", "hash", "encrypt"]))
def test_late_rows_of_a_person_are_kept_out_however_they_are_kept(tmp_path, how):
    from bascule.privacy.erasing import subject_of
    from bascule.privacy.persons import Person

    subject = subject_of(tmp_path, Person("customer_id", ADA))
    put_tombstone(tmp_path, Tombstone(id="t", model="*", subject=subject, until_s=time.time() + 99))
    sealed(tmp_path, how)
    assert Ledger(tmp_path).query("SELECT id FROM predictions")["id"].to_pylist() == ["r1"]


def test_another_master_key_opens_nothing(tmp_path):
    sealed(tmp_path, "encrypt")
    (tmp_path / "master.key").write_bytes(bytes(32))
    with pytest.raises(Untrusted, match="is not the master key"):
        values(tmp_path, ENCRYPTED, is_private=True)


@pytest.fixture
def ask(tmp_path):
    """`ask("erase:late", METHOD, PATH, ...)`: the answer to a key with these permissions."""
    settings = load_settings(tmp_path, {"BASCULE_HOME": str(tmp_path / "home")})
    counters, file, kept = tmp_path / "counters", tmp_path / "keys.json", []
    counters.touch()
    file.write_text("[]")
    jobs = inline_jobs(settings)
    jobs._keys = lambda: kept
    app = control_app(
        ServerLink(Counters(counters, workers=0)), partial(open_registry, settings),
        lambda _: None, Authenticator(file), home=settings.home, jobs=jobs,
        open_catalogue=partial(open_catalogue, settings),
        open_requests=lambda: Requests(open_catalogue(settings)),
    )  # fmt: skip
    book = SimpleNamespace(stored=lambda: kept, add=kept.append)
    with asking(app) as client:

        def answer(allow, method, path, **more):
            allowed = [Permission.parse(one) for one in allow.split()]
            token = create_key(book, f"k{len(kept)}", allowed, now=datetime.now(UTC), by="ada")[1]
            file.write_text(json.dumps([key.to_json() for key in kept]))
            headers = {"Authorization": f"Bearer {token}", **more.pop("headers", {})}
            reply = client.request(method, f"/api/v1/{path}", headers=headers, **more)
            finished(jobs)
            return reply

        answer.home, answer.jobs = settings.home, jobs
        yield answer


def test_rights_decide_over_private_values_exports_and_erasures(ask):
    sealed(ask.home, "encrypt")
    where = {"params": {"id": "r0"}}
    for allow, shown in (("manage:late", "(private)"), ("manage:late private:late", ADA)):
        inputs = ask(allow, "GET", "prediction", **where).json()["inputs"]
        assert inputs[0]["customer_id"] == shown
    body = {"json": {"subject": ADA, "field": "customer_id", "model": "late"}}
    assert ask("manage:late private:other", "POST", "subjects/export", **body).status_code == 403
    lines = ask("private:late", "POST", "subjects/export", **body).text.splitlines()
    assert [json.loads(line)["row"][ENCRYPTED] for line in lines] == [ADA, ADA]
    assert ask("manage:late private:late", "POST", "erasures", **body).status_code == 403
    places = ask("erase:late", "POST", "subjects/find", **body).json()["places"]
    assert [(place["place"], place["rows"]) for place in places] == [("ledger late", 2)]
    key = {"headers": {"Idempotency-Key": "once"}}
    asked = ask("erase:late", "POST", "erasures", **body, **key)
    assert asked.status_code == 201, asked.text
    assert (asked.json()["input"], asked.json()["result"]) == ({}, None)
    done = ask.jobs.get(asked.json()["id"])
    assert (done.state, done.problem) == ("done", None)
    assert found_in(ask.home, ADA) == []


@pytest.mark.parametrize(
    ("rules", "gone"),
    [
        ({"inputs": 30}, ["input.a", "input.b.encrypted"]),
        ({"inputs": 30, "b": 365}, ["input.a"]),
        ({"late.b": 9, "b": 365}, ["input.b.encrypted"]),
        ({"outputs": 30}, ["output.y"]),
        ({"inputs": 31}, []),
    ],
)
def test_the_most_particular_rule_says_how_long_a_field_is_kept(rules, gone):
    columns = ["id", "time", "input.a", "input.b.encrypted", "output.y"]
    assert expired(columns, "late", "2026-10-01", date(2026, 11, 1), rules) == gone


def test_expired_columns_go_and_rows_stay(tmp_path):
    sealed(tmp_path, "encrypt")
    take_in(tmp_path, Trimming({"inputs": -1}))
    take_in(tmp_path, Trimming({"inputs": -1}))
    table = Ledger(tmp_path).query("SELECT * FROM predictions", model="late")
    assert table.num_rows == 3
    assert not any(name.startswith("input.") for name in table.column_names)
    assert table["output.y"].to_pylist() == [1, 1, 1]
    assert len(read_manifest(tmp_path).segments) == 1
    assert len(list((tmp_path / "ledger").rglob("*.parquet"))) == 1


@pytest.mark.slow
def test_expired_columns_go_from_a_shared_ledger_too(tmp_path, s3_url):
    homes = [tmp_path / name for name in ("a", "b")]
    for first, home in enumerate(homes):
        home.mkdir()
        connect_home(home, s3_url)
        record(home, [ADA, "cust-00000001"], first=10 * first)
    for home in [*homes, *homes]:
        sharing = Sharing(shared_of(home), every_s=0, trimming=Trimming({"customer_id": -1}))
        take_in(home, sharing)
    for home in homes:
        table = Ledger(home).query("SELECT * FROM predictions ORDER BY id", model="late")
        assert table["id"].to_pylist() == ["r0", "r1", "r10", "r11"]
        assert table["input.amount"].null_count == 0
        assert "input.customer_id" not in table.column_names
        assert not found_in(home / "cache", ADA)
    store = shared_of(homes[0])
    assert not [
        name
        for name in store.names("segments/")
        if ADA.encode() in bytes(store._api.get(store._store, name).bytes())
    ]


@pytest.mark.slow
def test_keys_are_wrapped_by_a_real_openbao(tmp_path, monkeypatch):
    """`bao server -dev` with the transit engine: rows stay readable after its key is rotated."""
    (port,), token = free_ports(1), secrets.token_hex(8)
    address = f"http://127.0.0.1:{port}"
    command = ["bao", "server", "-dev", f"-dev-root-token-id={token}",
               f"-dev-listen-address=127.0.0.1:{port}"]  # fmt: skip
    folder = os.path.dirname(sys.executable)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as server:  # fmt: skip
        try:
            _ask(address, token, "sys/mounts/transit", b'{"type": "transit"}')
            _ask(address, token, "transit/keys/late", b"{}")
            monkeypatch.setenv("VAULT_ADDR", address)
            monkeypatch.setenv("VAULT_TOKEN", token)
            monkeypatch.setattr(vault, "_vault", vault.Vault())
            home = tmp_path / "home"
            note_master(home, "vault:transit/late")
            sealed(home, "encrypt")
            assert not (home / "master.key").exists()
            _ask(address, token, "transit/keys/late/rotate", b"{}")
            record(home, [ADA], private={"customer_id": "tokenise"}, first=10)
            take_in(home)
            assert values(home, ENCRYPTED, is_private=True).count(ADA) == 2
            assert "vault:v2:" in (home / "field-keys.json").read_text()
            monkeypatch.setenv("VAULT_TOKEN", "another")
            monkeypatch.setattr(vault, "_vault", vault.Vault())
            with pytest.raises(Invalid, match="refuses the token"):
                values(home, ENCRYPTED, is_private=True)
        finally:
            server.terminate()


def _ask(address, token, path, body):
    """Once the server answers."""
    request = urllib.request.Request(
        f"{address}/v1/{path}", body, {"X-Vault-Token": token}, method="POST"
    )
    give_up_at = time.monotonic() + 30
    while True:
        try:
            return urllib.request.urlopen(request, timeout=5).read()
        except OSError:
            assert time.monotonic() < give_up_at
            time.sleep(0.1)
