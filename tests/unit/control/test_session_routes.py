"""Sessions at the control API: the same rights as keys, the token of the page, and links."""

import pytest
import sqlalchemy as sa
from tests.unit.control.signed_in import COOKIE, site_of

from bascule.app import open_catalogue, open_registry
from bascule.catalogue import Requests
from bascule.console.site import add_console
from bascule.control.api.rights import RIGHTS
from bascule.core import Unauthenticated
from bascule.endpoints import EndpointStore
from bascule.registry import CatalogueKeys
from bascule.registry.stores import Records
from bascule.security import permissions_of_role
from bascule.settings import load_settings

ALIAS = "/api/v1/models/gb/aliases/champion"


@pytest.fixture(scope="module")
def settings(tmp_path_factory, cancer_bundle):
    made = load_settings(environ={"BASCULE_HOME": str(tmp_path_factory.mktemp("home"))})
    open_registry(made).push(cancer_bundle, by="root")
    return made


@pytest.fixture(scope="module", params=[True, False], ids=["keys", "anybody"])
def site(request, settings, tmp_path_factory):
    return made_of(settings, tmp_path_factory.mktemp("site"), with_keys=request.param)


@pytest.fixture(scope="module")
def guarded(settings, tmp_path_factory):
    return made_of(settings, tmp_path_factory.mktemp("guarded"), with_keys=True)


@pytest.fixture(scope="module")
def unguarded(settings, tmp_path_factory):
    return made_of(settings, tmp_path_factory.mktemp("unguarded"), with_keys=False)


def made_of(settings, tmp_path, *, with_keys, **more):
    catalogue = open_catalogue(settings)
    return site_of(
        tmp_path, open_registry(settings), catalogue, with_keys=with_keys,
        open_keys=lambda: CatalogueKeys(Records(catalogue)),
        open_endpoints=lambda: EndpointStore(catalogue), **more,
    )  # fmt: skip


def test_a_session_tells_of_itself_and_of_its_token(site):
    told = site.signed_in("viewer:gb", user="ada").get("/api/v1/session").json()

    assert (told["user"], told["permissions"]) == ("ada", ["read:gb"])
    assert len(told["csrf_token"]) == 64


def test_a_person_acts_under_the_own_name(site):
    with site.signed_in("operator:gb", user="ada") as browser:
        moved = browser.put(ALIAS, json={"number": 1, "reason": "it is better"})
    assert moved.status_code == 200
    assert moved.json()["by"] == "ada"


def test_a_session_that_may_not_is_refused_with_the_right_that_is_missing(site):
    refused = site.signed_in("viewer:*").put(ALIAS, json={"number": 1})

    assert refused.status_code == 403
    assert "write gb" in refused.json()["error"]
    assert "write:gb" in refused.json()["hint"]


def test_without_the_token_of_the_page_nothing_is_changed(site):
    browser, alias = site.signed_in("admin", with_token=False), "/api/v1/models/gb/aliases/new"

    assert browser.put(alias, json={"number": 1}).status_code == 403
    wrong = browser.put(alias, json={"number": 1}, headers={"X-CSRF-Token": "0" * 64})
    assert wrong.status_code == 403
    assert browser.get(alias).status_code == 404
    assert browser.get("/api/v1/models").status_code == 200


def test_the_token_of_another_session_does_not_count(site):
    other = site.signed_in("admin").get("/api/v1/session").json()["csrf_token"]
    browser = site.signed_in("admin", with_token=False)

    refused = browser.put(ALIAS, json={"number": 1}, headers={"X-CSRF-Token": other})

    assert refused.status_code == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin", "Origin": "null"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:3000"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:8082"}, 200),
        ({"Origin": "http://127.0.0.1:3000"}, 403),
        ({"Origin": "null"}, 403),
        ({}, 200),
    ],
)
def test_a_page_of_another_origin_changes_nothing_even_on_another_port(site, headers, status):
    browser = site.signed_in("admin")

    assert browser.put(ALIAS, json={"number": 1}, headers=headers).status_code == status


