"""`bascule sessions`: who is signed in, and the end of a session."""

import json

import pytest

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
