"""A real browser for tests of pages: Debian's Chromium, driven by Playwright, with axe.

A page that writes an error to its console, or asks for anything off loopback, fails its test.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
WIDTHS = {"phone": (360, 740), "desk": (1440, 900)}
WAIT_MS = 30_000


@contextmanager
def served(app: Any) -> Iterator[str]:
    """The address at which an application is served on a thread."""
    import uvicorn

    from bascule.serving.workers import bind

    listener = bind("127.0.0.1", 0, 1)[0]
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The browser."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    assert path, "apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


@dataclass
class Visit:
    """One tab, and what went wrong in it."""

    page: Any
    problems: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def open(self, address: str) -> Any:
        """Open a page, and wait until nothing loads."""
        self.page.goto(address, wait_until="networkidle", timeout=WAIT_MS)
        return self.page

    def check(self) -> None:
        """Fail for an error in the console, a request off loopback, or what axe finds."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page)
        assert not found.violations_count, found.generate_report()
        assert self.problems == []
        assert self.elsewhere == []

    def is_wider_than_screen(self) -> bool:
        """Whether the page, or its navigation, scrolls sideways."""
        wider = "document.documentElement.scrollWidth > window.innerWidth + 1"
        nav = "[...document.querySelectorAll('nav.main')]"
        return bool(
            self.page.evaluate(f"{wider} || {nav}.some(n => n.scrollWidth > n.clientWidth + 1)")
        )


@contextmanager
def visiting(browser: Any, *, theme: str = "light", width: str = "desk") -> Iterator[Visit]:
    """A tab in a colour scheme and size."""
    wide, high = WIDTHS[width]
    context = browser.new_context(
        color_scheme=theme, viewport={"width": wide, "height": high}, reduced_motion="reduce"
    )
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    visit = Visit(page)
    page.on("pageerror", lambda error: visit.problems.append(str(error)))
    page.on(
        "console", lambda said: visit.problems.append(said.text) if said.type == "error" else None
    )
    page.on(
        "request",
        lambda asked: (
            None
            if urlsplit(asked.url).hostname in ("127.0.0.1", "localhost", None)
            else visit.elsewhere.append(asked.url)
        ),
    )
    try:
        yield visit
    finally:
        context.close()
