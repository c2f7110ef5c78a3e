"""What the process that serves on a device loads: the wheel has its rooms, and it stays small."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]
ANSWER = """
import json, sys
sys.modules.update({"_hashlib": None, "_ssl": None})
sys.path.insert(0, sys.argv[1])
from bascule.edge.agent import Agent
from bascule.edge.device import Device, Opened
from bascule.edge.serving import HttpServer
from bascule.edge.messages import MqttBridge
from bascule.edge.fetching import Repository
device = Device(sys.argv[2])
body, _ = device.answer(open(sys.argv[3], "rb").read())
assert b'"outputs"' in body
print(json.dumps(sorted(sys.modules)))
"""
HEAVY = {
    "asyncio", "cryptography", "tarfile", "http.server", "httpx", "logging", "pyarrow",
    "tuf", "urllib3",
}  # fmt: skip


def test_the_process_that_serves_imports_the_rooms_of_its_wheel_and_nothing_heavy(
    settled_home, versions
):
    example = versions[0] / "data/example.json"
    command = [sys.executable, "-I", "-c", ANSWER, ROOT / "src", settled_home, example]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    modules = set(json.loads(done.stdout))
    rooms = {".".join(name.split(".")[:2]) for name in modules if name.startswith("bascule.")}

    project = tomllib.loads((ROOT / "packages/edge/pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"].values()
    assert rooms <= {place.removesuffix(".py").replace("/", ".") for place in included}
    assert not HEAVY & modules


def test_the_distribution_requires_what_the_extra_of_the_whole_one_does():
    edge = tomllib.loads((ROOT / "packages/edge/pyproject.toml").read_text())["project"]
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {*edge["dependencies"], *edge["optional-dependencies"]["mqtt"]}
    assert set(whole["optional-dependencies"]["edge"]) <= required
    assert required <= {*whole["optional-dependencies"]["edge"], *whole["dependencies"]}
