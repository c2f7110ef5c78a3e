"""Acts that take two persons, asked and decided over the API."""

from __future__ import annotations

import os
import re
import signal
import threading
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from hypothesis import given, strategies as st
from tests.consoles import token_of
from tests.unit.control.signed_in import site_of

from bascule.app import open_catalogue, open_registry
from bascule.catalogue import sealing
from bascule.console.site import add_console
from bascule.core import BasculeError, Conflict, Refused
from bascule.registry import CatalogueKeys
from bascule.registry.stores import Records
from bascule.security import Person, is_protected, judge_decision
from bascule.settings import load_settings

ALIAS = "/api/v1/models/gb/aliases/production"
T0 = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path, cancer_bundle):
    made = load_settings(environ={"BASCULE_HOME": str(tmp_path / "home")})
    open_registry(made).push(cancer_bundle, by="root")
    return made


def made_of(settings, tmp_path, *, with_keys=True, **more):
    catalogue = open_catalogue(settings)
    return site_of(
        tmp_path, open_registry(settings), catalogue, with_keys=with_keys,
        open_keys=lambda: CatalogueKeys(Records(catalogue)),
        protected=("alias:gb@production",), **more,
    )  # fmt: skip


@pytest.fixture
def site(settings, tmp_path):
    return made_of(settings, tmp_path)


def asked(site, user="ada", number=1):
    answer = site.signed_in("operator:gb", user=user).put(ALIAS, json={"number": number})
    assert answer.status_code == 202, answer.text
    assert answer.headers["Bascule-Approval"] == answer.json()["approval"]
    return answer.json()["approval"]


def decided(site, approval, decision="approve", user="bob", roles="approver:gb"):
    browser = site.signed_in(roles, user=user)
    return browser.post(f"/api/v1/approvals/{approval}/{decision}")


def alias_of(site):
    return site.signed_in("viewer:*").get(ALIAS)


def test_a_protected_alias_moves_once_another_person_approves(site, settings):
    approval = asked(site)
    assert alias_of(site).status_code == 404, "nothing is done before"

    done = decided(site, approval).json()

    assert (done["state"], done["by"], done["decided_by"]) == ("done", "ada", "bob")
    assert alias_of(site).json()["number"] == 1
    moved = site.signed_in("admin").get("/api/v1/history?kind=alias_moved").json()["items"][0]
    assert (moved["by"], moved["origin"]["approval"]) == ("ada", approval)
    assert decided(site, approval).status_code == 409, "it runs once"
    assert sealing.verify(open_catalogue(settings).read).problems == ()


def test_what_is_not_protected_needs_no_one(site):
    browser = site.signed_in("operator:gb", user="ada")
    assert browser.put("/api/v1/models/gb/aliases/best", json={"number": 1}).status_code == 200


def test_the_person_that_asked_cannot_approve(site):
    approval = asked(site)

    own = decided(site, approval, user="ada", roles="admin")
    assert own.status_code == 403
    assert "another one" in own.json()["error"]
    assert decided(site, approval, user="bob", roles="viewer:*").status_code == 403
    assert decided(site, approval, "decline").json()["state"] == "declined"
    assert decided(site, approval).status_code == 409
    assert alias_of(site).status_code == 404


def test_the_same_request_twice_is_one_and_another_person_asks_anew(site):
    with site.signed_in("operator:gb", user="ada") as browser:
        same = {browser.put(ALIAS, json={"number": 1}).json()["approval"] for _ in range(2)}
    assert len(same) == 1
    assert asked(site, user="eve") not in same


def test_of_two_that_approve_at_once_one_succeeds(site):
    approval, statuses = asked(site), []

    def approve(user):
        statuses.append(decided(site, approval, user=user).status_code)

    persons = [threading.Thread(target=approve, args=(user,)) for user in ("bob", "eve")]
    for person in persons:
        person.start()
    for person in persons:
        person.join()

    assert sorted(statuses) == [200, 409]


def test_a_change_in_between_ends_the_request(site, settings):
    approval = asked(site)
    open_registry(settings).set_alias("gb", "production", 1, by="root", reason="a command")

    answer = decided(site, approval)

    assert answer.status_code == 409
    assert "changed since" in answer.json()["error"]


def test_the_right_of_the_person_that_asked_is_checked_again(site):
    approval = asked(site)
    for session in site.sessions.live():
        if session.user == "ada":
            site.sessions.end(session, by="root")

    done = decided(site, approval).json()

    assert (done["state"], done["outcome"]["status"]) == ("failed", 403)
    assert "session of ada has ended" in done["outcome"]["answer"]["detail"]
    assert alias_of(site).status_code == 404


def test_the_right_of_a_key_that_asked_is_checked_again(site):
    caller = site.with_key("write:gb")
    approval = caller.put(ALIAS, json={"number": 1}).json()["approval"]
    (key,) = site.keys.stored()
    site.keys.revoke(key.id, at=datetime.now(UTC), by="root")
    site.tell_keys()

    done = decided(site, approval).json()

    assert (done["state"], done["outcome"]["status"]) == ("failed", 403)
    assert alias_of(site).status_code == 404


