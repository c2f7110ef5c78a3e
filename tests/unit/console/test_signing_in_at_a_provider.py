"""Signing in to the console at a provider: the browser's way there and back, and its cookies."""

import re
import warnings
from urllib.parse import urlsplit

import httpx
import pytest
from tests.unit.control.signed_in import COOKIE, site_of

from bascule.app import open_catalogue, open_registry
from bascule.console.site import add_console
from bascule.control import Provider, ProviderConfig
from bascule.settings import load_settings

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the provider

FLOW = f"{COOKIE}-flow"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    settings = load_settings(environ={"BASCULE_HOME": str(tmp_path_factory.mktemp("home"))})
    folder = tmp_path_factory.mktemp("site")
    made = site_of(folder, open_registry(settings), open_catalogue(settings))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from oidc_provider_mock import User, run_server_in_thread

        users = [
            User(sub="ada", claims={"email": "ada@example.com", "roles": ["viewer:*"]}),
            User(sub="eve", claims={"email": "eve@example.com"}),
        ]
        with run_server_in_thread(user_claims=users) as server:
            issuer = f"http://localhost:{server.server_port}"
            add_console(made.app, provider=Provider(ProviderConfig(issuer, "bascule", "s3cret")))
            yield made


def come_back(browser, user, wanted="/history?by=ada"):
    """Go to the provider, consent there, and come back."""
    sent = browser.get("/sign-in/provider", params={"next": wanted})
    assert sent.status_code == 303
    back = urlsplit(httpx.post(sent.headers["location"], data={"sub": user}).headers["location"])
    return browser.get(f"{back.path}?{back.query}")


def test_a_person_comes_back_signed_in_and_to_the_page_that_was_wanted(site):
    browser = site.client()

    page = come_back(browser, "ada")

    assert page.status_code == 200
    assert re.search(r'content="0; url=/history\?by=ada"', page.text)
    assert FLOW not in browser.cookies
    shown = browser.get("/history")
    assert (shown.status_code, "ada@example.com signed in (oidc)" in shown.text) == (200, False)
    assert browser.get("/api/v1/session").json()["user"] == "ada@example.com"


def test_the_cookie_of_the_way_is_lax_and_of_the_session_strict(site):
    browser = site.client()
    there = browser.get("/sign-in/provider").headers["set-cookie"].lower()
    back = come_back(browser, "ada").headers.get_list("set-cookie")

    assert {"samesite=lax", "httponly"} <= {one.strip() for one in there.split(";")}
    session = next(one for one in back if one.startswith(f"{COOKIE}=")).lower()
    assert {"samesite=strict", "httponly"} <= {one.strip() for one in session.split(";")}


def test_a_person_without_a_role_gets_no_session_and_is_told_why(site):
    browser = site.client()

    page = come_back(browser, "eve")

    assert page.status_code == 403
    assert "eve@example.com has no role here" in page.text
    assert COOKIE not in browser.cookies


def test_the_answer_of_a_provider_signs_no_other_browser_in(site):
    sent = site.client().get("/sign-in/provider")
    back = urlsplit(httpx.post(sent.headers["location"], data={"sub": "ada"}).headers["location"])
    other = site.client()
    other.get("/sign-in/provider")

    page = other.get(f"{back.path}?{back.query}")

    assert page.status_code == 401
    assert "another sign-in" in page.text
    assert COOKIE not in other.cookies


@pytest.mark.parametrize("wanted", ["//evil.example", "https://evil.example/"])
def test_open_redirect_coming_back_leads_to_this_site_alone(site, wanted):
    page = come_back(site.client(), "ada", wanted)

    assert 'content="0; url=/"' in page.text
    assert "evil.example" not in page.text


def test_the_page_of_signing_in_offers_the_provider_by_its_name(site):
    page = site.client().get("/sign-in?next=/history").text

    assert "Sign in at localhost" in page
    assert 'href="/sign-in/provider?next=/history"' in page
