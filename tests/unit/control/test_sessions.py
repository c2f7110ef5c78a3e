"""Sessions and one-time links of a catalogue: begun, found, ended, and never begun twice."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from bascule.catalogue import Catalogue, SqliteDatabase, events
from bascule.control.people import sessions as room
from bascule.control.people.sessions import Sessions
from bascule.core import Invalid, NotFound, Refused, Unauthenticated
from bascule.registry import CatalogueKeys
from bascule.registry.stores import Records
from bascule.security import ADMINISTRATOR, Permission, hash_of, permissions_of_role

VIEWER = permissions_of_role("viewer:late")


@pytest.fixture
def catalogue(tmp_path):
    return Catalogue(SqliteDatabase(tmp_path / "registry.db"))


@pytest.fixture
def sessions(catalogue):
    return Sessions(lambda: catalogue)


@pytest.fixture
def at(monkeypatch):
    """Sets the time by which sessions and links are judged."""

    def later(by):
        class Clock(datetime):
            @classmethod
            def now(cls, tz=None):
                return datetime.now(tz) + by

        monkeypatch.setattr(room, "datetime", Clock)

    return later


def test_a_link_begins_one_session_with_its_rights(sessions):
    code = sessions.offer("ada", VIEWER, by="root")

    token, session = sessions.redeem(code)

    assert sessions.find(token) == session
    assert (session.user, session.permissions, session.source) == ("ada", VIEWER, "link")
    assert session.allows("read", "late")
    assert not session.allows("write", "late")


def test_a_link_that_was_used_begins_nothing(sessions):
    code = sessions.offer("ada", VIEWER, by="root")
    sessions.redeem(code)

    with pytest.raises(Unauthenticated, match="was used"):
        sessions.redeem(code)


def test_looking_at_a_link_does_not_use_it(sessions):
    code = sessions.offer("ada", VIEWER, by="root")

    assert sessions.offered(code).user == "ada"
    assert sessions.offered(code).user == "ada"
    assert sessions.redeem(code)


def test_of_many_that_use_a_link_at_once_one_gets_a_session(sessions):
    code = sessions.offer("ada", VIEWER, by="root")
    got, refused, start = [], [], threading.Barrier(8)

    def use():
        start.wait()
        try:
            got.append(sessions.redeem(code))
        except Unauthenticated:
            refused.append(1)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    assert (len(got), len(refused)) == (1, 7)


@pytest.mark.parametrize(("seconds", "works"), [(-5, True), (5, False)])
def test_a_link_holds_for_ten_minutes(sessions, at, seconds, works):
    code = sessions.offer("ada", VIEWER, by="root")
    at(timedelta(minutes=10, seconds=seconds))

    if works:
        assert sessions.redeem(code)
    else:
        with pytest.raises(Unauthenticated, match="expired"):
            sessions.redeem(code)


@pytest.mark.parametrize(("seconds", "works"), [(-5, True), (5, False)])
def test_a_session_holds_for_its_time(sessions, at, seconds, works):
    token, _ = sessions.begin("ada", VIEWER, "oidc")
    at(timedelta(hours=12, seconds=seconds))

    assert (sessions.find(token) is not None) == works


def test_signing_out_ends_a_session_for_every_process_of_the_catalogue(sessions, tmp_path):
    token, session = sessions.begin("ada", VIEWER, "oidc")
    other = Sessions(lambda: Catalogue(SqliteDatabase(tmp_path / "registry.db")))
    assert other.find(token) == session

    sessions.end(session)

    assert other.find(token) is None
    assert sessions.find(token) is None


@pytest.mark.parametrize("code", ["", "x", "é" * 43, "a" * 43, "a" * 1_000_000])
def test_what_is_no_token_opens_nothing(sessions, code):
    sessions.begin("ada", VIEWER, "oidc")

    assert sessions.find(code) is None
    with pytest.raises(Unauthenticated):
        sessions.redeem(code)


def test_before_the_first_write_there_is_no_session_and_no_link(sessions):
    assert sessions.find("a" * 43) is None
    assert sessions.live() == []
    with pytest.raises(Unauthenticated):
        sessions.redeem("a" * 43)


def test_the_code_of_a_link_is_no_token_of_a_session(sessions):
    code = sessions.offer("ada", ADMINISTRATOR, by="root")

    assert sessions.find(code) is None
    token, _ = sessions.redeem(code)
    assert token != code
    assert sessions.find(code) is None


def test_the_history_shows_who_signed_in_and_no_secret(sessions, catalogue):
    code = sessions.offer("ada", VIEWER, by="root")
    token, session = sessions.redeem(code)
    sessions.end(session)

    with catalogue.read() as connection:
        found = events.find(connection)

    assert [(one.kind, one.actor) for one in found] == [
        ("link_offered", "root"), ("link_used", "ada"), ("signed_in", "ada"), ("signed_out", "ada"),
    ]  # fmt: skip
    text = repr(found)
    assert hash_of(token) in text
    assert token not in text
    assert code not in text


def test_sessions_that_hold_are_listed_the_latest_first(sessions, at):
    sessions.begin("ada", VIEWER, "oidc")
    _, ended = sessions.begin("bob", VIEWER, "oidc")
    sessions.begin("eve", VIEWER, "oidc")
    sessions.end(ended)

    assert [one.user for one in sessions.live()] == ["eve", "ada"]
    at(timedelta(hours=13))
    assert sessions.live() == []


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 129])
def test_a_name_that_would_spoil_the_history_signs_nobody_in(sessions, name):
    with pytest.raises(Invalid, match="user"):
        sessions.begin(name, VIEWER, "oidc")


def test_an_hour_is_as_long_as_the_settings_say(catalogue):
    brief = Sessions(lambda: catalogue, timedelta(hours=1))

    _, session = brief.begin("ada", VIEWER, "oidc")

    assert session.ends_at - session.began_at == timedelta(hours=1)
    assert session.began_at <= datetime.now(UTC)


@pytest.fixture
def keys(catalogue):
    return CatalogueKeys(Records(catalogue))


@pytest.fixture
def key(keys):
    made, _ = keys.create("ci", [Permission("write"), Permission("deploy", "late")], by="root")
    return made


def session_of(sessions, permissions, key, user="ada"):
    """A session that a link of the key has begun, and its token."""
    return sessions.redeem(sessions.offer(user, permissions, by="ci", key_id=key.id))


def revoked(keys, key):
    keys.end(key.id, by="root")


def expired(keys, key):
    keys.change(key.id, key.permissions, expires_at=datetime.now(UTC), by="root")


@pytest.mark.parametrize("end", [revoked, expired])
def test_what_a_key_began_ends_with_the_key(sessions, keys, key, end):
    token, session = session_of(sessions, VIEWER, key)
    code = sessions.offer("eve", VIEWER, by="ci", key_id=key.id)
    assert sessions.find(token) == session
    assert sessions.live()[0] == session

    end(keys, key)

    assert sessions.find(token) is None
    assert sessions.live() == []
    with pytest.raises(Unauthenticated):
        sessions.redeem(code)


def test_a_session_allows_no_more_than_its_key_does_now(sessions, keys, key):
    token, session = session_of(sessions, key.permissions, key)
    assert session.allows("write", "late")
    assert not session.allows("keys", "")
    lowered = [Permission("read", "late"), Permission("keys")]
    keys.change(key.id, lowered, expires_at=None, by="root")

    held = sessions.find(token)

    assert held.allows("read", "late")
    for action, model in (("write", "late"), ("deploy", "late"), ("read", "other"), ("keys", "")):
        assert not held.allows(action, model)
        with pytest.raises(Refused):
            held.check(action, model)


def test_a_session_of_a_key_ends_no_later_than_the_key(sessions, keys):
    ends_at = datetime.now(UTC) + timedelta(hours=1)
    brief, _ = keys.create("brief", VIEWER, by="root", expires_at=ends_at)

    assert session_of(sessions, VIEWER, brief)[1].ends_at == ends_at


def test_of_many_that_end_a_session_one_is_in_the_history(sessions, catalogue):
    _, session = sessions.begin("ada", VIEWER, "oidc")
    sessions.end_named(session.short_id, by="root")
    sessions.end_named(session.short_id, by="eve")
    sessions.end(session)
    with pytest.raises(NotFound):
        sessions.end_named("0" * 12, by="root")

    with catalogue.read() as connection:
        found = events.find(connection, subject_kind="session")
    assert [(one.kind, one.actor) for one in found] == [
        ("signed_in", "ada"), ("session_ended", "root"),
    ]  # fmt: skip


def test_the_history_names_the_person_and_the_key(sessions, key):
    _, session = session_of(sessions, VIEWER, key, user="alice@corp")
    _, own = session_of(sessions, VIEWER, key, user="ci")

    assert session.subject == "alice@corp (key ci)"
    assert own.subject == "ci"
    with pytest.raises(Invalid):
        sessions.begin("alice (key ops)", VIEWER, "oidc")


def test_sessions_that_began_when_they_lasted_longer_end_by_the_settings_of_now(catalogue):
    token, _ = Sessions(lambda: catalogue).begin("ada", VIEWER, "oidc")

    brief = Sessions(lambda: catalogue, timedelta(0))

    assert brief.find(token) is None
    assert brief.live() == []
