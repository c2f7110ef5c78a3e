"""`bascule sessions`: who is signed in, and the end of a session."""

import json

import pytest
from tests.receivers import behind_a_prefix
from tests.unit.cli.test_remote_registry import control

from bascule.app import open_sessions
from bascule.security import permissions_of_role
from bascule.settings import load_settings


@pytest.fixture
def sessions(tmp_path, monkeypatch):
    monkeypatch.setenv("BASCULE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return open_sessions(load_settings())


def test_sessions_are_listed_and_ended(sessions, command):
    code, said, _ = command("sessions", "list")
    assert (code, "no session holds" in said) == (0, True)
    token, _ = sessions.begin("mallory", permissions_of_role("viewer"), "oidc")
    kept, _ = sessions.begin("ada", permissions_of_role("viewer"), "oidc")

    assert "mallory" in command("sessions", "list")[1]
    (found,) = [
        one for one in json.loads(command("sessions", "list", "--json")[1])
        if one["user"] == "mallory"
    ]  # fmt: skip
    for _ in range(2):  # to end it again is fine
        assert command("sessions", "end", found["id"])[0] == 0

    assert sessions.find(token) is None
    assert sessions.find(kept) is not None
    assert [one["user"] for one in json.loads(command("sessions", "list", "--json")[1])] == ["ada"]
    code, _, said = command("sessions", "end", "000000000000")
    assert (code != 0, "sessions list" in said) == (True, True)


def test_sessions_of_a_server_behind_a_prefix_are_listed_and_ended(sessions, command, tmp_path):
    sessions.begin("mallory", permissions_of_role("viewer"), "oidc")
    with (
        control(tmp_path / "home") as own,
        behind_a_prefix(int(own.rpartition(":")[2]), "/ml/models") as url,
    ):

        def asked(*words):
            code, said, errors = command("--server", url, *words, "--json")
            assert code == 0, errors
            return json.loads(said)

        (found,) = asked("sessions", "list")
        assert found["user"] == "mallory"
        assert asked("sessions", "end", found["id"])["id"] == found["id"]
        assert asked("sessions", "list") == []
        link = asked("sign-in", "--role", "viewer")["url"]

    assert link.startswith(f"{url}/sign-in?code=")
