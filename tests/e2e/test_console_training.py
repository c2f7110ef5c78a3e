"""The pages of training in a real browser: two runs are compared, a trigger is paused."""

from __future__ import annotations

import pytest
from tests.browsers import served, visiting
from tests.consoles import CountedServer, control
from tests.unit.console.test_console_training import add_trigger, trained

from bascule.settings import load_settings

__all__ = ["trained"]  # a fixture
pytestmark = pytest.mark.slow


@pytest.fixture
def address(trained, monkeypatch):
    monkeypatch.chdir(trained)
    monkeypatch.setenv("BASCULE_HOME", str(trained / "home"))
    settings = load_settings(trained, {"BASCULE_HOME": str(trained / "home")})
    with served(control(settings, CountedServer(settings))) as url:
        yield url


@pytest.mark.usefixtures("trained")  # before the browser, whose event loop is this thread's
@pytest.mark.parametrize(("width", "theme"), [("phone", "dark"), ("desk", "light")])
def test_runs_are_compared_and_a_trigger_is_paused(chromium, address, width, theme):
    add_trigger(f"drifted-{width}")
    with visiting(chromium, theme=theme, width=width) as visit:
        page = visit.open(f"{address}/training")
        visit.check()
        for box in page.get_by_role("checkbox").all():
            box.check()
        page.get_by_role("button", name="Compare").click()
        page.get_by_text("2 runs side by side").wait_for()
        assert page.locator("figure.chart svg").count() == 1
        visit.check()
        assert not visit.is_wider_than_screen()
        page = visit.open(f"{address}/training/loops/late")
        visit.check()
        row = page.get_by_role("row").filter(has_text=f"drifted-{width}")
        row.locator("summary").click()
        row.get_by_role("button", name="Pause").click()
        page.get_by_text("The trigger is paused.").wait_for()
        assert not visit.is_wider_than_screen()
