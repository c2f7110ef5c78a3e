"""From a registry to a device: published, fetched as a difference, proven, tried, installed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.request
from contextlib import contextmanager, suppress
from urllib.error import HTTPError

import numpy as np
import pytest
from tests import images
from tests.devices import Edge
from tests.waiting import until

from bascule.edge import Home
from bascule.fleet import publish

pytestmark = pytest.mark.slow

IMAGE = "localhost/bascule-test/edge:local"
INSIDE = "/var/lib/bascule"
PACKAGES = images.ROOT / "packages" / "edge"


@pytest.fixture
def edge(packed, tmp_path):
    """A registry with two versions, of which the first is published; `device` is beside it."""
    from sklearn.linear_model import LogisticRegression

    edge, rows = Edge(tmp_path), np.random.default_rng(0).normal(size=(200, 4))
    edge.repository.init(edge.root_keys)
    (tmp_path / "device").mkdir(mode=0o777)
    (tmp_path / "device").chmod(0o777)  # the container's user is another
    edge.root = tmp_path / "device" / "root.json"
    edge.enroll()
    for strength in (0.1, 1.0):
        model = LogisticRegression(C=strength).fit(rows, rows.sum(axis=1) > 0)
        bundle = packed("late", model, rows)
        edge.registry.push(bundle, by="ada")
    edge.body = (bundle / "data/example.json").read_bytes()
    publish(edge.registry, edge.repository, "late/1", "stable", by="ada")
    plan = json.dumps({"look_s": 1.0, "trial_requests": 1})
    (tmp_path / "device" / "plan.json").write_text(plan)
    with edge.server.running():
        yield edge


@contextmanager
def running(edge, home, *command):
    """The agent on `home`, as the command sees it: `version()` of its answers, None before any."""
    words = [
        *command, "run", "--repository", edge.server.url, "--channel", "stable", "--home", home,
        "--plan", f"{home}/plan.json", "--listen", "127.0.0.1:0",
    ]  # fmt: skip
    process = subprocess.Popen(words, stdout=subprocess.PIPE, env=images.environment())
    try:
        address = json.loads(process.stdout.readline())["listening"]
        request = urllib.request.Request(f"http://{address}/v2/models/late/infer", edge.body)

        def version():
            with suppress(HTTPError), urllib.request.urlopen(request) as reply:
                return json.load(reply)["model_version"]

        yield version
    finally:
        process.terminate()
        assert process.wait(30) == 0
        process.stdout.close()


def test_a_version_goes_from_the_registry_to_a_device_that_answers_with_it(edge):
    home = Home(edge.folder / "device")
    with running(edge, home.path, sys.executable, "-m", "bascule.edge") as version:
        until(lambda: version() == "1")
        publish(edge.registry, edge.repository, "late/2", "stable", by="ada")
        until(lambda: version() == "2")
        assert home.read_state().current.version == "late/2"
    assert any(path.startswith("targets/deltas/") for path in edge.server.paths)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """The image of the agent, built from wheels, without an index."""
    folder = tmp_path_factory.mktemp("image")
    shutil.copy(PACKAGES / "Containerfile", folder)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "wheel"]
    lock = ["--constraint", images.ROOT / "requirements.lock"]
    images.run(*pip, *lock, "--wheel-dir", folder / "wheels", f"{PACKAGES}[mqtt]")
    images.podman(
        "build", "--quiet", "--network=none", "--build-arg=PIP_OPTIONS=--no-index",
        f"--build-arg=BASE={images.python_base()}", "--tag", IMAGE, folder,
    )  # fmt: skip
    return IMAGE


def test_the_image_of_the_agent_follows_a_channel_without_rights(edge, image):
    command = [
        images.tool("podman"), "run", "--rm", "--network=host", "--read-only", "--cap-drop=all",
        f"--volume={edge.folder}/device:{INSIDE}", image,
    ]  # fmt: skip
    with running(edge, INSIDE, *command) as version:
        until(lambda: version() == "1")
        publish(edge.registry, edge.repository, "late/2", "stable", by="ada")
        until(lambda: version() == "2")


def test_the_image_takes_150_mb_beside_its_base_at_most(image):
    layers = json.loads(images.podman("history", "--format=json", image))
    own = [layer["size"] for layer in layers if "/opt/bascule " in layer["CreatedBy"]]
    assert 100e6 < sum(own) <= 150e6
