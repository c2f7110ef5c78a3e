"""The wheel of a device, in an environment that has nothing else, follows a repository."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from tests.edge_devices import Publisher
from tests.waiting import until

from bascule.core.version import VERSION
from bascule.edge import device_statements, lay_statements

ROOT = Path(__file__).parents[2]
RUN = """
import sys
sys.modules.update({"_hashlib": None, "_ssl": None})  # as `bascule-edge run` does, first of all
from edge_devices import FolderRepository
from bascule.edge.__main__ import main
sys.exit(main(repository=FolderRepository))
"""
PIP_ALONE = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence")


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of an environment with the wheel."""
    folder = tmp_path_factory.mktemp("edge")
    quiet = ["-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, *quiet, "wheel", "--no-deps", "-w", folder, ROOT / "packages" / "edge"],
        check=True, timeout=300,
    )  # fmt: skip
    (wheel,) = folder.glob(f"bascule_edge-{VERSION}-*.whl")
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True, timeout=120)
    python = folder / "env" / "bin" / "python"
    lock = ["--no-compile", "--constraint", ROOT / "requirements.lock"]
    subprocess.run([python, *quiet, "install", *lock, f"{wheel}[mqtt]"], check=True, timeout=600)
    return python


def megabytes_of(folder, left_out=()):
    """On the disk, without files whose first folder begins with one of these."""
    size = 0
    for file in folder.rglob("*"):
        first = file.relative_to(folder).parts[0]
        if file.is_file() and not first.startswith(left_out):
            size += file.lstat().st_blocks * 512
    return size / 1e6


@pytest.mark.slow
def test_passports_are_an_extra_of_the_wheel(python, tmp_path):
    command = [python, "-m", "bascule.edge", "run", "--repository", "http://localhost"]
    command += ["--channel", "stable", "--home", tmp_path, "--require", "parity"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, "bascule-edge[signatures]" in done.stderr) == (1, True), done.stderr


@pytest.mark.slow
@pytest.mark.serial
def test_the_wheel_alone_serves_in_60_mb_a_second_after_its_start(python, packed, tmp_path):
    from sklearn.linear_model import LogisticRegression

    packages = next((python.parents[1] / "lib").glob("python*/site-packages"))
    assert megabytes_of(packages, PIP_ALONE) <= 150
    draw = np.random.default_rng(0).normal(size=(200, 4))
    path = packed("late", LogisticRegression().fit(draw, draw.sum(axis=1) > 0), draw)
    lay_statements(path, device_statements(path, by="test"))
    (tmp_path / "repository").mkdir()
    Publisher(tmp_path / "repository").publish(path, "late/1")
    (tmp_path / "run.py").write_text(RUN)
    (tmp_path / "edge_devices.py").write_text((ROOT / "tests/edge_devices.py").read_text())
    command = [
        python, tmp_path / "run.py", "run", "--repository", tmp_path / "repository",
        "--channel", "stable", "--home", tmp_path / "home", "--listen", "127.0.0.1:0",
    ]  # fmt: skip
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    took_s = []
    for _ in range(3):
        started_s = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=env)
        address = json.loads(process.stdout.readline())["listening"]
        infer = f"http://{address}/v2/models/late/infer"
        body = (path / "data/example.json").read_bytes()

        def answered(infer=infer, body=body):
            try:
                return urllib.request.urlopen(urllib.request.Request(infer, body)).read()
            except urllib.error.HTTPError as refused:
                return None if refused.code == 503 else refused  # nothing is installed yet

        until(answered)
        took_s.append(time.monotonic() - started_s)
        for _ in range(200):
            assert b"outputs" in answered()
        status = Path(f"/proc/{process.pid}/status").read_text()
        process.terminate()
        assert process.wait(30) == 0
        process.stdout.close()
    resident_mib = int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024
    assert resident_mib <= 61
    assert min(took_s) <= 1.5
