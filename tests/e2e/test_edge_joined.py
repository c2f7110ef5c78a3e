"""From a registry to a device: published, fetched as a difference, proven, tried, installed."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from contextlib import suppress
from urllib.error import HTTPError

import numpy as np
import pytest
from tests.devices import Edge
from tests.waiting import until

from bascule.edge import Home
from bascule.fleet import publish


@pytest.mark.slow
def test_a_version_goes_from_the_registry_to_a_device_that_answers_with_it(packed, tmp_path):
    from sklearn.linear_model import LogisticRegression

    rows = np.random.default_rng(0).normal(size=(200, 4))
    edge, home = Edge(tmp_path), Home(tmp_path / "device")
    edge.repository.init(edge.root_keys)
    edge.enroll()
    for strength in (0.1, 1.0):
        model = LogisticRegression(C=strength).fit(rows, rows.sum(axis=1) > 0)
        bundle = packed("late", model, rows)
        edge.registry.push(bundle, by="ada")
    publish(edge.registry, edge.repository, "late/1", "stable", by="ada")
    (tmp_path / "plan.json").write_text(json.dumps({"look_s": 1.0, "trial_requests": 1}))
    with edge.server.running():
        command = [
            sys.executable, "-m", "bascule.edge", "run", "--repository", edge.server.url,
            "--channel", "stable", "--home", home.path, "--root", edge.root,
            "--plan", tmp_path / "plan.json", "--listen", "127.0.0.1:0",
        ]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            address = json.loads(process.stdout.readline())["listening"]
            body = (bundle / "data/example.json").read_bytes()
            request = urllib.request.Request(f"http://{address}/v2/models/late/infer", body)

            def version():
                """None while nothing is installed, which is answered 503."""
                with suppress(HTTPError), urllib.request.urlopen(request) as reply:
                    return json.load(reply)["model_version"]

            until(lambda: version() == "1")
            publish(edge.registry, edge.repository, "late/2", "stable", by="ada")
            until(lambda: version() == "2")
            assert home.read_state().current.version == "late/2"
        finally:
            process.terminate()
            process.wait(30)
            process.stdout.close()
    paths = [path for path in edge.server.paths if path.startswith("targets/")]
    assert any(path.startswith("targets/deltas/") for path in paths)
