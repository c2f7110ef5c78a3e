"""A pod starts from the bundle in its image while the catalogue is away; then it is ready."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from tests.images import ask, until
from tests.stores import ended, free_ports


@contextmanager
def relayed(port, address):
    """Connections to a port go to another address."""
    server = socket.create_server(("127.0.0.1", port))
    opened, copying = [server], []

    def copy(source, target):
        with suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept():
        with suppress(OSError):
            while True:
                client, _ = server.accept()
                store = socket.create_connection(address)
                opened.extend((client, store))
                for pair in ((client, store), (store, client)):
                    copying.append(threading.Thread(target=copy, args=pair))
                    copying[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield
    finally:
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        accepting.join()
        for one in opened[1:]:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in copying:
            thread.join()
        for one in opened:
            one.close()


def test_a_pod_starts_without_its_catalogue_and_answers_when_it_is_back(
    cancer_bundle, postgresql_url, tmp_path
):
    place = urlsplit(postgresql_url)
    away, port, control = free_ports(3)
    environ = {**os.environ, "BASCULE_HOME": str(tmp_path / "home")}
    key = subprocess.run(
        [sys.executable, "-m", "bascule.cli", "keys", "create", "tester", "--allow", "infer:gb"],
        env={**environ, "BASCULE_REGISTRY__STORE": postgresql_url}, cwd=tmp_path,
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    pod = subprocess.Popen(
        [sys.executable, "-m", "bascule.cli", "serve"], cwd=tmp_path,
        env={
            **environ, "BASCULE_SECURITY__CALLERS": "keys",
            "BASCULE_REGISTRY__STORE": postgresql_url.replace(f":{place.port}/", f":{away}/"),
            "BASCULE_SERVING__DEFAULT_MODEL": f"gb/1={cancer_bundle}",
            "BASCULE_SERVING__PORT": str(port), "BASCULE_SERVING__CONTROL_PORT": str(control),
        },
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    example = json.loads((cancer_bundle / "data" / "example.json").read_text())
    headers = {"Authorization": f"Bearer {key}"}
    with ended(pod, 30):
        until(lambda: ask(f"{url}/v2/health/live")[0] == 200, lambda: f"{pod.poll()}")
        assert ask(f"{url}/v2/health/ready")[0] == 503
        code, said = ask(f"{url}/v2/models/gb/infer", example, headers)[:2]
        assert (code, "keys cannot be checked" in str(said)) == (503, True)
        with relayed(away, (place.hostname, place.port)):
            until(lambda: ask(f"{url}/v2/health/ready")[0] == 200, lambda: f"{pod.poll()}")
            assert ask(f"{url}/v2/models/gb/infer", example, headers)[0] == 200
            assert ask(f"{url}/v2/models/gb/infer", example)[0] == 401