def test_a_page_of_another_port_changes_nothing_where_callers_need_no_keys(unguarded):
    foreign = {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:3000"}

    assert unguarded.client(**foreign).put(ALIAS, json={"number": 1}).status_code == 403
    assert unguarded.client().put(ALIAS, json={"number": 1}).status_code == 200


def test_after_signing_out_the_cookie_opens_nothing(guarded):
    browser = guarded.signed_in("admin")
    cookie = browser.cookies[COOKIE]

    out = browser.delete("/api/v1/session")

    assert out.status_code == 200
    assert f'{COOKIE}=""' in out.headers["set-cookie"]
    browser.cookies.set(COOKIE, cookie, domain="127.0.0.1")
    assert browser.get("/api/v1/models").status_code == 401
    assert browser.get("/api/v1/session").status_code == 404


def test_a_key_counts_before_a_session(guarded):
    browser = guarded.signed_in("admin")
    key = guarded.with_key("read:gb").headers["authorization"]

    refused = browser.put(ALIAS, json={"number": 1}, headers={"Authorization": key})

    assert refused.status_code == 403
    assert "may not do this: write gb" in refused.json()["error"]


def test_a_key_makes_a_link_with_the_rights_that_it_has(guarded):
    made = guarded.with_key("read:gb", "approve:gb").post(
        "/api/v1/sign-in-links", json={"roles": ["approver:gb"]}
    )

    assert made.status_code == 201
    assert made.json()["permissions"] == ["read:gb", "approve:gb"]
    _, session = guarded.sessions.redeem(made.json()["path"].partition("=")[2])
    assert session.user == guarded.keys.stored()[-1].name


@pytest.mark.parametrize(
    "roles", [["operator:gb"], ["viewer:*"], ["admin"], ["viewer:gb", "admin:gb"]]
)
def test_a_link_never_has_more_rights_than_its_maker(guarded, roles):
    made = guarded.with_key("read:gb").post("/api/v1/sign-in-links", json={"roles": roles})

    assert made.status_code == 403


def test_the_history_is_for_those_that_may_read_all_and_keys_for_administrators(guarded):
    guarded.signed_in("admin").post("/api/v1/keys", json={"name": "ci", "permissions": ["read:*"]})

    assert guarded.signed_in("viewer:gb").get("/api/v1/history").status_code == 403
    viewed = guarded.signed_in("viewer:*").get("/api/v1/history").json()["items"]
    seen = guarded.signed_in("admin").get("/api/v1/history").json()["items"]
    assert {one["about"] for one in viewed} == {"model"}
    assert {"pushed", "key_created", "signed_in"} <= {one["kind"] for one in seen}
    made = next(one for one in seen if one["kind"] == "key_created")
    assert (made["by"], made["sentence"]) == ("ada", "key ci made for read:*")


def test_the_history_is_given_in_pages_and_as_files(guarded):
    admin = guarded.signed_in("admin")
    for number in range(3):
        admin.put(ALIAS, json={"number": 1, "reason": f"{number}"})

    first = admin.get("/api/v1/history", params={"limit": 2}).json()
    rest = admin.get("/api/v1/history", params={"limit": 1000, "cursor": first["next"]}).json()
    table = admin.get("/api/v1/history/export")
    lines = admin.get("/api/v1/history/export", params={"format": "jsonl"})

    ids = [one["id"] for one in first["items"] + rest["items"]]
    assert ids == sorted(ids, reverse=True)
    assert len(table.text.splitlines()) == len(lines.text.splitlines()) + 1 == len(ids) + 1
    assert "attachment" in table.headers["content-disposition"]
    wrong = admin.get("/api/v1/history", params={"cursor": "WyJhIl0"})
    assert wrong.status_code == 400


def test_a_name_that_is_not_the_callers_own_takes_the_right_to_keys(guarded):
    """A key that may read signed a person of any name in, and the history said that name."""
    administrator, reader = guarded.with_key("read:gb", "keys"), guarded.with_key("read:gb")
    foreign = {"roles": ["viewer:gb"], "user": "alice@corp"}

    refused = reader.post("/api/v1/sign-in-links", json=foreign)
    assert (refused.status_code, "keys" in refused.json()["error"]) == (403, True)
    browser = guarded.by_link(administrator, **foreign)
    assert browser.get("/api/v1/session").json()["user"] == "alice@corp"
    own = guarded.by_link(reader, roles=["viewer:gb"])
    assert own.get("/api/v1/session").json()["key"] == own.get("/api/v1/session").json()["user"]


def test_the_history_names_the_key_and_the_person_of_a_session(guarded):
    maker = guarded.with_key(*map(str, permissions_of_role("operator:gb")), "keys")
    name = guarded.keys.stored()[-1].name
    browser = guarded.by_link(maker, roles=["operator:gb"], user="alice@corp")

    moved = browser.put(ALIAS, json={"number": 1, "reason": "it is better"})

    assert moved.json()["by"] == f"alice@corp (key {name})"
    told = browser.get("/api/v1/session").json()
    assert (told["user"], told["key"]) == ("alice@corp", name)


def test_the_session_of_a_revoked_key_changes_nothing(guarded):
    operator = [str(one) for one in permissions_of_role("operator:gb")]
    maker = guarded.with_key(*operator)
    key = guarded.keys.stored()[-1]
    browser = guarded.by_link(maker, roles=["operator:gb"])
    assert browser.put(ALIAS, json={"number": 1}).status_code == 200
    link = maker.post("/api/v1/sign-in-links", json={"roles": ["viewer:gb"]}).json()["path"]

    guarded.keys.end(key.id, by="root")
    guarded.tell_keys()

    assert browser.get("/api/v1/models/gb").status_code == 401
    assert browser.put(ALIAS, json={"number": 1}).status_code == 401
    with pytest.raises(Unauthenticated):
        guarded.sessions.redeem(link.partition("=")[2])
    assert key.name not in str(guarded.signed_in("admin").get("/api/v1/sessions").json())


def test_an_administrator_lists_and_ends_the_sessions_of_others(guarded):
    browser, admin = guarded.signed_in("viewer:gb", user="mallory"), guarded.signed_in("admin")
    found = next(
        one for one in admin.get("/api/v1/sessions").json()["items"] if one["user"] == "mallory"
    )
    place = f"/api/v1/sessions/{found['id']}"

    assert browser.delete(place).status_code == 403
    assert browser.get("/api/v1/models/gb").status_code == 200
    assert [admin.delete(place).status_code for _ in range(2)] == [200, 200]
    assert browser.get("/api/v1/models/gb").status_code == 401
    assert admin.delete("/api/v1/sessions/000000000000").status_code == 404
    acts = admin.get("/api/v1/history", params={"kind": "session_ended"}).json()["items"]
    assert (acts[0]["by"], acts[0]["sentence"]) == ("ada", "session of mallory ended")


def rows_of(catalogue):
    """How many rows every table of a catalogue has."""
    with catalogue.read() as connection:
        tables = sa.inspect(connection).get_table_names()
        count = {name: sa.text(f'SELECT count(*) FROM "{name}"') for name in tables}
        return {name: connection.scalar(query) for name, query in count.items()}


@pytest.mark.parametrize("with_keys", [True, False], ids=["keys", "anybody"])
def test_a_caller_without_a_key_adds_no_row_to_the_catalogue(settings, tmp_path, with_keys):
    """`DELETE /api/v1/session` kept its answers under each new `Idempotency-Key`."""
    catalogue = open_catalogue(settings)
    site = made_of(
        settings, tmp_path, with_keys=with_keys, open_requests=lambda: Requests(catalogue)
    )
    add_console(site.app)
    before = rows_of(catalogue)

    client = site.client(address="192.0.2.7")
    for operation in [*RIGHTS, "POST /sign-in", "POST /sign-out", "GET /sign-in"]:
        method, path = operation.split(" ")
        sent = {"Idempotency-Key": operation.replace(" ", "")}
        answer = client.request(method, path, json={}, headers=sent)
        assert answer.status_code < 500 or answer.status_code == 503, operation

    assert rows_of(catalogue) == before


def test_a_session_does_not_renew_itself_by_a_link(guarded):
    """It made one before its end, and went on under any name."""
    for browser in (
        guarded.signed_in("admin"),
        guarded.by_link(guarded.with_key("read:gb"), roles=["viewer:gb"]),
    ):
        refused = browser.post("/api/v1/sign-in-links", json={"roles": ["viewer:gb"]})
        assert (refused.status_code, "makes no links" in refused.json()["error"]) == (403, True)
