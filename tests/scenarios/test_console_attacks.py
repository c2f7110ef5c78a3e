"""Attacks on the console and the control API from a browser, each by the name it is known by.

The matrix of rights is made of the routes, so a route that is added without a rule fails here.
"""

import re
from urllib.parse import urlsplit

import pytest
from fastapi.routing import APIRoute
from tests.tiers import first_of
from tests.unit.control.signed_in import COOKIE, site_of

from bascule.app import open_catalogue, open_registry
from bascule.catalogue import events
from bascule.console.site import add_console
from bascule.console.table import PAGES
from bascule.control.api.hosts import answering_to
from bascule.control.api.rights import RIGHTS
from bascule.endpoints import EndpointStore
from bascule.registry import CatalogueKeys
from bascule.registry.stores import Records
from bascule.security import OPEN_ACTIONS, ROLES, csrf_of, permissions_of_role, permits
from bascule.serving.transports import policy_of
from bascule.serving.workers import bind
from bascule.settings import load_settings

NAMES = {
    "approval": "a0", "decision": "approve", "document": "annex-iv",
    "review": "r0", "device": "camera", "trigger": "fresh",
    "model": "gb", "number": "1", "alias": "champion", "key": "nobody", "endpoint": "gb",
    "alert": "0", "silence": "0", "rollout": "0", "command": "pause", "receiver": "pager",
    "schedule": "nightly", "run": "0", "prediction": "0", "version": "1", "name": "gb",
    "session": "0", "job": "0",
}  # fmt: skip
SAFE = ("GET", "HEAD")
FIRST = ("operator:gb",)
ROLES_TRIED = [
    pytest.param(role, marks=() if role in FIRST else pytest.mark.slow)
    for role in (f"{role}:{model}" for role in ROLES for model in ("gb", "other", "*"))
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory, cancer_bundle):
    folder = tmp_path_factory.mktemp("console")
    made = load_settings(folder, {"BASCULE_HOME": str(folder / "home")})
    open_registry(made).push(cancer_bundle, by="root")
    return made


@pytest.fixture(scope="module")
def site(settings, tmp_path_factory):
    return made_of(settings, tmp_path_factory.mktemp("site"), with_keys=True)


@pytest.fixture(scope="module")
def open_site(settings, tmp_path_factory):
    """Of a server that asks callers for no keys."""
    return made_of(settings, tmp_path_factory.mktemp("open"), with_keys=False)


def made_of(settings, folder, *, with_keys):
    catalogue = open_catalogue(settings)
    made = site_of(
        folder, open_registry(settings), catalogue, with_keys=with_keys,
        open_keys=lambda: CatalogueKeys(Records(catalogue)),
        open_endpoints=lambda: EndpointStore(catalogue),
    )  # fmt: skip
    add_console(made.app)
    made.app.state.before_end()  # else the stream of changes is an answer without an end
    return made


def routes_of(site):
    """Of every route the method, the path with names filled in, and the right that it requires."""
    for route in site.app.routes:
        if not isinstance(route, APIRoute):
            continue
        for method in route.methods:
            is_page = hasattr(route, "right")
            right = route.right if is_page else RIGHTS[f"{method} {route.path}"]
            named = {name: NAMES[name] for name in re.findall(r"{(\w+)", route.path)}
            path = re.sub(r"{(\w+)(:\w+)?}", lambda one: NAMES[one[1]], route.path)
            yield method, path, right and (right[0], right[1].format(**named)), is_page


def acts(settings):
    """How many acts were recorded but for sign-ins."""
    with open_catalogue(settings).read() as connection:
        found = events.find(connection)
    return [one.kind for one in found if one.subject.kind not in ("session", "sign_in_link")]


# -- rights --


def test_every_page_and_every_route_of_the_api_has_a_rule(site):
    found = list(routes_of(site))

    assert len(found) == len({(method, path) for method, path, _, _ in found})
    assert {path for _, path, _, is_page in found if is_page} >= {
        page.path for page in PAGES if page.path not in ("/models",)
    }


@pytest.mark.parametrize("role", ROLES_TRIED)
def test_a_role_opens_the_routes_of_its_permissions_and_no_others(site, role):
    permissions = permissions_of_role(role)
    with site.signed_in(role) as browser:
        token = {"csrf": csrf_of(browser.cookies[COOKIE])}
        for method, path, right, is_page in routes_of(site):
            if path in ("/sign-out", "/api/v1/session"):
                continue  # ends the session, whatever its rights
            form = {"data": token} if is_page and method not in SAFE else {}
            answer = browser.request(method, path, **form)
            may = right is None or right[0] in OPEN_ACTIONS or permits(permissions, *right)
            is_refused = answer.status_code == 403 and "ask an administrator" in answer.text
            if may and right is not None and not right[1]:
                continue  # a right on any model: asked again, when the model is known
            assert is_refused == (not may), (role, method, path, answer.status_code)


