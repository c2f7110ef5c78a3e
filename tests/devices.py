"""A published repository for tests: small bundles, a server that knows ranges, a device's home."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.unit.registry.conftest import write_bundle

from bascule.bundle.disk import write_statement
from bascule.edge import GOLDEN
from bascule.edge.channels import Channel
from bascule.edge.fetching import answer
from bascule.fleet import Keys, Published, TufRepository, key_in, publish
from bascule.places import Folder, Place, open_place
from bascule.registry import Registry, open_registry


def weights(seed: int, rows: int = 20_000) -> bytes:
    """What hardly gets smaller by itself."""
    return np.random.default_rng(seed).normal(size=rows).astype(np.float32).tobytes()


class Server:
    """Serves a place over HTTP.

    Attributes:
        paths: What was asked for.
        sent_bytes: Of targets.
        cut_after: Connections end after so many bytes of a target; None for never.
        knows_ranges: Whether it answers with a part.
        altered: Other contents, by path.
    """

    def __init__(self, place: Place) -> None:
        self.paths, self.sent_bytes, self.knows_ranges = list[str](), 0, True
        self.cut_after: int | None = None
        self.altered = dict[str, bytes | None]()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                path = self.path.lstrip("/")
                server.paths.append(path)
                content = server.altered.get(path, b"?")
                content = place.read(path) if content == b"?" else content
                if content is None:
                    self.send_error(404)
                    return
                start = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
                is_part = start is not None and server.knows_ranges
                content = content[int(start[1]) :] if start and is_part else content
                self.send_response(206 if is_part else 200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if path.startswith(("targets/bundles", "targets/deltas")):
                    content = content[: server.cut_after]
                    server.sent_bytes += len(content)
                self.wfile.write(content)

        self._handler, self.url = Handler, ""

    @contextmanager
    def running(self) -> Iterator[Server]:
        with ThreadingHTTPServer(("127.0.0.1", 0), self._handler) as http:
            self.url = f"http://127.0.0.1:{http.server_port}"
            thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
            thread.start()
            yield self
            http.shutdown()
            thread.join()


class Edge:
    """A registry, its repository, a server in front of it, and one device.

    The device fetches in this process; `tests/unit/edge/test_fetching.py` has one that starts its
    child.
    """

    def __init__(self, folder: Path, place: str = "") -> None:
        self.folder, self.now = folder, datetime.now(UTC)
        self.registry: Registry = open_registry(folder / "home")
        self.place = (
            open_place(place, "edge.repository")
            if place
            else Folder(folder / "home" / "edge" / "repository")
        )
        self.root_keys = [key_in(folder / "root.pem", create=True)]
        self.repository = self.repository_at(self.place)
        self.server = Server(self.place)
        self.root = folder / "root.json"

    def repository_at(self, place: Place) -> TufRepository:
        """The same repository, over another view of its place."""
        home = self.folder / "home" / "edge"
        return TufRepository(place, Keys(home / "keys"), home / "root.json", clock=self.clock)

    def clock(self) -> datetime:
        return self.now

    def push(self, content: bytes, name: str = "late") -> str:
        """A version whose program is `content`."""
        count = len(list(self.folder.glob("bundle-*")))
        bundle = write_bundle(self.folder / f"bundle-{count}", name, content)
        write_statement(bundle, GOLDEN, {"inputs": [], "outputs": []}, by="ada")
        return str(self.registry.push(bundle, by="ada"))

    def publish(self, version: str, channel: str = "stable") -> Published:
        return publish(self.registry, self.repository, version, channel, by="ada")

    def digest(self, version: str) -> str:
        return self.registry.resolve(version).digest

    def enroll(self) -> None:
        self.root.write_bytes(self.repository.root())

    def ask(self, **question: Any) -> Any:
        about = {"home": str(self.folder / "device"), "url": self.server.url}
        return answer({**about, "root": str(self.root), **question})

    def channel(self, name: str = "stable") -> Channel:
        reply = self.ask(do="channel", name=name)
        return msgspec.convert(reply, Channel)

    def obtain(self, version: str, have: str | None = None, budget_bytes: int | None = None) -> int:
        """Into the slot of the version, by the slot of another."""
        slots = self.folder / "device"
        slots.mkdir(exist_ok=True)
        reply = self.ask(
            do="obtain", digest=self.digest(version), into=str(slots / self.slot(version)),
            have=str(slots / self.slot(have)) if have else None, budget_bytes=budget_bytes,
        )  # fmt: skip
        return int(reply["bytes_received"])

    @property
    def downloads(self) -> list[str]:
        """What was downloaded, in order: `bundles` or `deltas`."""
        kinds = [path.split("/")[1] for path in self.server.paths if path.startswith("targets/")]
        return [kind for kind in kinds if kind in ("bundles", "deltas")]

    def slot(self, version: str) -> str:
        return version.replace("/", "-")


@pytest.fixture(name="edge")
def published_edge(tmp_path: Path) -> Iterator[Edge]:
    """A repository that is there, and a device that trusts its root."""
    made = Edge(tmp_path)
    made.repository.init(made.root_keys)
    made.enroll()
    with made.server.running():
        yield made
