"""A replica of Ray Serve, without Ray: it answers as a worker does, and takes no other bundle."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from starlette.requests import Request

from bascule.app import open_registry
from bascule.bundle import load
from bascule.core import NotFound, Untrusted
from bascule.ray import Replica
from bascule.settings import load_settings


@pytest.fixture
def version(tmp_path, monkeypatch, cancer_bundle):
    """`gb/1` of the registry that the settings name."""
    monkeypatch.setenv("BASCULE_HOME", str(tmp_path / "home"))
    return open_registry(load_settings()).push(cancer_bundle, by="ada")


def asked(version, method, path, body=b"", *, below="", digest=""):
    """Status and JSON of an answer of a replica whose application has the prefix `below`."""

    async def receive():
        return {"type": "http.request", "body": body}

    async def ask():
        replica = Replica("gb/1", digest or version.digest)
        scope = {
            "type": "http", "method": method, "path": below + path, "root_path": below,
            "headers": [(b"x-request-id", b"mine")],
        }  # fmt: skip
        return await replica(Request(scope, receive))

    answer = asyncio.run(ask())
    assert answer.headers["content-type"] == "application/json"
    return answer.status_code, json.loads(answer.body)


def test_a_prediction_has_the_bits_of_the_bundle_also_below_a_prefix(version, cancer_bundle):
    body = (cancer_bundle / "data" / "example.json").read_bytes()
    (tensor,) = json.loads(body)["inputs"]
    expected = load(cancer_bundle).predict(np.array(tensor["data"]).reshape(tensor["shape"]))
    for below in ("", "/gb-v1"):
        status, said = asked(version, "POST", "/v2/models/gb/infer", body, below=below)
        assert (status, said["model_version"], said["id"]) == (200, "1", "mine")
        for output in said["outputs"]:
            assert output["data"] == expected[output["name"]].ravel().tolist()


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v2/health/ready", b"", 200),
        ("POST", "/v2/models/gb/infer", b"{", 400),
        ("GET", "/v2/models/nobody", b"", 404),
        ("DELETE", "/v2/models/gb", b"", 405),
    ],
)
def test_health_and_errors_are_answered(version, method, path, body, status):
    found, said = asked(version, method, path, body)
    assert (found, "error" in said) == (status, status != 200)


def test_a_bundle_with_another_digest_is_refused(version):
    with pytest.raises(Untrusted, match="the application names sha256:000"):
        asked(version, "GET", "/v2", digest="sha256:" + "0" * 64)
    with pytest.raises(NotFound):
        Replica("gb/2", version.digest)
