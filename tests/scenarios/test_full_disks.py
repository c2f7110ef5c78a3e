"""File systems without a block left: at the start of a server, and while it answers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
from tests.pace import until_soon
from tests.tiers import first_of


@pytest.fixture
def apart(tmp_path):
    """`apart(mounts, words...)`: a command that sees small file systems, full ones where asked."""
    running = []

    def run(mounts, *words, env=None, **more):
        script = ""
        for place, size in mounts.items():
            Path(place).mkdir(exist_ok=True)
            script += f"mount -t tmpfs -o size={size} none {place} && "
        process = subprocess.Popen(
            ["unshare", "--mount", "--map-root-user", "sh", "-c", script + 'exec "$@"', "sh",
             sys.executable, "-m", "bascule.cli", *map(str, words)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "BASCULE_HOME": str(tmp_path / "home"), **(env or {})}, **more,
        )  # fmt: skip
        running.append(process)
        return process

    yield run
    for process in running:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


@pytest.fixture
def on_disk():
    """A folder outside /dev/shm, where `tmp_path` may be: a test mounts another one over it."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        yield Path(folder)


def fill(folder):
    with suppress(OSError), (Path(folder) / "fill").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 512)


def announced(process):
    text = ""
    for line in process.stdout:
        text += line
        if line == "}\n":
            return json.loads(text)
    raise AssertionError(process.stderr.read())


def bascule(home, *words, beside=None):
    """Run a command; `beside` a process, where file systems are as that sees them."""
    within = []
    if beside is not None:
        within = [
            "nsenter",
            f"--target={beside.pid}",
            "--user",
            "--mount",
            "--preserve-credentials",
        ]
    return subprocess.run(
        [*within, sys.executable, "-m", "bascule.cli", *words, "--json"],
        env={**os.environ, "BASCULE_HOME": str(home), "BASCULE_SECURITY__CALLERS": "keys"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


PORTS = ("--port=0", "--control-port=0", "--json")


@pytest.mark.slow
def test_a_full_dev_shm_kills_no_worker_and_keeps_no_key_alive(
    apart, connect, cancer_bundle, on_disk
):
    """What was mapped there ended the process with SIGBUS at the first write to a new page."""
    home = on_disk / "home"
    bundle = shutil.copytree(cancer_bundle, on_disk / "gb")
    token = json.loads(bascule(home, "keys", "create", "a", "--allow", "infer:*").stdout)["token"]
    server = apart(
        {"/dev/shm": "16k"}, "serve", bundle, "--workers=2", *PORTS,
        env={"BASCULE_SECURITY__CALLERS": "keys", "BASCULE_HOME": str(home)},
    )  # fmt: skip
    port = int(announced(server)["predictions"].rsplit(":", 1)[1])
    fill(f"/proc/{server.pid}/root/dev/shm")
    body = (cancer_bundle / "data/example.json").read_bytes()

    def answers():
        found = set()
        for _ in range(6):
            with connect(port) as client:
                header = f"Authorization: Bearer {token}\r\n"
                client.request("POST", "/v2/models/gb/infer", body, header)
                found.add(client.answer().status)
        return found

    workers = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()
    assert answers() == {200}
    assert bascule(home, "keys", "revoke", "a").returncode == 0
    until_soon(lambda: answers() == {401}, 1.0)
    assert Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text() == workers


@pytest.mark.slow
def test_a_full_home_is_said_by_who_revokes(apart, cancer_bundle, tmp_path):
    home = tmp_path / "home"
    server = apart(
        {home: "1m"}, "serve", cancer_bundle, *PORTS, env={"BASCULE_SECURITY__CALLERS": "keys"}
    )
    announced(server)
    made = bascule(home, "keys", "create", "a", "--allow", "infer:*", beside=server)
    assert made.returncode == 0
    fill(f"/proc/{server.pid}/root{home}")
    ended = bascule(home, "keys", "revoke", "a", beside=server)
    assert ended.returncode == 6, ended.stderr
    said = json.loads(ended.stdout)
    assert said["error"].endswith("its disk is full")
    assert said["hint"] == "free some space, then try again"
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("unbuffered", first_of(["", "1"]))
@pytest.mark.parametrize("command", ["serve", "--version"])
def test_output_that_cannot_be_written_is_said_in_one_sentence(cancer_bundle, command, unbuffered):
    words = [command, str(cancer_bundle), *PORTS[:2]] if command == "serve" else [command]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "bascule.cli", *words],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    assert ended.returncode == 6
    assert "Traceback" not in ended.stderr
    assert "there is no space left" in ended.stderr


@pytest.mark.slow
def test_a_log_that_cannot_be_written_ends_no_server(serve, connect, cancer_bundle):
    with Path("/dev/full").open("w") as full:
        server = serve(cancer_bundle, errors=full, env={"BASCULE_SERVING__ACCESS_LOG": "true"})
        body = (cancer_bundle / "data/example.json").read_bytes()
        for _ in range(3):
            with connect(server.port) as client:
                client.request("POST", "/v2/models/gb/infer", body)
                assert client.answer().status == 200
            time.sleep(0.2)
        assert server.end() == 0


def test_a_full_disk_refuses_outcomes_whole_and_takes_them_when_there_is_room(
    apart, connect, cancer_bundle, tmp_path
):
    home = tmp_path / "home"
    server = apart(
        {home: "1m"},
        "serve",
        cancer_bundle,
        "--port=0",
        "--control-port=0",
        "--workers=1",
        "--json",
    )
    port = int(announced(server)["predictions"].rpartition(":")[2])
    seen = Path(f"/proc/{server.pid}/root{home}")

    def post(number):
        body = {"outcomes": [{"id": f"{number}-{n}", "truth": "t" * 1000} for n in range(20)]}
        with connect(port) as client:
            return client.request("POST", "/v2/models/gb/outcomes", body).answer()

    assert post("before").status == 200
    fill(seen)
    refused = post("full")
    assert (refused.status, "outcomes of gb cannot be written" in refused.json["error"]) == (
        503,
        True,
    )
    body = json.loads((cancer_bundle / "data/example.json").read_text())
    with connect(port) as client:
        assert client.request("POST", "/v2/models/gb/infer", body).answer().status == 200
    (seen / "fill").unlink()
    assert post("after").status == 200
    lines = [
        json.loads(line)["id"]
        for file in seen.glob("outcomes/gb/*.jsonl")
        for line in file.read_text().splitlines()
    ]
    assert {one.partition("-")[0] for one in lines} == {"before", "after"}
    assert len(lines) == 40
