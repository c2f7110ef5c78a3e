"""Buckets whose listings never end: empty pages, folders without end, pages that never come."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bascule.core.errors import TooLarge, Unavailable
from bascule.places import listing
from bascule.registry.stores.s3 import open_objects
from bascule.remotes import fetch

XML = """<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{items}
<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>
</ListBucketResult>"""
ITEM = (
    "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
    "<ETag>e</ETag><Size>{size}</Size></Contents>"
)


class Endless(BaseHTTPRequestHandler):
    pages = 0
    kind = "empty"

    def do_GET(self):
        cls = type(self)
        cls.pages += 1
        if self.kind == "silent":
            time.sleep(30)
            return
        names = []
        if self.kind == "folders":
            names = [f"m/f{cls.pages}-{i}/" for i in range(1000)]
        if self.path.startswith("/storage"):
            items = [{"name": name, "size": "0", "generation": "1"} for name in names]
            body = json.dumps({"items": items, "nextPageToken": str(cls.pages)}).encode()
        else:
            items = "".join(ITEM.format(key=name, size=0) for name in names)
            body = XML.format(items=items, token=cls.pages).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(params=["gs", "s3"])
def endless(request, monkeypatch):
    """`endless(kind)`: the address of a bucket of that kind, on a server of our own."""
    monkeypatch.setattr(listing, "_ALLOWED_S", 1.0)
    handler = type("Handler", (Endless,), {"pages": 0})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    for name, value in {
        "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "x", "STORAGE_EMULATOR_HOST": url,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)

    def place(kind):
        handler.kind = kind
        return f"{request.param}://bucket-of-a-stranger/m"

    yield place
    server.shutdown()
    server.server_close()


def test_pages_without_objects_are_given_up(endless, tmp_path):
    started = time.monotonic()
    with pytest.raises(Unavailable, match=r"listing of .* does not end: 0 objects in 1 s"):
        fetch(endless("empty"), tmp_path / "bundle")
    assert time.monotonic() - started < 5


def test_folders_without_end_are_given_up(endless, tmp_path):
    with pytest.raises(TooLarge, match="more than 20,002 objects, which is no bundle"):
        fetch(endless("folders"), tmp_path / "bundle")


@pytest.mark.parametrize("endless", ["s3"], indirect=True)
def test_a_page_that_never_comes_is_given_up(endless, tmp_path):
    started = time.monotonic()
    with pytest.raises(Unavailable, match="does not end"):
        fetch(endless("silent"), tmp_path / "bundle")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("endless", ["s3"], indirect=True)
def test_the_objects_of_a_registry_are_listed_to_an_end(endless, tmp_path, monkeypatch):
    endless("empty")
    objects = open_objects("s3://bucket-of-a-stranger/m", tmp_path)
    with pytest.raises(Unavailable, match="does not end"):
        objects.digests()
    endless("folders")
    monkeypatch.setattr(listing, "MAX_LISTED", 5_000)
    with pytest.raises(TooLarge, match="more than 5,000 objects"):
        objects.digests()
