"""Signing in to the console at a certified OpenID Connect provider, in a real browser."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.browsers import served, visiting
from tests.own_environments import modules_of
from tests.unit.control.signed_in import site_of

from bascule.app import open_catalogue, open_registry
from bascule.console import add_console
from bascule.control import Provider, ProviderConfig
from bascule.settings import load_settings

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[1] / "oidc_provider.mjs"


@pytest.fixture(scope="module")
def issuer():
    """The address of npm's oidc-provider, which has its own pages to sign in and to consent."""
    with subprocess.Popen(
        ["node", str(SCRIPT)], cwd=modules_of("oidc_provider"), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        yield f"http://localhost:{int(process.stdout.readline())}"
        process.kill()


@pytest.fixture(scope="module")
def address(issuer, tmp_path_factory):
    settings = load_settings(environ={"BASCULE_HOME": str(tmp_path_factory.mktemp("home"))})
    folder = tmp_path_factory.mktemp("site")
    site = site_of(folder, open_registry(settings), open_catalogue(settings))
    config = ProviderConfig(issuer, "bascule", "a secret of the tests, long enough")
    add_console(site.app, provider=Provider(config))
    with served(site.app) as url:
        yield url


def sign_in(page, user):
    """From the console's page to the provider, and through its two pages."""
    page.get_by_role("link", name="Sign in at localhost").click()
    page.get_by_placeholder("Enter any login").fill(user)
    page.get_by_placeholder("and password").fill("any")
    page.get_by_role("button", name="Sign-in").click()
    page.get_by_role("button", name="Continue").click()


def test_a_person_signs_in_at_the_provider_and_comes_back_to_the_page_that_was_wanted(
    chromium, address
):
    with visiting(chromium) as visit:
        page = visit.open(f"{address}/history?by=ada")
        sign_in(page, "ada@example.com")
        page.wait_for_url(f"{address}/history?by=ada")
        assert page.locator(".tools .who").inner_text() == "ada@example.com"
        visit.problems.clear()  # the provider's pages ask for a font and an icon
        visit.elsewhere.clear()
        visit.open(f"{address}/")
        visit.check()
        page.get_by_role("button", name="Sign out").click()
        page.get_by_text("You are signed out.").wait_for()
        visit.open(f"{address}/history")
        assert page.get_by_role("heading", name="Sign in", exact=True).is_visible()


def test_a_person_whom_the_provider_gives_no_role_is_told_who_gives_one(chromium, address):
    with visiting(chromium) as visit:
        page = visit.open(f"{address}/sign-in")
        sign_in(page, "eve@example.com")
        page.get_by_text("eve@example.com has no role here").wait_for()
        assert "an administrator gives one" in page.inner_text("main")


def test_a_person_who_turns_back_at_the_provider_can_begin_again(chromium, address):
    with visiting(chromium) as visit:
        page = visit.open(f"{address}/sign-in")
        page.get_by_role("link", name="Sign in at localhost").click()
        page.get_by_role("link", name="Cancel").click()
        page.get_by_text("the provider says access_denied").wait_for()
        sign_in(page, "ada@example.com")
        page.locator(".tools").get_by_text("ada@example.com").wait_for()
