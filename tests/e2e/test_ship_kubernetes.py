"""The pod that Kubernetes is given, run by podman; the autoscaler's metric, shown by Prometheus."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from contextlib import contextmanager
from urllib.parse import quote

import pytest
import yaml
from tests import images
from tests.images import ask, until
from tests.shipments import CANARY, documents
from tests.stores import free_ports

from bascule.ship import TARGETS

pytestmark = [pytest.mark.slow, pytest.mark.serial]


def test_the_pod_of_the_manifest_answers_who_has_a_key(shipped, tmp_path):
    shipped.cli(
        "ship", "kubernetes", "late@champion", "--out", tmp_path / "files",
        "--image", "localhost/bascule-test", "--base", images.python_base(), "--replicas", "1",
    )  # fmt: skip
    text = (tmp_path / "files" / "base" / "deployments.yaml").read_text()
    (deployment,) = documents(text)
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "late--catalogue"},
        "stringData": {"url": "sqlite"},
    }
    manifest = tmp_path / "played.yaml"
    manifest.write_text(yaml.safe_dump_all([secret, deployment]))
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    try:
        images.podman("kube", "play", f"--publish=127.0.0.1:{port}:8080", manifest)
        name = "late--current-pod-serve"
        until(
            lambda: ask(f"{url}/v2/health/ready")[0] == 200,
            lambda: images.podman("logs", name, check=False),
        )
        body = shipped.request(3)
        assert ask(f"{url}/v2/models/late/infer", body)[0] == 401
        key = images.podman(
            "exec", name, "python3", "-m", "bascule.cli", "keys", "create", "tester",
            "--allow=infer:late",
        ).strip()  # fmt: skip
        headers = {"Authorization": f"Bearer {key}"}
        infer = f"{url}/v2/models/late/infer"
        until(lambda: ask(infer, body, headers)[0] == 200, lambda: "the key is not known")
        said = ask(infer, body, headers)[1]
        assert (said["model_name"], said["model_version"]) == ("late", "2")
    finally:
        images.podman("kube", "down", "--force", manifest, check=False)


@contextmanager
def prometheus(folder, targets):
    """A real Prometheus that scrapes servers with the labels that the operator gives pods."""
    program = shutil.which("prometheus")
    assert program, "prometheus is missing: apt-get install prometheus"
    (port,) = free_ports(1)
    static = [
        {"targets": [f"127.0.0.1:{one.port}"], "labels": {"namespace": "bascule", "pod": pod}}
        for pod, one in targets.items()
    ]
    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "bascule", "static_configs": static}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    process = subprocess.Popen(
        [
            program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until(lambda: ask(f"http://127.0.0.1:{port}/-/ready")[0] == 200, lambda: "not ready")
        yield lambda query: ask(f"http://127.0.0.1:{port}/api/v1/query?query={quote(query)}")[1][
            "data"
        ]["result"]
    finally:
        process.terminate()
        process.wait(30)


def test_prometheus_gives_the_autoscaler_its_metric_of_each_pod(serve, cancer_bundle, tmp_path):
    """The query is made as the adapter makes it from the rule that is rendered beside."""
    files = TARGETS["kubernetes"].render(CANARY)
    scaler = documents(files["base/scaling.yaml"])[0]
    wanted = scaler["spec"]["metrics"][0]["pods"]["metric"]["name"]
    adapter = documents(files["monitoring/monitoring.yaml"])[-1]
    (rule,) = yaml.safe_load(adapter["data"]["config.yaml"])["rules"]
    series = re.match(r"\w+", rule["seriesQuery"])[0]
    assert re.fullmatch(rule["name"]["matches"], series)
    assert rule["name"]["as"] == wanted
    query = rule["metricsQuery"]
    for expression, value in {
        "<<.Series>>": series,
        "<<.LabelMatchers>>": 'namespace="bascule",pod=~"late-a|late-b"',
        "<<.GroupBy>>": "pod",
    }.items():
        query = query.replace(expression, value)
    pods = {name: serve(cancer_bundle) for name in ("late-a", "late-b")}
    with prometheus(tmp_path, pods) as asked:
        found = until(lambda: len(found := asked(query)) == 2 and found, lambda: f"{asked('up')}")
        assert asked(rule["seriesQuery"])
    assert {one["metric"]["pod"] for one in found} == set(pods)
    assert all(float(one["value"][1]) >= 0 for one in found)
    assert json.dumps(found)
