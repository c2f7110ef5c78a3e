"""The console in a real browser: every page in light and dark, on a phone and on a desk."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from tests.browsers import served, visiting
from tests.consoles import CountedServer, control, roll_out

from bascule.app import open_endpoints, open_keys, open_registry, open_rollouts, shown_settings
from bascule.bundle import load
from bascule.control import SettingsShown
from bascule.kinds import runner_of
from bascule.monitoring.alerts.sinks import Receiver
from bascule.release import check
from bascule.release.rollouts import RolloutRequest
from bascule.security import Permission, create_key
from bascule.settings import load_settings

pytestmark = pytest.mark.slow
PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
MOST_BYTES = 150_000
PATHS = {
    "overview": "/",
    "endpoints": "/endpoints",
    "rollout": "/endpoints/late",
    "aborted": "/endpoints/churn",
    "models": "/models",
    "model": "/models/late",
    "version": "/models/late/2",
    "compare": "/models/late/2/compare?with=1",
    "history": "/history",
    "settings": "/settings",
    "sign-in": "/sign-in",
    "missing": "/models/nowhere",
}
CRITERIA = ["accuracy >= 0.6", "auc >= 0.7", "log_loss <= 0.69"]
MOST_OF_FIRST_PAGE = 200_000


@pytest.fixture(scope="module")
def home(packed, tmp_path_factory):
    """Models with held-out rows; a rollout that waits for an approval, and one that aborted."""
    random = np.random.default_rng(1)
    X = random.normal(size=(2_000, 4))
    y = (X @ [1.0, -0.5, 0.25, 0.0] + random.normal(size=2_000) > 0).astype(int)
    folder = tmp_path_factory.mktemp("console")
    settings = load_settings(folder, {"BASCULE_HOME": str(folder / "home")})
    registry = open_registry(settings)
    for name in ("late", "churn"):
        for strength in (1.0, 0.01):
            made = LogisticRegression(C=strength).fit(X[:1_500], y[:1_500])
            rows = (X[:1_500], y[:1_500]), (X[1_500:], y[1_500:])
            bundle = packed(name, made, *rows)
            if name == "late":
                check(load(bundle), CRITERIA, now=datetime.now(UTC), by="ada")
            registry.push(bundle, by="ada")
        registry.set_alias(name, "champion", 1, by="ada", reason="the best so far")
        first = RolloutRequest(version=f"{name}/1", strategy="all", reason="the first")
        open_rollouts(settings).deploy(first, by="ada")
    allowed = [Permission.parse("infer:late")]
    create_key(open_keys(settings), "shop", allowed, now=datetime.now(UTC), by="ada")
    server = CountedServer(settings)
    roll_out(settings, server, "late/2", turns=20, requests=1_500, needs_approval=True)
    server.bad_every = 25
    roll_out(settings, server, "churn/2", turns=24, requests=500)
    return settings, server


@pytest.fixture(scope="module")
def address(home):
    settings, server = home
    pager = Receiver(name="pager", kind="webhook", url="http://127.0.0.1:1/", timeout_s=1.0)
    app = control(
        settings, server, jobs=runner_of(settings), open_keys=partial(open_keys, settings),
        shown=SettingsShown(shown_settings(settings), lambda: [pager]),
    )  # fmt: skip
    with served(app) as url:
        yield url


@pytest.mark.parametrize("width", ["phone", "desk"])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", PATHS)
def test_every_page_is_clean_in_light_and_dark_on_a_phone_and_on_a_desk(
    chromium, address, tmp_path, name, theme, width
):
    with visiting(chromium, theme=theme, width=width) as visit:
        page = visit.open(address + PATHS[name])
        for one in page.locator("[hx-trigger=load]").all():
            one.locator("figure, p").first.wait_for()
        if name == "missing":
            visit.problems.clear()  # Chromium writes the status 404 to its console
        visit.check()
        assert not visit.is_wider_than_screen()
        if folder := os.environ.get("BASCULE_SHOTS"):
            Path(folder).mkdir(exist_ok=True)
            page.screenshot(path=f"{folder}/{name}-{theme}-{width}.png", full_page=True)


def test_on_a_phone_the_pages_are_in_a_menu(chromium, address):
    with visiting(chromium, width="phone") as visit:
        page = visit.open(address)
        link = page.get_by_role("navigation", name="Pages").get_by_role("link", name="Models")
        assert not link.is_visible()
        page.get_by_role("button", name="Menu").click()
        visit.check()
        link.click()
        page.get_by_role("heading", name="Models", exact=True).first.wait_for()
        assert not link.is_visible()


def test_a_version_fits_two_screens_and_draws_its_plots_when_they_are_opened(chromium, address):
    with visiting(chromium) as visit:
        page = visit.open(f"{address}/models/late/2")
        assert page.evaluate("document.documentElement.scrollHeight") <= 1_800
        assert page.locator("figure").count() == 0 or not page.locator("figure").first.is_visible()
        page.get_by_text("Plots", exact=True).click()
        page.locator("details[open] figure").first.wait_for()
        visit.check()


def test_the_first_page_with_all_that_it_loads_is_small(chromium, address):
    with visiting(chromium) as visit:
        asked = []
        visit.page.on("requestfinished", lambda one: asked.append(one))
        visit.open(address)
        sizes = [one.sizes() for one in asked]
    assert len(sizes) >= 5, "the page, its styles and its scripts"
    total = sum(one["responseBodySize"] + one["responseHeadersSize"] for one in sizes)
    assert total <= MOST_OF_FIRST_PAGE


def test_a_person_finds_why_a_rollout_aborted_and_aborts_another_with_the_mouse_alone(
    chromium, home, address
):
    settings, _ = home
    with visiting(chromium) as visit:
        page = visit.open(address)
        page.get_by_role("link", name="churn").first.click()
        assert page.get_by_text("of the answers of churn/2 failed").first.is_visible()
        page.goto(address)
        page.get_by_role("link", name="Decide: late/2 waits for an approval").click()
        page.locator("summary", has_text="Abort…").click()
        sheet = page.locator("details[open]")
        sheet.get_by_label("Reason").fill("the window is closed")
        sheet.get_by_role("button", name="Abort", exact=True).click()
        page.get_by_role("status").get_by_text("the window is closed").wait_for()
        visit.check()
    assert open_rollouts(settings).get("late").state == "aborted"


def test_the_numbers_of_now_change_without_a_reload(chromium, home, address):
    _, server = home
    with visiting(chromium) as visit:
        page = visit.open(f"{address}/endpoints/churn")
        before = page.locator("#live tbody tr").first.inner_text()
        server.answer(1_000)
        page.wait_for_function(
            "before => document.querySelector('#live tbody tr').innerText !== before", arg=before
        )
        assert visit.problems == []


def test_the_choice_of_dark_is_remembered(chromium, address):
    with visiting(chromium) as visit:
        page = visit.open(address)
        light = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.get_by_role("button", name="Change between light and dark").click()
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert dark != light
        visit.open(f"{address}/models")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark


def test_a_page_is_used_with_the_keyboard_alone(chromium, address):
    with visiting(chromium) as visit:
        page = visit.open(address)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to content"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"


SHOWN = {
    "console-overview": "/",
    "console-rollout": "/endpoints/churn",
    "console-version": "/models/late/2",
    "console-compare": "/models/late/2/compare?with=1",
}


@pytest.mark.parametrize("name", SHOWN)
def test_the_pictures_of_the_docs_are_there_and_small(chromium, home, address, name):
    """`BASCULE_WRITE_PICTURES=1` makes them anew."""
    file = PICTURES / f"{name}.png"
    if os.environ.get("BASCULE_WRITE_PICTURES"):
        with visiting(chromium) as visit:
            page = visit.open(address + SHOWN[name])
            for one in page.locator("[hx-trigger=load]").all():
                one.locator("figure").first.wait_for()
            card = page.locator("section[aria-labelledby=rollout]")
            (card if "rollout" in name else page).screenshot(path=file)
    assert file.read_bytes().startswith(b"\x89PNG")
    assert file.stat().st_size <= MOST_BYTES


def test_a_page_that_is_open_follows_the_catalogue(chromium, home, address):
    settings, _ = home
    with visiting(chromium) as visit:
        page = visit.open(f"{address}/")
        page.get_by_role("heading", name="Overview").wait_for()
        open_endpoints(settings).deploy("late/1", to="newcomer", by="ada")
        page.get_by_role("link", name="newcomer").wait_for()
        assert visit.problems == []
