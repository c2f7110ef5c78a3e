"""A feature store for tests: features of a table by `airport`. One file, and a line for it."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

from bascule.bundle.features import STORES, Features
from bascule.core import DType

SCHEME, PLACE = "shelf", "tests.shelf_store:Shelf"
TTL_S = 3_600.0


class Shelf:
    """A store in memory: `rows` by airport, of values and of ages in seconds, by feature.

    Attributes:
        asked: The keys of each question, but for the first, which only wakes a store.
        open: Cleared to have a question wait.
        failure: What a question raises.
    """

    rows: dict[str, dict[str, tuple[object, float]]]
    asked: list[list[str]]
    open = threading.Event()
    failure: Exception | None

    def __init__(self, place: str) -> None:
        self.place = place

    def describe(self, source: str) -> Features:
        max_age_s = {"wind": TTL_S, "gust": TTL_S, "month": 0.0, "carrier": 0.0}
        return Features(source=source, keys={"airport": DType.BYTES}, max_age_s=max_age_s)

    def read(self, features, keys):
        (airports,) = keys.values()
        if list(airports) != [""]:
            self.asked.append(list(airports))
            self.open.wait(60)
            if self.failure is not None:
                raise self.failure
        now_s = time.time()
        found = [[self.rows.get(one, {}).get(name, (None, now_s)) for one in airports]
                 for name in features.max_age_s]  # fmt: skip
        return {
            name: ([value for value, _ in of], [now_s - age_s for _, age_s in of])
            for name, of in zip(features.max_age_s, found, strict=True)
        }


@contextmanager
def shelves(monkeypatch, rows):
    """The class, as a line of the table, and fresh."""
    monkeypatch.setitem(STORES, SCHEME, PLACE)
    Shelf.rows, Shelf.asked, Shelf.failure = rows, [], None
    Shelf.open.set()
    yield Shelf
    Shelf.open.set()  # a thread that waits ends
