"""A server as the clouds start it: without arguments, told by the environment alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

import httpx
import psutil
import pytest
from tests.conftest import children_of
from tests.gcs_front import fronting
from tests.tiers import first_of

WAIT_S = 60.0
ROWS = 20
WORKER = "bascule.serving.workers.worker"
ANY_PORT = {"BASCULE_SERVING__PORT": "0", "BASCULE_SERVING__CONTROL_PORT": "0"}


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Container:
    """A process that was started as `IMAGE serve` starts it."""

    def __init__(self, folder, port, environ):
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._log = (folder / "log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bascule.cli", "serve"],
            cwd=folder,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environ},
        )
        give_up = time.monotonic() + WAIT_S
        while "Ctrl-C" not in self.log():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < give_up, self.log()
            time.sleep(0.02)

    def log(self):
        self._log.seek(0)
        return self._log.read()

    def ask(self, method, path, body=None):
        """Ask on a connection of its own, which goes to either worker."""
        answer = httpx.request(method, self.url + path, json=body, timeout=WAIT_S)
        return answer.status_code, answer.json()

    def load(self, name, folder):
        return self.ask("POST", "/models", {"model_name": name, "url": str(folder)})

    def everywhere(self, method, path, body=None):
        """What is answered, by whichever worker."""
        return {json.dumps(self.ask(method, path, body)) for _ in range(ROWS)}

    def listed(self):
        (told,) = self.everywhere("GET", "/models")
        status, listed = json.loads(told)
        assert status == 200
        return {one["modelName"]: one["modelUrl"] for one in listed["models"]}

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        self._log.close()
        return code


@pytest.fixture
def container(tmp_path):
    """`container(VARIABLE=value)`: a container on a port that its platform has chosen."""
    started = []

    def start(port_variable, **environ):
        home = tmp_path / f"container-{len(started)}"
        home.mkdir()
        port, control, *_ = free_ports(2)
        environ = {
            port_variable: str(port), "BASCULE_SERVING__CONTROL_PORT": str(control), **environ,
        }  # fmt: skip
        started.append(Container(home, port, environ))
        return started[-1]

    yield start
    codes = [one.end() for one in started]
    assert codes == [0] * len(codes)


@pytest.fixture
def models(tmp_path, cancer_bundle, regressor_bundle):
    """What SageMaker has unpacked: one bundle as it is, and one in a folder of its own."""
    folder = tmp_path / "opt" / "ml" / "models"
    first, second = folder / "0a1b" / "model", folder / "2c3d" / "model"
    shutil.copytree(cancer_bundle, first)
    shutil.copytree(regressor_bundle, second / "ridge")
    return first, second


def rows_of(bundle):
    (tensor,) = json.loads((bundle / "data" / "example.json").read_text())["inputs"]
    count, width = tensor["shape"]
    flat = tensor["data"]
    if flat and isinstance(flat[0], list):
        return flat[:1]
    assert count
    return [flat[:width]]


def test_sagemaker_loads_asks_lists_and_unloads_in_every_worker(
    container, models, cancer_bundle, regressor_bundle
):
    first, second = models
    server = container(
        "SAGEMAKER_BIND_TO_PORT", SAGEMAKER_MULTI_MODEL="true", BASCULE_SERVING__WORKERS="2"
    )
    body = {"instances": rows_of(cancer_bundle)}
    assert server.ask("GET", "/ping")[0] == 200
    assert server.listed() == {}

    assert server.load("0a1b", first) == (200, {"modelName": "0a1b", "modelUrl": str(first)})
    assert server.load("2c3d", second)[0] == 200
    assert server.listed() == {"0a1b": str(first), "2c3d": str(second / "ridge")}
    (answer,) = server.everywhere("POST", "/models/0a1b/invoke", body)
    assert json.loads(answer)[0] == 200
    assert len(server.everywhere("POST", "/models/2c3d/invoke", rows_of(regressor_bundle))) == 1

    status, told = server.load("0a1b", second)
    assert (status, "'0a1b' is loaded" in told["error"]) == (409, True)
    assert server.everywhere("POST", "/models/0a1b/invoke", body) == {answer}

    assert server.ask("DELETE", "/models/0a1b")[0] == 200
    (gone,) = server.everywhere("POST", "/models/0a1b/invoke", body)
    assert json.loads(gone)[0] == 404
    assert server.ask("DELETE", "/models/0a1b")[0] == 404
    assert server.listed() == {"2c3d": str(second / "ridge")}

    assert server.load("0a1b", first)[0] == 200
    assert server.everywhere("POST", "/models/0a1b/invoke", body) == {answer}


@pytest.mark.slow
def test_a_worker_that_dies_comes_back_with_what_was_loaded(container, models, cancer_bundle):
    server = container(
        "SAGEMAKER_BIND_TO_PORT", SAGEMAKER_MULTI_MODEL="true", BASCULE_SERVING__WORKERS="2"
    )
    assert server.load("0a1b", models[0])[0] == 200
    before = psutil.Process(children_of(server.process.pid, WORKER)[0])
    before.kill()
    before.wait(WAIT_S)

    give_up = time.monotonic() + WAIT_S
    while server.load("2c3d", models[1])[0] == 503:
        assert time.monotonic() < give_up
        time.sleep(0.05)
    assert set(server.listed()) == {"0a1b", "2c3d"}
    body = {"instances": rows_of(cancer_bundle)}
    assert len(server.everywhere("POST", "/models/0a1b/invoke", body)) == 1


@pytest.mark.slow
def test_what_cannot_be_loaded_is_told_with_its_reason_and_changes_nothing(
    container, models, tmp_path, costly_bundle
):
    server = container(
        "SAGEMAKER_BIND_TO_PORT",
        SAGEMAKER_MULTI_MODEL="true",
        BASCULE_SERVING__WORKERS="2",
        BASCULE_SERVING__MEMORY_BUDGET_MB="6",
    )
    broken = models[0]
    example = broken / "data" / "example.json"
    example.write_bytes(example.read_bytes().replace(b"1", b"2", 1))
    refused = {
        "large": (costly_bundle, 507, r"takes \d+ MB, and serving.memory_budget_mb is 6"),
        "broken": (broken, 403, "example.json"),
        "gone": (tmp_path / "gone", 400, "url: there is no folder"),
        "empty": (tmp_path, 400, "url: there is no bundle in"),
    }
    for name, (folder, status, reason) in refused.items():
        found, told = server.load(name, folder)
        assert (found, bool(re.search(reason, told["error"]))) == (status, True), told
    assert server.listed() == {}
    assert server.load("small", models[1])[0] == 200


@pytest.mark.slow
def test_sagemaker_alone_has_a_folder_that_others_could_have_filled_and_a_range_of_ports(
    container, tmp_path, models, cancer_bundle
):
    low, _ = sorted(free_ports(2))
    server = container(
        "SAGEMAKER_BIND_TO_PORT",
        SAGEMAKER_MULTI_MODEL="true",
        SAGEMAKER_BASE_DIR=str(tmp_path / "opt" / "ml"),
        SAGEMAKER_SAFE_PORT_RANGE=f"{low}-{low}",
        BASCULE_SERVING__CONTROL_PORT="0",
    )
    assert f"control API at http://127.0.0.1:{low}/docs" in server.log(), "a port that it leaves"
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(cancer_bundle, elsewhere)
    link = tmp_path / "opt" / "ml" / "models" / "link"
    link.symlink_to(elsewhere)
    for folder in (models[0], elsewhere):
        folder.chmod(0o777)

    assert server.load("0a1b", models[0])[0] == 200
    for folder in (elsewhere, link):
        status, told = server.load("other", folder)
        assert (status, "other users may write" in told["error"]) == (403, True)


@pytest.mark.parametrize(
    ("port_variable", "variable", "inside", "path"),
    [
        ("SAGEMAKER_BIND_TO_PORT", "SAGEMAKER_BASE_DIR", "model", "/invocations"),
        pytest.param(
            "SAGEMAKER_BIND_TO_PORT",
            "SAGEMAKER_BASE_DIR",
            "model/gb",
            "/invocations",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "AIP_HTTP_PORT", "AIP_STORAGE_URI", "", "/vertex/predict", marks=pytest.mark.slow
        ),
        ("BASCULE_SERVING__PORT", "AZUREML_MODEL_DIR", "gb", "/score"),
    ],
)
def test_the_one_model_is_served_from_where_the_platform_put_it(
    container, tmp_path, cancer_bundle, port_variable, variable, inside, path
):
    place = tmp_path / "base"
    shutil.copytree(cancer_bundle, place / inside)
    server = container(port_variable, **{variable: str(place)})

    key = "data" if path == "/score" else "instances"
    status, told = server.ask("POST", path, {key: rows_of(cancer_bundle)})
    assert status == 200
    assert (told if path == "/score" else told["predictions"]) in ([0], [1])
    assert server.ask("GET", "/ping")[0] == 200
    assert server.load("more", cancer_bundle)[0] == 405


@pytest.fixture
def copies(tmp_path):
    """Where a server puts what it fetches."""
    folder = tmp_path / "copies"
    folder.mkdir()
    return folder


def test_vertex_serves_the_bundle_of_its_bucket_as_long_as_it_runs(
    container, gs_bucket, cancer_bundle, copies
):
    gs_bucket.fill(cancer_bundle)
    server = container(
        "AIP_HTTP_PORT",
        AIP_HEALTH_ROUTE="/v1/health",
        AIP_PREDICT_ROUTE="/v1/late:predict",
        AIP_STORAGE_URI=gs_bucket.url,
        TMPDIR=str(copies),
    )
    log = server.log()
    assert f"INFO fetching {gs_bucket.url}: " in log
    assert log.index(f"INFO fetched {gs_bucket.url}: ") < log.index("serving gb/")
    (copy,) = copies.iterdir()
    assert copy.stat().st_mode & 0o077 == 0, "nobody else may look at it or change it"

    body = {"instances": rows_of(cancer_bundle)}
    assert server.ask("GET", "/v1/health")[0] == 200
    status, told = server.ask("POST", "/v1/late:predict", body)
    assert (status, told["predictions"] in ([0], [1])) == (200, True)

    for name in ("bundle.json", "programs/onnx.onnx"):
        gs_bucket.remove(name)
    (worker,) = map(psutil.Process, children_of(server.process.pid, WORKER))
    worker.kill()
    worker.wait(WAIT_S)
    assert server.ask("POST", "/v1/late:predict", body) == (200, told), "the copy stays"

    assert server.end() == 0
    assert list(copies.iterdir()) == []


def test_a_place_in_a_bucket_is_served_by_its_address(serve, s3_bucket, cancer_bundle, copies):
    s3_bucket.fill(cancer_bundle, "gb.bundle/")
    server = serve(s3_bucket.url, env={"TMPDIR": str(copies)})

    body = {"instances": rows_of(cancer_bundle)}
    answer = httpx.post(f"http://127.0.0.1:{server.port}/invocations", json=body)
    assert answer.status_code == 200
    assert server.end(signal.SIGINT) == 0
    assert list(copies.iterdir()) == []


def test_a_bundle_that_was_altered_in_its_bucket_is_not_served(gs_bucket, cancer_bundle, copies):
    gs_bucket.fill(cancer_bundle)
    gs_bucket.put("data/example.json", b"{}")
    done = subprocess.run(
        [sys.executable, "-m", "bascule.cli", "serve"],
        cwd=copies.parent,
        env={**os.environ, **ANY_PORT, "AIP_STORAGE_URI": gs_bucket.url, "TMPDIR": str(copies)},
        capture_output=True, text=True, check=False, timeout=WAIT_S,
    )  # fmt: skip
    assert done.returncode not in (0, 1)
    assert f"data/example.json of bundle {gs_bucket.url}" in done.stderr
    assert "serving" not in done.stdout
    assert list(copies.iterdir()) == []


@pytest.mark.parametrize("how", first_of([signal.SIGTERM, signal.SIGINT]))
def test_a_server_that_is_stopped_while_it_fetches_leaves_nothing(
    gcs_server, gs_bucket, cancer_bundle, copies, how
):
    gs_bucket.fill(cancer_bundle)
    with fronting(gcs_server) as front:
        front.trouble = {"programs/onnx.onnx": ["stall"]}
        environ = {"STORAGE_EMULATOR_HOST": front.url, "TMPDIR": str(copies)}
        with subprocess.Popen(
            [sys.executable, "-m", "bascule.cli", "serve", gs_bucket.url],
            cwd=copies.parent, env={**os.environ, **ANY_PORT, **environ},
        ) as process:  # fmt: skip
            try:
                assert front.stalled.wait(WAIT_S)
                assert list(copies.rglob("onnx.onnx")), "it is in the middle of it"
                process.send_signal(how)
                assert process.wait(WAIT_S) == 0
            finally:
                process.kill()
    assert list(copies.iterdir()) == []


def test_without_a_model_and_a_platform_the_command_says_what_to_do(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "bascule.cli", "serve"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=WAIT_S,
    )  # fmt: skip
    assert done.returncode == 2
    assert "missing argument MODEL..." in done.stderr
    assert "bascule serve late" in done.stderr


def test_predictions_on_the_default_of_the_control_api_move_it_and_the_log_says_so(
    tmp_path, cancer_bundle
):
    """The port is taken, by us or by somebody else, so the server ends before it has begun."""
    host = "127.0.0.2"
    with socket.socket() as taken:
        with suppress(OSError):
            taken.bind((host, 8082))
            taken.listen(1)
        done = subprocess.run(
            [sys.executable, "-m", "bascule.cli", "serve", str(cancer_bundle)],
            cwd=tmp_path,
            env={**os.environ, "AIP_HTTP_PORT": "8082", "BASCULE_SERVING__HOST": host},
            capture_output=True, text=True, check=False, timeout=WAIT_S,
        )  # fmt: skip
    assert (done.returncode, "port 8082" in done.stderr) == (4, True)
    assert "predictions are on port 8082, the default of the control API" in done.stderr
    assert "which is on 8083" in done.stderr
