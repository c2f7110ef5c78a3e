"""The table of pages: a line adds a page."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Page:
    """One entry.

    Attributes:
        module: In `console.pages`; it has a `router`.
        path: Where the page, or its list, is found.
        name: In the navigation; empty for a page that is reached from others.
        also: Prefixes of other paths that belong to this entry of the navigation.
    """

    module: str
    path: str
    name: str = ""
    also: tuple[str, ...] = ()

    def is_at(self, path: str) -> bool:
        """Whether a path is this page or below it."""
        if self.path == "/":
            return path == "/" or path.startswith(self.also)
        return path == self.path or path.startswith((f"{self.path}/", *self.also))


PAGES = (
    Page("overview", "/", "Overview"),
    Page("endpoint", "/endpoints", "Endpoints"),
    Page("model", "/models", "Models"),
    Page("version", "/models"),
    Page("compare", "/models"),
    Page("monitoring", "/monitoring", "Monitoring"),
    Page("batch", "/batch", "Batch", also=("/jobs",)),
    Page("jobs", "/jobs"),
    Page("training", "/training", "Training"),
    Page("ledger", "/ledger", "Ledger"),
    Page("review", "/review", "Review"),
    Page("devices", "/devices", "Devices"),
    Page("usage", "/usage", "Usage"),
    Page("try_it", "/try", "Try it", also=("/score",)),
    Page("score", "/score"),
    Page("deploy", "/deploy", "Deploy"),
    Page("history", "/history", "History"),
    Page("settings", "/settings", "Settings"),
    Page("sign_in", "/sign-in"),
    Page("changes", "/changes"),
)