def test_without_a_session_nothing_is_shown(site):
    browser = site.client()
    for method, path, right, is_page in routes_of(site):
        answer = browser.request(method, path)
        if right is None or right[0] in OPEN_ACTIONS:
            assert answer.status_code != 401 or path.startswith("/sign-in"), (method, path)
        elif is_page:
            assert answer.status_code == 303, (method, path)
            assert answer.headers["location"].startswith("/sign-in?next=/")
        else:
            assert answer.status_code == 401, (method, path)


def test_nothing_is_done_by_get(site, settings):
    code = site.sessions.offer("eve", permissions_of_role("viewer"), by="root")
    with site.signed_in("admin") as browser:
        before = acts(settings)
        for method, path, _, _ in routes_of(site):
            if method in SAFE:
                browser.request(method, path)
        browser.get(f"/sign-in?code={code}")
    assert acts(settings) == before
    assert site.sessions.redeem(code)


# -- CSRF --


@pytest.mark.parametrize(
    "sent",
    first_of([{}, {"csrf": "0" * 64}, {"csrf": ""}, {"csrf": "é"}], 2),
)  # fmt: skip
def test_csrf_without_the_token_of_the_session_no_form_and_no_request_does_anything(
    site, settings, sent
):
    with site.signed_in("admin", with_token=False) as browser:
        before = acts(settings)
        for method, path, right, is_page in routes_of(site):
            if method in SAFE or (right is None and path != "/api/v1/session"):
                continue
            form = {"data": sent} if is_page else {"json": {}}
            answer = browser.request(method, path, **form)
            assert answer.status_code == 403, (method, path, answer.status_code)
            assert "session" in answer.text
    assert acts(settings) == before


@pytest.mark.parametrize("site_header", ["cross-site", "same-site"])
def test_csrf_a_page_of_another_origin_does_nothing_even_with_the_token(
    site, settings, site_header
):
    foreign = {"Sec-Fetch-Site": site_header, "Origin": "http://127.0.0.1:3000"}
    with site.signed_in("admin") as browser:
        before = acts(settings)
        token = {"csrf": csrf_of(browser.cookies[COOKIE])}
        for method, path, right, is_page in routes_of(site):
            if method in SAFE or (right is None and not is_page and path != "/api/v1/session"):
                continue
            form = {"data": token} if is_page else {}
            answer = browser.request(method, path, headers=foreign, **form)
            assert answer.status_code == 403, (method, path, answer.status_code)
        assert browser.get("/api/v1/session").status_code == 200
    assert acts(settings) == before


def test_csrf_where_no_keys_are_needed_a_page_of_another_port_does_nothing(open_site, settings):
    foreign = {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:3000"}
    browser, before = open_site.client(**foreign), acts(settings)

    for path in ("/v2/repository/models/gb/load", "/v2/repository/models/gb/unload"):
        assert browser.post(path).status_code == 403
    for method, path, right, is_page in routes_of(open_site):
        if method not in SAFE and right is not None and (is_page or right[0] != "read"):
            assert browser.request(method, path).status_code == 403, (method, path)
    assert acts(settings) == before


def test_csrf_of_the_sign_in_itself_a_foreign_page_signs_nobody_in(site):
    code = site.sessions.offer("mallory", permissions_of_role("viewer"), by="root")
    foreign = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}

    refused = site.client().post("/sign-in", data={"code": code}, headers=foreign)

    assert refused.status_code == 403
    assert "set-cookie" not in refused.headers
    assert site.sessions.redeem(code)


# -- cookies, links, redirects --


def test_the_cookie_of_a_session_is_for_this_site_and_no_script(site):
    code = site.sessions.offer("eve", permissions_of_role("viewer"), by="root")

    begun = site.client().post("/sign-in", data={"code": code})

    cookie = next(one for one in begun.headers.get_list("set-cookie") if one.startswith(COOKIE))
    parts = {one.strip().lower() for one in cookie.split(";")}
    assert {"httponly", "samesite=strict", "path=/"} <= parts
    assert not any(one.startswith("domain") for one in parts)


def test_over_tls_the_cookie_is_secure_and_of_this_very_host(site):
    code = site.sessions.offer("eve", permissions_of_role("viewer"), by="root")
    browser = site.client()
    browser.base_url = "https://127.0.0.1:8082"

    begun = browser.post("/sign-in", data={"code": code})

    cookie = next(one for one in begun.headers.get_list("set-cookie") if COOKIE in one)
    assert cookie.startswith(f"__Host-{COOKIE}=")
    assert "secure" in cookie.lower()


