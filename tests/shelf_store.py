"""A feature store for tests: features of a table by `airport`, in the place of Feast."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bascule.bundle.disk import FEATURES
from bascule.bundle.features import Features, feast, filling
from bascule.core import DType, canonical_json, sha256_bytes

TTL_S = 3_600.0


class Shelf:
    """A store in memory: `rows` by airport, of values and of ages in seconds, by feature.

    Attributes:
        asked: The keys of each question, but for the first, which only wakes a store.
        sources: The service of each.
        open: Cleared to have a question wait.
        failure: What a question raises.
    """

    rows: dict[str, dict[str, tuple[object, float]]]
    asked: list[list[str]]
    sources: list[str]
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
            self.sources.append(features.source)
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
    """The class in the place of Feast, and fresh."""
    for module in (feast, filling):
        monkeypatch.setattr(module, "Feast", Shelf)
    Shelf.rows, Shelf.asked, Shelf.sources, Shelf.failure = rows, [], [], None
    Shelf.open.set()
    yield Shelf
    Shelf.open.set()  # a thread that waits ends


def declare(path: Path, features: Features | dict[str, object]) -> None:
    """Have a bundle say which of its inputs are looked up, as if it were packed so."""
    content = canonical_json(msgspec.to_builtins(features))
    (path / FEATURES).write_bytes(content)
    manifest = json.loads((path / "bundle.json").read_bytes())
    manifest["files"][FEATURES] = {"sha256": sha256_bytes(content), "bytes": len(content)}
    (path / "bundle.json").write_bytes(canonical_json(manifest))
