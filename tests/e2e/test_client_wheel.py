"""The wheel of the client, in an environment that has numpy and nothing else, asks a server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bascule
from bascule.core.version import VERSION

ROOT = Path(__file__).parents[2]

ASK = """
import importlib.metadata, json, sys
import numpy as np
from bascule_client import Client, Invalid

with Client(sys.argv[1], model="gb") as client:
    answer = client.predict(np.load(sys.argv[2]))
    try:
        client.predict(np.zeros((1, 3)))
    except Invalid as error:
        told = str(error)
installed = sorted(one.name for one in importlib.metadata.distributions())
print(json.dumps({"answer": np.asarray(answer).tolist(), "told": told, "installed": installed}))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of an environment with the client's wheel."""
    folder = tmp_path_factory.mktemp("client")
    quiet = ["-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, *quiet, "wheel", "--no-deps", "-w", folder, ROOT / "packages" / "client"],
        check=True, timeout=300,
    )  # fmt: skip
    (wheel,) = folder.glob(f"bascule_client-{VERSION}-*.whl")
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True, timeout=120)
    python = folder / "env" / "bin" / "python"
    subprocess.run([python, *quiet, "install", wheel], check=True, timeout=300)
    return python


@pytest.mark.slow
def test_the_wheel_alone_gets_the_bits_of_the_bundle(python, serve, cancer_bundle, tmp_path):
    rows = np.random.default_rng(0).normal(size=(20, 30))
    np.save(tmp_path / "rows.npy", rows)
    server = serve(cancer_bundle)

    done = subprocess.run(
        [python, "-c", ASK, f"http://127.0.0.1:{server.port}", tmp_path / "rows.npy"],
        capture_output=True, text=True, check=True, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    found = json.loads(done.stdout)

    assert found["answer"] == np.asarray(bascule.load(cancer_bundle).predict(rows)).tolist()
    assert "the model takes [rows, 30]" in found["told"]
    assert set(found["installed"]) - {"pip", "setuptools"} == {"bascule-client", "numpy"}
