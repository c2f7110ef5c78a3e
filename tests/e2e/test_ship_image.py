"""The image of a bundle: built, looked into, run without rights, and asked as platforms ask."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests import images
from tests.own_environments import packages_of
from tests.pace import slowness_of_starts

import bascule

pytestmark = [pytest.mark.slow, pytest.mark.serial]

MAX_COMPRESSED_MB = 160
READY_S = 2.0
ANYBODY = {"BASCULE_SECURITY__CALLERS": "anybody"}
INSIDE = """
import json
from importlib.metadata import distributions
print(json.dumps({one.name.lower().replace("_", "-"): one.version for one in distributions()}))
"""


def trivy():
    files = packages_of("ship").rglob("trivy*")
    return next(one for one in files if one.is_file() and os.access(one, os.X_OK))


@pytest.fixture(scope="module")
def server(shipped):
    with images.running(shipped.built["image"], **ANYBODY) as container:
        yield container


def test_an_image_built_twice_has_the_same_digest_and_so_has_it_in_an_index(shipped):
    """Of this machine's platform alone: another one needs emulation."""
    here = "linux/" + {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    tag = "localhost/bascule-test/late:again"
    for _again in range(2):
        again = shipped.build(tag, "--platform", here)
        assert again["digest"] == shipped.built["digest"]
        listed = json.loads(images.podman("manifest", "inspect", tag))["manifests"]
        assert [f"{one['platform']['os']}/{one['platform']['architecture']}" for one in listed] == [
            here
        ]


def test_the_image_takes_160_mb_compressed_at_most(shipped, tmp_path):
    images.run(
        images.tool("skopeo"), "copy", "--quiet", f"containers-storage:{shipped.built['image']}",
        f"oci:{tmp_path}/image",
    )  # fmt: skip
    size = sum(one.stat().st_size for one in tmp_path.rglob("*") if one.is_file())
    assert size / 1e6 <= MAX_COMPRESSED_MB


def test_the_image_has_no_installer_compiler_shell_or_framework(shipped):
    mounted = Path(images.podman("image", "mount", shipped.built["image"]).strip())
    try:
        known = mounted / "var" / "lib" / "dpkg"  # the names of packages, without a program
        names = {path.name for path in mounted.rglob("*") if not path.is_relative_to(known)}
        written = [path for path in mounted.rglob("*") if "__pycache__" in path.parts]
    finally:
        images.podman("image", "unmount", shipped.built["image"])
    assert not names & {"pip", "ensurepip", "sh", "bash", "gcc", "cc", "ld", "apt", "dpkg", "perl"}
    assert not names & {"sklearn", "scipy", "pandas", "onnx", "skl2onnx", "tests"}
    assert written, "modules are compiled: the root cannot be written"


def test_the_bill_of_materials_names_every_distribution_inside(shipped):
    said = images.podman(
        "run", "--rm", "--network=none", "--entrypoint=python3", shipped.built["image"],
        "-c", INSIDE,
    )  # fmt: skip
    sbom = json.loads((shipped.files / "sbom.cdx.json").read_text())
    listed = {one["name"]: one["version"] for one in sbom["components"] if one["type"] == "library"}
    assert listed == json.loads(said)
    licences = (shipped.files / "licenses.txt").read_text()
    assert [line.split()[0] for line in licences.splitlines()] == sorted(listed)


def test_a_scanner_sees_the_packages_of_debian_inside(shipped, tmp_path):
    images.podman(
        "save", "--quiet", "--format=docker-archive", f"--output={tmp_path}/late.tar",
        shipped.built["image"],
    )  # fmt: skip
    said = images.run(
        trivy(), "image", "--quiet", "--format=cyclonedx", "--input", tmp_path / "late.tar"
    )
    packages = [one.get("purl", "") for one in json.loads(said)["components"]]
    debian = {one.split("/")[2].split("@")[0] for one in packages if one.startswith("pkg:deb/")}
    assert {"libc6", "coreutils", "zlib1g"} <= debian
    assert "apt" not in debian
    assert any(one.startswith("pkg:pypi/numpy@") for one in packages)


def test_the_image_runs_as_the_user_that_openshift_chooses(shipped):
    with images.running(shipped.built["image"], user="1000650000:0", **ANYBODY) as container:
        asked = "import os; open('/var/lib/bascule/written', 'w'); print(os.getuid())"
        assert container.exec("python3", "-c", asked).strip() == "1000650000"
        assert container.ask("/v2/models/late/infer", shipped.request())[0] == 200


def test_a_container_without_rights_is_ready_within_two_seconds(shipped):
    times = []
    for _ in range(3):
        with images.running(shipped.built["image"], **ANYBODY) as container:
            times.append(time.monotonic() - container.started_s)
    slowness = slowness_of_starts()
    print(f"ready after {min(times):.2f} s, {slowness:.2f} times as slow as promised")  # noqa: T201
    assert min(times) <= READY_S * slowness


def test_the_server_names_the_version_of_the_registry(server):
    status, said = server.ask("/v2/models/late")
    assert status == 200
    assert said["versions"] == ["2"]


def test_the_user_is_not_root_and_the_health_check_passes(server):
    asked = "import os; print(os.getuid(), os.getgid())"
    assert server.exec("python3", "-c", asked).split() == ["10001", "10001"]
    server.exec("python3", "-m", "bascule.ship.probe")
    with pytest.raises(AssertionError):
        server.exec("python3", "-c", "open('/opt/bascule/written', 'w')")


def test_answers_are_those_of_the_bundle_in_this_process_to_the_bit(shipped, server):
    rows = shipped.rows()
    status, said = server.ask("/v2/models/late/infer", shipped.request())
    assert status == 200, said
    assert (said["model_name"], said["model_version"]) == ("late", "2")
    answered = {one["name"]: one["data"] for one in said["outputs"]}
    here = bascule.load(shipped.bundle).predict(rows)
    for name, values in answered.items():
        assert values == here[name].ravel().tolist(), name


PLATFORMS = {
    "sagemaker": SimpleNamespace(
        words=["serve"], port=9000, variables={"SAGEMAKER_BIND_TO_PORT": "9000"},
        health="/ping", predict="/invocations", body=lambda rows: rows,
        answer=lambda said: said["predictions"],
    ),
    "vertex": SimpleNamespace(
        words=[], port=9090, health="/alive", predict="/ask",
        variables={
            "AIP_HTTP_PORT": "9090", "AIP_HEALTH_ROUTE": "/alive", "AIP_PREDICT_ROUTE": "/ask",
            "AIP_STORAGE_URI": "", "AIP_MODE": "PREDICTION",
        },
        body=lambda rows: {"instances": rows}, answer=lambda said: said["predictions"],
    ),
    "azureml": SimpleNamespace(
        words=[], port=5001,
        variables={"BASCULE_SERVING__PORT": "5001", "AZUREML_MODEL_DIR": "/var/azureml-app"},
        health="/", predict="/score", body=lambda rows: {"data": rows}, answer=lambda said: said,
    ),
}  # fmt: skip


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_same_image_keeps_the_conventions_of_each_cloud(shipped, platform):
    one = PLATFORMS[platform]
    rows = shipped.rows(3)
    records = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
    with images.running(
        shipped.built["image"], *one.words, inside=one.port, health=one.health, **ANYBODY,
        **one.variables,
    ) as container:  # fmt: skip
        container.exec("python3", "-m", "bascule.ship.probe")
        status, said = container.ask(one.predict, one.body(records))
    assert status == 200, said
    assert len(one.answer(said)) == 3
