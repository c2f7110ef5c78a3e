"""Images made here, of Debian's packages and a folder of wheels: no registry of images is asked.

A tool that is missing fails the test and is named. Images and wheels stay for the next run: the
images of Debian by what is in them, the wheels under `build/`.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.utils import parse_wheel_filename
from tests.stores import free_ports

ROOT = Path(__file__).parent.parent
WAIT_S = 120.0
SUITES = {"3.11": "bookworm", "3.13": "trixie"}
"""The release of Debian with each Python."""
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_CONTAINERS = """[containers]
default_ulimits = ["nofile=4096:4096","nproc=8192:8192"]
[engine]
runtime = "runc"
"""


def tool(name: str) -> str:
    found = shutil.which(
        name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    assert found, f"{name} is missing: sh tests/install_parts.sh"
    return found


def environment() -> dict[str, str]:
    """That of commands which make and run containers; runc runs where crun does not."""
    given = {"PODMAN_IGNORE_CGROUPSV1_WARNING": "1", "BUILDAH_FORMAT": "oci"}
    if "CONTAINERS_CONF" not in os.environ:
        conf = Path(tempfile.gettempdir()) / f"containers-{os.getuid()}.conf"
        conf.write_text(_CONTAINERS)
        given["CONTAINERS_CONF"] = str(conf)
    return {**os.environ, **given}


def run(*words: Any, check: bool = True, **options: Any) -> str:
    """The output of a command; a failure has its errors."""
    options = {"env": environment(), **options}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    ended = subprocess.run([*map(str, words)], text=True, **options)
    assert not check or ended.returncode == 0, f"{words}: {ended.stdout}{ended.stderr}"
    return ended.stdout


def podman(*words: Any, **options: Any) -> str:
    return run(tool("podman"), *words, **options)


def debian(name: str, packages: str, *, suite: str) -> str:
    """An image of Debian's packages."""
    content = hashlib.sha256(f"{suite} {packages}".encode()).hexdigest()[:12]
    image = f"localhost/bascule-test/{name}:{content}"
    if image in podman("images", "--format", "{{.Repository}}:{{.Tag}}").split():
        return image
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root.tar"
        run(
            tool("mmdebstrap"), "--quiet", "--variant=minbase", f"--include={packages}", suite,
            root, "http://deb.debian.org/debian",
        )  # fmt: skip
        podman("import", root, image)
    return image


def derived(name: str, base: str, lines: str, **files: Path) -> str:
    """An image with more lines of a Dockerfile, and files for its COPY."""
    image = f"localhost/bascule-test/{name}:local"
    with tempfile.TemporaryDirectory() as folder:
        for path, source in files.items():
            shutil.copy(source, Path(folder) / path)
        (Path(folder) / "Dockerfile").write_text(f"FROM {base}\n{lines}\n")
        podman("build", "--quiet", "--layers=false", "--tag", image, folder)
    return image


def python_base() -> str:
    """An image with this Python, pip and `strip`."""
    assert PYTHON in SUITES, f"no release of Debian has Python {PYTHON}"
    packages = "python3,python3-pip,ca-certificates,binutils,tzdata"
    return debian("python", packages, suite=SUITES[PYTHON])


def wheelhouse(requirements: str) -> Path:
    """A folder with the wheels of exact requirements; that of the project is built anew."""
    folder = ROOT / "build" / "wheels"
    folder.mkdir(parents=True, exist_ok=True)
    others = [line for line in requirements.split() if not line.startswith("bascule==")]
    there = {"==".join(map(str, parse_wheel_filename(one.name)[:2])) for one in folder.iterdir()}
    for old in folder.glob("bascule-*.whl"):
        old.unlink()
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT, env=os.environ)
    missing = [one for one in others if one not in there]
    if missing:
        run(
            *pip, "download", "--no-deps", "--only-binary=:all:", "--dest", folder, *missing,
            env=os.environ,
        )  # fmt: skip
    return folder


@dataclass(frozen=True)
class Container:
    """A running container."""

    name: str
    port: int
    started_s: float

    def logs(self) -> str:
        return podman("logs", self.name, check=False, stderr=subprocess.STDOUT)

    def is_ended(self) -> bool:
        said = podman("inspect", "--format={{.State.Status}}", self.name)
        return said.strip() in ("exited", "stopped")

    def exec(self, *words: Any) -> str:
        return podman("exec", self.name, *words)

    def ask(self, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        return ask(f"http://127.0.0.1:{self.port}{path}", body, headers)


def ask(url: str, body: Any = None, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
    """Status and JSON (or text) of an answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url, data=data, headers={"Content-Type": "application/json", **(headers or {})}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            status, said = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, said = error.code, error.read()
    try:
        return status, json.loads(said or b"null")
    except ValueError:
        return status, said.decode()


def until(condition: Callable[[], Any], what: Callable[[], str], within_s: float = WAIT_S) -> Any:
    give_up = time.monotonic() + within_s
    while True:
        try:
            found = condition()
        except OSError:
            found = None
        if found:
            return found
        assert time.monotonic() < give_up, what()
        time.sleep(0.02)


@contextmanager
def running(
    image: str,
    *words: str,
    inside: int = 8080,
    health: str = "/v2/health/ready",
    user: str = "",
    **variables: str,
) -> Iterator[Container]:
    """A container without rights, on a port of the loopback address; it ends with the block."""
    (port,) = free_ports(1)
    name = f"bascule-test-{secrets.token_hex(4)}"
    options = [f"--env={key}={value}" for key, value in variables.items()]
    options += [f"--user={user}"] if user else []
    started_s = time.monotonic()
    podman(
        "run", "--detach", "--name", name, "--read-only", "--cap-drop=all",
        "--security-opt=no-new-privileges", f"--publish=127.0.0.1:{port}:{inside}", *options,
        image, *words,
    )  # fmt: skip
    made = Container(name, port, started_s)
    try:
        until(lambda: made.is_ended() or made.ask(health)[0] == 200, made.logs)
        assert not made.is_ended(), made.logs()
        yield made
    finally:
        podman("rm", "--force", "--volumes", "--time=10", name, check=False)