def test_an_approver_that_lost_the_right_meanwhile_is_refused(site):
    approver = site.with_key("approve:gb")
    approval = asked(site)
    (key,) = site.keys.stored()
    site.keys.revoke(key.id, at=datetime.now(UTC), by="root")
    site.tell_keys()

    assert approver.post(f"/api/v1/approvals/{approval}/approve").status_code in (401, 403)
    assert alias_of(site).status_code == 404
    assert decided(site, approval).json()["state"] == "done", "another one still can"


def decide_and_die(settings, tmp_path, approval, at_statement):
    """Approve in a process that is killed at a statement; its exit code."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    left = iter(range(at_statement))

    def count(connection, _cursor=None, statement="", *_arguments):
        is_write = connection.get_execution_options()["writes"]
        if is_write and not statement.startswith("SELECT") and next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    site = made_of(settings, tmp_path)
    browser = site.signed_in("approver:gb", user="bob")
    sa.event.listen(sa.Engine, "before_cursor_execute", count)
    sa.event.listen(sa.Engine, "commit", count)
    answer = browser.post(f"/api/v1/approvals/{approval}/approve")
    os._exit(0 if answer.status_code == 200 else 1)


@pytest.mark.slow
def test_killed_at_any_statement_an_act_is_done_once_or_not_and_the_approval_says_so(
    site, settings, tmp_path
):
    registry, states, at_statement, code = open_registry(settings), set(), 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        approval = asked(site)
        code = decide_and_die(settings, tmp_path, approval, at_statement)
        assert code in (0, -signal.SIGKILL)
        every = site.signed_in("viewer:*").get("/api/v1/approvals").json()["items"]
        (state,) = {one["state"] for one in every if one["id"] == approval}
        is_moved = alias_of(site).status_code == 200
        assert is_moved == (state == "done"), at_statement
        if state != "waiting":
            assert decided(site, approval).status_code == 409, "it never runs again"
        if is_moved:
            registry.drop_alias("gb", "production", by="root")
        states.add(state)
        at_statement += 1

    assert states == {"waiting", "approved", "done"}
    assert sealing.verify(open_catalogue(settings).read).problems == ()


def test_an_approver_decides_on_the_page_of_the_history(site):
    add_console(site.app)
    asked(site)
    browser = site.signed_in("approver:*", user="bob")
    page = browser.get("/history").text
    assert "Waiting for approval" in page
    action = re.search(r'action="(/history/approvals/\w+/approve)"', page)[1]

    answer = browser.post(action, data={"csrf": token_of(page), "reason": "reviewed"})

    assert answer.status_code == 303
    assert "alias:gb@production: done" in browser.get("/history").text
    assert alias_of(site).json()["number"] == 1


def test_a_request_ends_undecided(settings, tmp_path):
    site = made_of(settings, tmp_path, approval_lasts=timedelta(0))

    assert "ended undecided" in decided(site, asked(site)).json()["error"]


def test_without_keys_two_persons_look_alike(settings, tmp_path):
    site = made_of(settings, tmp_path, with_keys=False)

    refused = site.client().put(ALIAS, json={"number": 1})

    assert refused.status_code == 403
    assert "look alike" in refused.json()["error"]


@pytest.mark.parametrize(
    ("thing", "protected", "expected"),
    [
        ("alias:late@production", ["alias:late@production"], True),
        ("alias:late@best", ["alias:late@production"], False),
        ("alias:late@production", ["alias:*@production"], True),
        ("deploy:late", ["deploy:*"], True),
        ("deploy:late-2", ["deploy:late"], False),
        ("settings", ["settings"], True),
        ("settings", [], False),
    ],
)
def test_what_a_pattern_protects(thing, protected, expected):
    assert is_protected(thing, protected) is expected


names = st.sampled_from(["", "ada", "bob", "k1", "k2"])
persons = st.builds(Person, st.sampled_from(["ada", "bob"]), names, names, names)


@given(asker=persons, decider=persons, may=st.booleans(), late=st.booleans())
def test_nothing_is_approved_but_by_another_person_with_the_right(asker, decider, may, late):
    ends_at = T0 - timedelta(1) if late else T0 + timedelta(1)
    try:
        judge_decision("approve", "waiting", ends_at, asker, decider, may_approve=may, now=T0)
    except (Conflict, Refused):
        return
    assert may
    assert not late
    assert asker.user != decider.user
    assert asker.key_made_by != decider.user != asker.user != decider.key_made_by


@pytest.mark.parametrize("state", ["approved", "declined", "done", "failed"])
def test_what_was_decided_stays_so(state):
    with pytest.raises(BasculeError, match=state):
        judge_decision(
            "approve", state, T0 + timedelta(1), Person("ada"), Person("bob"),
            may_approve=True, now=T0,
        )  # fmt: skip
