from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, strategies as st
from tests.keys import InMemory

from bascule.core.errors import Conflict, Invalid, NotFound, Refused, Unauthenticated
from bascule.security.keys import (
    GRANTABLE,
    Key,
    KnownKeys,
    Permission,
    create_key,
    revoke_key,
)

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
INFER_LATE = (Permission("infer", "late"),)


@pytest.fixture
def store():
    return InMemory()


def made(store, name="scoring", permissions=INFER_LATE, **more):
    return create_key(store, name, permissions, now=T0, by="ada", **more)


def judge(store, token, action="infer", model="late", now=T0):
    return KnownKeys(store.stored()).judge(f"Bearer {token}", action, model, now=now)


def test_a_token_opens_what_its_key_allows_and_nothing_else(store):
    key, token = made(store)

    assert judge(store, token) == key
    for action, model in [("infer", "early"), ("metrics", ""), ("manage", "late"), ("read", "*")]:
        with pytest.raises(Refused, match=f"key scoring .{key.id}. may not do this: {action}"):
            judge(store, token, action, model)


def test_who_may_predict_may_read_what_the_model_is(store):
    _, token = made(store)

    judge(store, token, "read", "late")
    judge(store, token, "read", "")  # the server's own description
    with pytest.raises(Refused):
        judge(store, token, "read", "early")


def test_all_models_are_read_only_with_a_right_to_all(store):
    _, one = made(store, "one", (Permission("read", "late"),))
    _, every = made(store, "every", (Permission("read"),))

    judge(store, every, "read", "*")
    with pytest.raises(Refused):
        judge(store, one, "read", "*")


def test_health_needs_no_key():
    assert KnownKeys(()).judge(None, "health", "late", now=T0) is None


def test_the_secret_is_not_kept(store):
    key, token = made(store)

    assert token.split("_", 2)[2] not in json.dumps(key.to_json())
    assert Key.from_json(json.loads(json.dumps(key.to_json()))) == key


def test_a_key_ends_at_its_moment(store):
    _, token = made(store, expires_at=T0 + SECOND)

    judge(store, token, now=T0 + SECOND - timedelta(microseconds=1))
    with pytest.raises(Unauthenticated, match="is expired"):
        judge(store, token, now=T0 + SECOND)


def test_a_key_that_has_ended_before_it_begins_is_refused(store):
    with pytest.raises(Invalid, match="would have expired"):
        made(store, expires_at=T0)
    assert store.stored() == []


def test_a_revoked_key_opens_nothing_and_revoking_twice_is_fine(store):
    _, token = made(store)

    ended = revoke_key(store, "scoring", now=T0, by="bob")
    assert revoke_key(store, ended.id, now=T0 + SECOND, by="carol").revoked_by == "bob"

    with pytest.raises(Unauthenticated, match="is revoked"):
        judge(store, token)


def test_a_name_may_be_taken_again_when_its_key_has_ended(store):
    made(store)
    with pytest.raises(Conflict, match="there is a key scoring"):
        made(store)
    revoke_key(store, "scoring", now=T0, by="ada")
    second, token = made(store)

    assert judge(store, token) == second
    assert revoke_key(store, "scoring", now=T0, by="ada").id == second.id


def test_there_must_be_a_key_to_revoke(store):
    with pytest.raises(NotFound, match="no key 'nobody'"):
        revoke_key(store, "nobody", now=T0, by="ada")


@pytest.mark.parametrize(
    "sent",
    [None, "", "Bearer", "Bearer ", "Basic YWRhOnNlY3JldA==", "Bearer x" * 1000, "Bearer \0", "é"],
)
def test_what_is_no_key_is_told_how_to_send_one(store, sent):
    made(store)
    with pytest.raises(Unauthenticated) as refused:
        KnownKeys(store.stored()).identify(sent, now=T0)
    assert "Authorization: Bearer" in refused.value.hint


def test_the_scheme_is_read_as_rfc_7235_has_it(store):
    key, token = made(store)
    assert KnownKeys(store.stored()).identify(f"bearer {token}", now=T0) == key


@given(place=st.integers(0, 59), other=st.characters(min_codepoint=33, max_codepoint=126))
def test_a_token_with_any_other_character_is_not_known(place, other):
    store = InMemory()
    _, token = made(store)
    changed = token[:place] + other + token[place + 1 :]
    if changed == token:
        return
    with pytest.raises(Unauthenticated):
        judge(store, changed)


@pytest.mark.parametrize("text", ["", "fly", "fly:late", "health", "infer:", "infer:no such name"])
def test_a_permission_that_means_nothing_is_refused(text):
    with pytest.raises(Invalid):
        Permission.parse(text)


@pytest.mark.parametrize("action", GRANTABLE)
def test_a_permission_is_read_as_it_is_written(action):
    for text in (f"{action}:late", f"{action}:*"):
        assert str(Permission.parse(text)) == text


@pytest.mark.parametrize("action", ["infer", "read", "manage"])
def test_every_model_is_allowed_by_a_star_alone(action):
    """`--allow infer` allowed every model."""
    with pytest.raises(Invalid, match=f"permission '{action}' names no model") as refused:
        Permission.parse(action)
    assert refused.value.hint == f"write {action}:MODEL, or {action}:* for every model"
    assert Permission.parse(f"{action}:*").covers(action, "late")


def test_the_counters_are_of_no_model():
    assert Permission.parse("metrics") == Permission("metrics", "*")


def test_a_key_must_allow_something(store):
    with pytest.raises(Invalid, match="would allow nothing"):
        made(store, permissions=())


@pytest.mark.parametrize(
    ("permission", "may_download"),
    [("infer:gb", False), ("read:gb", False), ("manage:gb", False), ("download:gb", True),
     ("write:gb", True), ("download:other", False)],
)  # fmt: skip
def test_a_key_that_asks_a_model_or_reads_about_it_does_not_give_it_out(permission, may_download):
    found = Permission.parse(permission)
    assert found.covers("download", "gb") is may_download
