"""Flower itself runs the app of `bascule edge federate`, with a SuperLink and two SuperNodes."""

from __future__ import annotations

import os
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil
import pytest
from tests.federations import averaged, device_rows, parent_bundle, task_of, write_app
from tests.own_environments import ROOT, python_of
from tests.stores import free_ports
from tests.waiting import until

import bascule

pytestmark = pytest.mark.slow  # the environment takes minutes the first time, a round a minute

WAIT_S = 900.0
CLIP, NOISE = 0.5, 0.1


def end(process: subprocess.Popen[str]) -> None:
    """End a program and the processes it has, which would otherwise look for it for minutes."""
    if process.poll() is None:
        family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.wait(60)
        for child in psutil.wait_procs(family, 5)[1]:
            child.kill()


@pytest.fixture
def flower(tmp_path):
    """Starts a program of Flower's environment; they end with the test."""
    python = python_of("flower")
    programs = tmp_path / "bin"
    programs.mkdir()
    for script in python.parent.glob("fl*"):  # which name a Python that the build had elsewhere
        (programs / script.name).write_text(f'#!/bin/sh\nexec {python} {script} "$@"\n')
        (programs / script.name).chmod(0o755)
    variables = {
        **os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src"),
        "FLWR_HOME": str(tmp_path / "flwr"), "FLWR_TELEMETRY_ENABLED": "0",
        "BASCULE_HOME": str(tmp_path / "home"),
        "BASCULE_GATES__CRITERIA": '["roc_auc >= 0.85", "epsilon <= 1000000"]',
    }  # fmt: skip
    with ExitStack() as running:

        def start(name: str, *words: str) -> subprocess.Popen[str]:
            with (tmp_path / f"{name}.log").open("a") as log:
                process = subprocess.Popen(
                    [programs / name, *words], env=variables, cwd=tmp_path, stdout=log,
                    stderr=subprocess.STDOUT, text=True,
                )  # fmt: skip
            running.callback(end, process)
            return process

        yield start


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def clipped_average(app: Path, rows: list[Path]) -> list[np.ndarray]:
    """What one round gives before its noise: the mean of updates no longer than `CLIP`."""
    updates = [averaged(app, [file], rounds=1) for file in rows]
    lengths = [np.sqrt(sum((array**2).sum() for array in update)) for update in updates]
    assert min(lengths) > CLIP
    shorter = [
        [array * CLIP / length for array in update]
        for update, length in zip(updates, lengths, strict=True)
    ]
    return [np.mean(arrays, axis=0) for arrays in zip(*shorter, strict=True)]


def test_two_supernodes_train_under_secure_aggregation_and_noise_and_leave_a_bundle(
    flower, tmp_path
):
    parent_bundle(tmp_path)
    assert write_app(tmp_path)[0] == 0
    app, rows = tmp_path / "app", device_rows(tmp_path)
    link, *nodes = free_ports(3)
    address = f"127.0.0.1:{link}"
    (tmp_path / "flwr").mkdir()
    (tmp_path / "flwr/config.toml").write_text(
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "{address}"\ninsecure = true\n'
    )

    flower(
        "flower-superlink", "--insecure", "--disable-runtime-dependency-installation",
        "--port", str(link),
    )  # fmt: skip
    until(lambda: is_open(link), WAIT_S)
    for file, port in zip(rows, nodes, strict=True):
        flower(
            "flower-supernode", "--insecure", "--superlink", address,
            "--node-config", f'rows="{file}"', "--port", str(port),
        )  # fmt: skip
    options = f"rounds=1 secure-aggregation=true noise-multiplier={NOISE} clipping-norm={CLIP}"
    flower("flwr", "run", str(app), "--run-config", options, "--stream").wait(WAIT_S)

    assert "passed" in (tmp_path / "flwr.log").read_text()
    bundle = bascule.load(tmp_path / "app.bundle")
    assert bundle.statements("gates")[-1].body["passed"]
    (provenance,) = bundle.statements("provenance")
    assert provenance.body["federated"]["secure-aggregation"]
    assert provenance.body["federated"]["completed"] == 1
    (claim,) = bundle.statements("privacy")
    assert claim.body["phases"] == [[NOISE, 1.0, 1]]
    task = task_of(app)
    with np.load(app / "federated.npz") as arrays:
        slopes = arrays["slopes"] * task.SCALES
        biases = arrays["biases"] + arrays["slopes"] @ task.CENTRES
    expected = clipped_average(app, rows)
    noise = np.concatenate([(slopes - expected[0]).ravel(), biases - expected[1]])
    deviation = NOISE * CLIP / len(rows)
    assert 0.2 < np.sqrt((noise**2).mean()) / deviation < 2.5
