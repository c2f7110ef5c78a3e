"""Secrets of a real OpenBao server: sign-in, rotation, leases, and the server away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import hvac
import pytest
from tests.stores import PASSWORD, ended, free_ports, wait_for

from bascule.app import open_catalogue
from bascule.core import Invalid, NotFound, Unavailable, secret_in
from bascule.security import vault as room
from bascule.security.vault import STALE_S, Vault
from bascule.settings import load_settings

PICKED_UP_S = 5.0
SECRET = "vault:secret/data/bascule#password"


@pytest.fixture(scope="module")
def bao(tmp_path_factory):
    """A development server, a client with its root token, and its process."""
    (port,) = free_ports(1)
    address, folder = f"http://127.0.0.1:{port}", tmp_path_factory.mktemp("bao")
    command = [
        str(Path(sys.executable).with_name("bao")), "server", "-dev",
        "-dev-root-token-id=root-token", f"-dev-listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    environ = {**os.environ, "HOME": str(folder)}
    client = hvac.Client(address, token="root-token", timeout=5)

    def is_ready():
        try:
            return client.sys.is_initialized()
        except OSError:
            return False

    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environ, start_new_session=True
        )
        with ended(process, signal.SIGKILL):
            wait_for(is_ready, process, folder / "log")
            yield SimpleNamespace(client=client, address=address, log=folder / "log")


def put(bao, **data):
    bao.client.write_data("secret/data/bascule", data={"data": data})


def vault_of(bao, **environ):
    return Vault({"VAULT_ADDR": bao.address, **environ})


def seconds_until(is_so):
    began_s = time.monotonic()
    while not is_so():
        assert time.monotonic() - began_s < 4 * PICKED_UP_S
        time.sleep(0.05)
    return time.monotonic() - began_s


def test_a_rotated_value_is_picked_up(bao):
    put(bao, password="first")
    vault = vault_of(bao, VAULT_TOKEN="root-token")
    assert vault.read("secret/data/bascule#password") == "first"

    put(bao, password="second")

    took_s = seconds_until(lambda: vault.read("secret/data/bascule#password") == "second")
    assert took_s <= PICKED_UP_S


@pytest.mark.slow
def test_an_approle_signs_in_and_its_token_is_renewed_and_replaced(bao):
    put(bao, password="first")
    bao.client.sys.enable_auth_method("approle")
    policy = 'path "secret/data/*" { capabilities = ["read"] }'
    bao.client.sys.create_or_update_policy("reader", policy)
    role = "auth/approle/role/bascule"
    life = {"token_ttl": "1s", "token_max_ttl": "3s", "token_policies": "reader"}
    bao.client.write_data(role, data=life)
    vault = vault_of(
        bao,
        VAULT_ROLE_ID=bao.client.read(f"{role}/role-id")["data"]["role_id"],
        VAULT_SECRET_ID=bao.client.write_data(f"{role}/secret-id")["data"]["secret_id"],
    )

    began_s, values = time.monotonic(), set()
    while time.monotonic() - began_s < 4.5:  # over the token's longest life
        values.add(vault.read("secret/data/bascule#password"))
        time.sleep(0.1)

    assert values == {"first"}
    assert vault.problem == ""


def test_what_is_not_there_is_told_without_the_values_beside_it(bao):
    put(bao, password="hidden-value")
    vault = vault_of(bao, VAULT_TOKEN="root-token")
    with pytest.raises(NotFound, match="no field 'user'") as problem:
        vault.read("secret/data/bascule#user")
    assert "hidden-value" not in str(problem.value)
    with pytest.raises(NotFound, match="secret/data/other is not there"):
        vault.read("secret/data/other#password")
    with pytest.raises(Invalid, match="names no field"):
        vault.read("secret/data/bascule")
    with pytest.raises(Invalid, match="refuses"):
        vault_of(bao, VAULT_TOKEN="wrong").read("secret/data/bascule#password")


def test_while_the_server_is_away_the_last_value_goes_on_for_a_stated_time(bao):
    put(bao, password="last")
    later_s = [0.0]
    environ = {"VAULT_ADDR": bao.address, "VAULT_TOKEN": "root-token"}
    vault = Vault(environ, now_s=lambda: time.monotonic() + later_s[0])
    assert vault.read("secret/data/bascule#password") == "last"
    assert vault.check() == bao.address
    bao.client.sys.seal()
    try:
        later_s[0] = 10.0
        assert vault.read("secret/data/bascule#password") == "last"
        assert "does not give out secrets" in vault.problem
        with pytest.raises(Unavailable, match="does not give out secrets"):
            vault.check()
        later_s[0] = STALE_S + 20.0
        with pytest.raises(Unavailable, match="last read over 3600 s ago"):
            vault.read("secret/data/bascule#password")
    finally:
        (line,) = (one for one in bao.log.read_text().splitlines() if "Unseal Key" in one)
        bao.client.sys.submit_unseal_key(line.split()[-1])


def test_a_catalogue_follows_the_password_of_its_database(
    bao, monkeypatch, tmp_path, postgresql_url
):
    import psycopg

    put(bao, password=PASSWORD)
    monkeypatch.setattr(room, "_vault", vault_of(bao, VAULT_TOKEN="root-token"))
    address = postgresql_url.replace(PASSWORD, "${" + SECRET + "}")
    settings = load_settings(
        tmp_path, {"BASCULE_REGISTRY__STORE": address, "BASCULE_HOME": str(tmp_path)}
    )
    catalogue = open_catalogue(settings)
    catalogue.migrate()
    try:
        with psycopg.connect(postgresql_url, autocommit=True) as connection:
            connection.execute("ALTER ROLE bascule PASSWORD 'a new/one@home'")
            put(bao, password="a new/one@home")

            problems = []

            def answers():
                try:
                    return catalogue.revision() != ""
                except Unavailable as problem:
                    problems.append(str(problem))
                    return False

            assert seconds_until(answers) <= PICKED_UP_S
            assert problems, "the old password was refused before"
            assert not any(PASSWORD in problem or "a new" in problem for problem in problems)
    finally:
        with psycopg.connect(
            postgresql_url.replace(PASSWORD, "a%20new%2Fone%40home"), autocommit=True
        ) as connection:
            connection.execute(f"ALTER ROLE bascule PASSWORD '{PASSWORD}'")


def test_a_part_of_an_address_is_quoted_for_it(monkeypatch):
    monkeypatch.setenv("PART", "a@b/c")
    assert secret_in("postgresql://u:${env:PART}@h/d") == "postgresql://u:a%40b%2Fc@h/d"


@pytest.mark.slow
def test_secrets_are_in_no_log_error_command_line_or_metric(bao, tmp_path, postgresql_url):
    put(bao, password=PASSWORD, oidc="oidc-hidden")
    token = tmp_path / "token"
    token.write_text("root-token")
    (port,) = free_ports(1)
    address = postgresql_url.replace(PASSWORD, "${" + SECRET + "}")
    environ = {
        **os.environ, "VAULT_ADDR": bao.address, "VAULT_TOKEN_FILE": str(token),
        "BASCULE_HOME": str(tmp_path), "BASCULE_REGISTRY__STORE": address,
        "BASCULE_CONSOLE__OIDC_CLIENT_SECRET": "vault:secret/data/bascule#oidc",
        "BASCULE_CONSOLE__OIDC_ISSUER": "http://127.0.0.1:9",
        "BASCULE_SECURITY__CALLERS": "anybody",
        "BASCULE_CONSOLE__OIDC_CLIENT_ID": "bascule",
        "BASCULE_SERVING__CONTROL_PORT": str(port),
    }  # fmt: skip
    bascule = [sys.executable, "-m", "bascule.cli"]
    subprocess.run([*bascule, "migrate"], env=environ, check=True, capture_output=True)
    url, seen = f"http://127.0.0.1:{port}", []

    def is_ready():
        try:
            return httpx.get(f"{url}/health").status_code in (200, 503)
        except httpx.TransportError:
            return False

    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*bascule, "control"], env=environ, stdout=output, stderr=output,
        )  # fmt: skip
        with ended(process, signal.SIGTERM):
            wait_for(is_ready, process, log)
            seen += [httpx.get(f"{url}{path}").text for path in (
                "/metrics", "/api/v1/settings", "/api/v1/models", "/api/v1/history"
            )]  # fmt: skip
            put(bao, password="wrong-hidden", oidc="oidc-hidden")
            away = seconds_until(lambda: httpx.get(f"{url}/api/v1/models").status_code == 503)
            seen += [str(away), httpx.get(f"{url}/api/v1/models").text]
            seen += [
                path.read_bytes().decode(errors="replace")
                for path in Path("/proc").glob("[0-9]*/cmdline")
                if path.exists()
            ]
            put(bao, password=PASSWORD, oidc="oidc-hidden")
            assert (
                seconds_until(lambda: httpx.get(f"{url}/api/v1/models").status_code == 200)
                <= PICKED_UP_S
            )
    seen.append(log.read_text())
    for secret in (PASSWORD, "oidc-hidden", "wrong-hidden"):
        assert not any(secret in text for text in seen), secret