def test_session_fixation_a_planted_cookie_never_becomes_a_session(site):
    planted = "p" * 43
    code = site.sessions.offer("eve", permissions_of_role("viewer"), by="root")
    browser = site.client()
    browser.cookies.set(COOKIE, planted, domain="127.0.0.1")

    browser.post("/sign-in", data={"code": code})

    assert site.sessions.find(planted) is None
    assert browser.cookies[COOKIE] != planted


def test_session_fixation_signing_in_again_ends_the_session_before(site):
    browser = site.signed_in("viewer")
    before = browser.cookies[COOKIE]
    code = site.sessions.offer("eve", permissions_of_role("viewer"), by="root")

    browser.post("/sign-in", data={"code": code})

    assert site.sessions.find(before) is None
    assert site.sessions.find(browser.cookies[COOKIE]).user == "eve"


def test_replay_of_a_one_time_link_signs_nobody_in(site):
    code = site.sessions.offer("eve", permissions_of_role("viewer"), by="root")
    assert site.client().post("/sign-in", data={"code": code}).status_code == 303

    second = site.client()
    replayed = second.post("/sign-in", data={"code": code})

    assert replayed.status_code == 401
    assert "was used" in replayed.text
    assert COOKIE not in second.cookies
    assert second.get(f"/sign-in?code={code}").status_code == 401


def test_replay_of_a_cookie_after_signing_out_opens_nothing(site):
    browser = site.signed_in("admin")
    token = browser.cookies[COOKIE]

    assert browser.post("/sign-out", data={"csrf": csrf_of(token)}).status_code == 303

    replayed = site.client()
    replayed.cookies.set(COOKIE, token, domain="127.0.0.1")
    assert replayed.get("/").status_code == 303
    assert replayed.get("/api/v1/models").status_code == 401


@pytest.mark.parametrize(
    "wanted",
    ["https://evil.example/", "//evil.example/", "/\\evil.example", "/%09/evil.example",
     "javascript:alert(1)", "/\n/evil.example", "http:evil.example", "\\/evil.example"],
)  # fmt: skip
def test_open_redirect_signing_in_leads_to_this_site_alone(site, wanted):
    code = site.sessions.offer("eve", permissions_of_role("viewer"), by="root")

    page = site.client().get("/sign-in", params={"code": code, "next": wanted})
    begun = site.client().post("/sign-in", data={"code": code, "next": wanted})

    assert "evil.example" not in re.findall(r'name="next" value="([^"]*)"', page.text)[0] or (
        wanted.startswith("/%09")  # a path of this site: nothing decodes it again
    )
    place = urlsplit(begun.headers["location"])
    assert (begun.status_code, place.scheme, place.netloc) == (303, "", "")
    assert place.path.startswith("/")
    assert not begun.headers["location"].startswith(("//", "/\\"))


# -- other pages around ours --


def test_clickjacking_no_answer_may_be_framed_and_none_is_sniffed(site):
    with site.signed_in("admin") as browser:
        for method, path, _, _ in routes_of(site):
            if method != "GET":
                continue
            headers = browser.get(path).headers
            assert "frame-ancestors 'none'" in headers["content-security-policy"], path
            assert headers["x-content-type-options"] == "nosniff", path


def test_pages_allow_no_inline_script_and_no_other_host(site):
    with site.signed_in("admin") as browser:
        for method, path, _, is_page in routes_of(site):
            if method != "GET" or not is_page:
                continue
            answer = browser.get(path)
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert not re.search(r"<script(?![^>]* src=)|\son\w+=|javascript:", answer.text), path
            assert answer.headers["cache-control"] == "no-store", path


def test_dns_rebinding_a_name_of_the_attacker_reaches_no_page(open_site):
    listener = bind("127.0.0.1", 0, 1)[0]
    try:
        policy = policy_of(listener, (), asks_for_keys=False)
    finally:
        listener.close()
    browser = open_site.client()
    browser._transport.app = answering_to(policy, open_site.app)

    assert browser.get("/").status_code == 200
    for path in ("/", "/sign-in", "/history", "/api/v1/models"):
        rebound = browser.get(path, headers={"Host": "evil.example:8082"})
        assert rebound.status_code in (403, 421), path
        assert "Bascule ·" not in rebound.text


# -- what people write --


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'])
def test_xss_a_name_or_a_reason_is_shown_as_text(site, settings, name):
    with open_catalogue(settings).write() as connection:
        subject = events.Subject("schedule", name)
        when = events.find(connection, limit=1)[0].at
        events.append(connection, events.Event(subject, "schedule_paused", when, name, name))
    code = site.sessions.offer(name, permissions_of_role("viewer"), by="root")

    with site.signed_in("admin", user=name) as browser:
        pages = [browser.get(path).text for path in ("/history", "/settings", "/")]
    pages.append(site.client().get(f"/sign-in?code={code}").text)

    assert all("<script>alert" not in page and "<img src=x" not in page for page in pages)
    assert "&lt;" in pages[0]
    assert "&lt;" in pages[3]
