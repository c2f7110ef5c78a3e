"""What every route does alike: pages, entity tags, preconditions, requests sent twice."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest
from tests.controls import asking, control_app
from tests.unit.control.test_control_api import FakeSupervisor, find

from bascule.catalogue import Requests
from bascule.core import Unavailable
from bascule.registry import CatalogueKeys, open_registry

T0 = datetime(2026, 1, 1, tzinfo=UTC)
ALIAS = "/api/v1/models/gb/aliases/champion"
TAGS = "/api/v1/models/gb/versions/1/tags"


@pytest.fixture
def registry(tmp_path, cancer_bundle):
    registry = open_registry(tmp_path / "home")
    registry.push(cancer_bundle, by="ada")
    return registry


@pytest.fixture
def requests(registry):
    return Requests(registry._records._catalogue)


@pytest.fixture
def client(registry, requests):
    keys = CatalogueKeys(registry._records)
    app = control_app(
        FakeSupervisor(), lambda: registry, find,
        open_keys=lambda: keys, open_requests=lambda: requests,
    )  # fmt: skip
    with asking(app) as client:
        yield client


def pages(client, path, limit):
    """The items of each page."""
    cursor = None
    while True:
        more = {} if cursor is None else {"cursor": cursor}
        page = client.get(path, params={"limit": limit, **more}).json()
        yield page["items"]
        cursor = page["next"]
        if cursor is None:
            return


# -- pages --


@pytest.mark.parametrize(("limit", "sizes"), [(1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (6, [5])])
def test_a_list_is_given_in_pages_of_the_limit(client, registry, limit, sizes):
    for name in "abcd":
        registry.set_tag("gb/1", name, "x", by="ada")

    found = list(pages(client, "/api/v1/models/gb/history", limit))

    assert [len(page) for page in found] == sizes
    keys = [event["key"] for page in found for event in page]
    assert keys == ["d", "c", "b", "a", None]


def test_what_is_added_between_two_pages_repeats_and_hides_nothing(client, registry):
    for name in "ab":
        registry.set_tag("gb/1", name, "x", by="ada")
    each = pages(client, "/api/v1/models/gb/history", 1)
    assert next(each)[0]["key"] == "b"
    registry.set_tag("gb/1", "new", "x", by="ada")
    assert [page[0]["key"] for page in each] == ["a", None]


def test_a_cursor_of_another_list_is_refused(client, registry):
    for name in ("a", "b"):
        registry.set_alias("gb", name, 1, by="ada")
    cursor = client.get("/api/v1/models/gb/aliases?limit=1").json()["next"]
    answer = client.get("/api/v1/models/gb/history", params={"cursor": cursor})
    assert answer.status_code == 400
    assert answer.json()["detail"] == "cursor: not a cursor of this list"


@pytest.mark.parametrize("cursor", ["", "!", "e30", "W10", "WzEsMl0", "W3RydWVd", "W251bGxd"])
def test_a_cursor_that_no_page_gave_is_refused(client, cursor):
    answer = client.get("/api/v1/models", params={"cursor": cursor})
    assert answer.status_code == 400


def test_a_search_is_given_in_pages_too(client, registry, cancer_bundle):
    assert [len(page) for page in pages(client, "/api/v1/search?query=model=gb", 1)] == [1]


# -- entity tags --


def test_a_resource_that_the_caller_has_is_not_sent_again(client, registry):
    first = client.get("/api/v1/models/gb")
    tag = first.headers["etag"]

    again = client.get("/api/v1/models/gb", headers={"If-None-Match": f'"other", W/{tag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)

    registry.set_alias("gb", "champion", 1, by="ada")
    assert client.get("/api/v1/models/gb", headers={"If-None-Match": tag}).status_code == 200


def test_an_alias_is_moved_only_if_it_is_as_the_caller_saw_it(client, registry):
    new = {"If-None-Match": "*"}
    body = {"number": 1}
    assert client.put(ALIAS, json=body, headers={"If-Match": "*"}).status_code == 412
    made = client.put(ALIAS, json=body, headers=new)
    assert made.status_code == 200
    assert made.headers["etag"] == client.get(ALIAS).headers["etag"]

    refused = client.put(ALIAS, json=body, headers=new)
    assert (refused.status_code, refused.headers["etag"]) == (412, made.headers["etag"])
    assert client.delete(ALIAS, headers={"If-Match": '"old"'}).status_code == 412
    assert client.delete(ALIAS, headers={"If-Match": made.headers["etag"]}).status_code == 200
    assert registry.aliases("gb") == {}


def test_tags_that_change_between_the_check_and_the_write_fail_the_condition(
    client, registry, monkeypatch
):
    tag = client.get(TAGS).headers["etag"]
    change_tags = registry.change_tags

    def meanwhile(*arguments, **named):
        monkeypatch.undo()
        registry.set_tag("gb/1", "team", "fraud", by="eve")
        return change_tags(*arguments, **named)

    monkeypatch.setattr(registry, "change_tags", meanwhile)
    refused = client.patch(TAGS, json={"team": "risk"}, headers={"If-Match": tag})
    assert refused.status_code == 412
    assert refused.headers["etag"] == client.get(TAGS).headers["etag"]
    assert registry.tags("gb/1") == {"team": "fraud"}


def test_tags_are_changed_all_or_none(client, registry):
    assert client.patch(TAGS, json={"a": "1", "b": "2"}).json() == {"a": "1", "b": "2"}
    assert client.patch(TAGS, json={"a": None, "absent": None}).status_code == 404
    assert registry.tags("gb/1") == {"a": "1", "b": "2"}
    assert client.patch(TAGS, json={"a": None}).json() == {"b": "2"}


def test_a_version_is_retired_and_restored_on_condition(client):
    version, path = "/api/v1/models/gb/versions/1", "/api/v1/models/gb/versions/1/retirement"
    seen = {"If-Match": client.get(version).headers["etag"]}
    assert client.put(path, json={"reason": "old"}, headers=seen).status_code == 200
    assert client.delete(path, headers=seen).status_code == 412
    assert client.get(version).json()["retired"]["reason"] == "old"
    assert client.get("/api/v1/models/gb/resolve?number=1").status_code == 403
    assert client.delete(path).json()["retired"] is None


# -- requests sent twice --


def test_a_request_that_is_sent_twice_is_done_once(client, registry):
    key = {"Idempotency-Key": '"8e03978e"'}
    first = client.put(ALIAS, json={"number": 1, "reason": "first"}, headers=key)
    registry.drop_alias("gb", "champion", by="eve")
    again = client.put(ALIAS, json={"number": 1, "reason": "first"}, headers=key)
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    assert again.headers["etag"] == first.headers["etag"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert registry.aliases("gb") == {}

    other = client.put(ALIAS, json={"number": 1, "reason": "other"}, headers=key)
    assert other.status_code == 422
    assert client.delete(ALIAS, headers=key).status_code == 422
    assert client.put(ALIAS, json={"number": 1}).status_code == 200


def test_the_secret_of_a_key_is_shown_once_and_not_kept(client):
    key = {"Idempotency-Key": "k"}
    wanted = {"name": "ada", "permissions": ["infer:gb"]}
    first = client.post("/api/v1/keys", json=wanted, headers=key)
    assert (first.status_code, first.json()["token"][:4]) == (201, "bsc_")
    again = client.post("/api/v1/keys", json=wanted, headers=key)
    assert (again.status_code, "token" in again.json()) == (409, False)
    (kept,) = client.get("/api/v1/keys").json()["items"]
    assert kept["id"] == first.headers["location"].rpartition("/")[2]
    assert "token" not in kept


def test_an_error_of_the_caller_is_given_again_too(client, registry):
    key = {"Idempotency-Key": "k"}
    refused = client.put(ALIAS, json={"number": 7}, headers=key)
    assert refused.status_code == 404
    again = client.put(ALIAS, json={"number": 7}, headers=key)
    assert (again.status_code, again.json()) == (404, refused.json())
    assert again.headers["content-type"] == "application/problem+json"


def test_an_error_that_may_pass_is_not_kept(registry, requests):
    problems = [Unavailable("away")]

    def opened():
        if problems:
            raise problems.pop()
        return registry

    with asking(
        control_app(FakeSupervisor(), opened, find, open_requests=lambda: requests)
    ) as client:
        answers = [
            client.put(ALIAS, json={"number": 1}, headers={"Idempotency-Key": "k"})
            for _ in range(2)
        ]
    assert [answer.status_code for answer in answers] == [503, 200]


def test_a_repetition_while_the_first_is_under_way_is_a_conflict(registry, requests):
    entered, go_on = threading.Event(), threading.Event()

    def opened():
        entered.set()
        go_on.wait(10)
        return registry

    with asking(
        control_app(FakeSupervisor(), opened, find, open_requests=lambda: requests)
    ) as client:
        send = {"json": {"number": 1}, "headers": {"Idempotency-Key": "k"}}
        first = threading.Thread(target=client.put, args=(ALIAS,), kwargs=send)
        first.start()
        try:
            assert entered.wait(10)
            assert client.put(ALIAS, **send).status_code == 409
        finally:
            go_on.set()
            first.join(10)
        assert client.put(ALIAS, **send).headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize("key", ["", "a b", '"', "x" * 256, "a,b"])
def test_a_key_that_cannot_be_one_is_refused(client, key):
    answer = client.put(ALIAS, json={"number": 1}, headers={"Idempotency-Key": key})
    assert answer.status_code == 400
    assert "Idempotency-Key" in answer.json()["hint"]


def test_an_api_that_keeps_no_answers_refuses_the_key(registry):
    with asking(control_app(FakeSupervisor(), lambda: registry, find)) as client:
        answer = client.put(ALIAS, json={"number": 1}, headers={"Idempotency-Key": "k"})
    assert (answer.status_code, registry.aliases("gb")) == (400, {})


# -- bundles --


def test_a_bundle_that_is_downloaded_is_uploaded_again_as_the_same_version(
    client, registry, tmp_path
):
    bundle = client.get("/api/v1/models/gb/versions/1/bundle")
    assert bundle.headers["etag"].startswith('"sha256:')
    path = "/api/v1/models/gb/versions"
    again = client.post(path, content=bundle.content)
    assert (again.status_code, again.headers["location"]) == (201, f"{path}/1")

    refused = client.post("/api/v1/models/other/versions", content=bundle.content)
    assert (refused.status_code, "'gb'" in refused.json()["detail"]) == (400, True)
    altered = bytearray(bundle.content)
    altered[-20_000] ^= 1
    broken = client.post(path, content=bytes(altered))
    assert broken.status_code == 403
    assert broken.json()["type"] == "urn:bascule:error:Untrusted"
    assert "bascule-transfer" not in broken.text
    assert len(registry.versions("gb")) == 1


@pytest.mark.parametrize(
    ("path", "most"), [("/api/v1/models/gb/versions", 4 << 30), ("/api/v1/keys", 1 << 20)]
)
@pytest.mark.parametrize("over", [0, 1])
def test_a_body_is_bounded_by_its_route(client, connect, path, most, over):
    with connect(client.base_url.port) as raw:
        raw.send(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {most + over}\r\n"
            "Expect: 100-continue\r\n\r\n".encode()
        )
        assert raw.answer().status == (413 if over else 100)
