"""Where models come from, for tests of lineage: a real MLflow server, a real DVC with its remote.

The server is MLflow's own, on a free port of the loopback address, with its runs in SQLite. DVC
lives in an environment of its own under `build/`, made once from `tests/environments/dvc.txt`.
Neither may phone home.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.stores import free_ports

START_S = 90.0
ROOT = Path(__file__).parents[1]
LOCK = Path(__file__).parent / "environments" / "dvc.txt"
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # half a gigabyte rather than two
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of a running MLflow tracking server and registry."""
    folder = tmp_path_factory.mktemp("mlflow")
    (port,) = free_ports(1)
    uri = f"http://127.0.0.1:{port}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1",
                "--port", str(port), "--workers", "1",
                "--backend-store-uri", f"sqlite:///{folder}/runs.db",
                "--artifacts-destination", str(folder / "artifacts"),
            ],
            env={**os.environ, **QUIET}, stdout=log, stderr=log, cwd=folder,
            start_new_session=True,
        )  # fmt: skip
        try:
            until = time.monotonic() + START_S
            while not _is_healthy(uri):
                assert process.poll() is None, (folder / "log").read_text()[-3_000:]
                assert time.monotonic() < until, (folder / "log").read_text()[-3_000:]
                time.sleep(0.1)
            yield uri
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # nothing of it is kept
            process.wait(10)


def _is_healthy(uri: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"{uri}/health", timeout=5) as answer:
        return bool(answer.status == 200)
    return False


def environment_of(lock: Path) -> Path:
    """An environment of a lock whose packages are not all wheels, made when it is not there yet."""
    key = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:16]
    place = ROOT / "build" / "environments" / f"{lock.stem}-{key}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not (place / "complete").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
            subprocess.run(
                [
                    place / "bin" / "python", "-m", "pip", "install", "--quiet",
                    "--disable-pip-version-check", "--no-compile", "--no-deps", "-r", lock,
                ],
                check=True,
            )  # fmt: skip
            (place / "complete").touch()
    return place


def dvc_command() -> Path:
    """DVC's command."""
    return environment_of(LOCK) / "bin" / "dvc"


@pytest.fixture(scope="session")
def dvc_program() -> Path:
    return dvc_command()


Call = Callable[..., str]
"""`dvc("add", "data.csv")` in the working folder; `program="git"` for git."""


def _calls(program: Path, work: Path) -> Call:
    environment = {
        **os.environ,
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(work.parent / "site"),
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
    }

    def call(*words: str, program: str | Path = program) -> str:
        done = subprocess.run(
            [program, *words], cwd=work, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return call


ROWS = "a,b,y\n" + "".join(f"{i % 7},{i % 5},{i % 2}\n" for i in range(40))


@pytest.fixture(scope="session")
def dvc_made(dvc_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a repository, `work`, and its remote, `store`; made once and copied."""
    folder = tmp_path_factory.mktemp("dvc")
    work = folder / "work"
    (work / "data").mkdir(parents=True)
    call = _calls(dvc_program, work)
    call("init", "-q", program="git")
    call("init", "-q")
    (work / ".dvc" / "config").write_text(
        "[core]\n    analytics = false\n    remote = store\n"
        "['remote \"store\"']\n    url = ../../store\n"
    )
    (work / "data" / "train.csv").write_text(ROWS)
    call("add", "-q", "data/train.csv")
    call("push", "-q")
    call("add", "-A", program="git")
    who = ("-c", "user.name=ada", "-c", "user.email=ada@example.org")
    call(*who, "commit", "-qm", "data", program="git")
    return folder


@pytest.fixture
def dvc(dvc_made: Path, dvc_program: Path, tmp_path: Path) -> Call:
    """DVC in `tmp_path / "work"`: `data/train.csv` is tracked, pushed to `store`, committed."""
    shutil.copytree(dvc_made, tmp_path, dirs_exist_ok=True)
    return _calls(dvc_program, tmp_path / "work")
