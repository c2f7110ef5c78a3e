"""Every target renders valid, reviewable files, and a changed plan changes only its shares."""

import json
import re
import subprocess
import tomllib
from dataclasses import replace

import hcl2
import pytest
import yaml
from hypothesis import given, strategies as st
from tests.golden.make_ship import GOLDEN, golden_files
from tests.shipments import ALONE, ARM, CANARY, CANDIDATE, SHADOWED, documents

from bascule.core import Conflict, Invalid
from bascule.serving.telemetry import MetricLabels, Totals, prometheus_text
from bascule.ship import (
    TARGETS,
    Package,
    Resources,
    difference,
    resources_of,
    whole_shares,
    write_files,
)
from bascule.ship.shipment import content_mark, image_of, object_name, slug_of


@pytest.fixture(params=TARGETS)
def target(request):
    return request.param


def parsed(path, text):
    """What a file holds, by its own syntax; Helm's templates are text until Helm reads them."""
    if path.endswith(".toml"):
        return tomllib.loads(text)
    if path.endswith((".yaml", ".yml")):
        return documents(text)
    if path.endswith(".json"):
        return json.loads(text)
    if path.endswith(".tf"):
        return hcl2.loads(text)
    if path.endswith(".py"):
        return compile(text, path, "exec")
    return text


@pytest.mark.parametrize("shipment", [CANARY, ALONE, SHADOWED], ids=["canary", "alone", "shadowed"])
def test_every_file_is_valid_in_its_own_syntax(target, shipment):
    files = TARGETS[target].render(shipment)
    assert files
    for path, text in files.items():
        assert text.endswith("\n"), path
        assert "{%" not in text
        assert "PLACEHOLDER" not in text, path
        if not path.startswith("templates/"):
            assert parsed(path, text), path


def test_the_same_shipment_gives_the_same_bytes(target):
    assert TARGETS[target].render(CANARY) == TARGETS[target].render(replace(CANARY))


def test_no_file_has_a_floating_tag_a_privilege_or_a_password(target):
    for path, text in TARGETS[target].render(CANARY).items():
        assert not re.search(r"image:\s*\S+:latest\b|:latest\b", text), path
        assert not re.search(r"privileged:\s*true|hostNetwork:\s*true|runAsUser:\s*0\b", text), path
        for value in re.findall(r"(?i)\bpassword\w*:\s*(\S+)", text):
            assert value.startswith(('"${', "${")), f"{path}: {value}"


def test_files_are_those_that_are_recorded(target):
    """A review of a changed template shows the change in the rendered files."""
    recorded = {
        str(path.relative_to(GOLDEN / target)): path.read_text()
        for path in (GOLDEN / target).rglob("*")
        if path.is_file()
    }
    assert golden_files(target) == recorded, "python -m tests.golden.make_ship"


@pytest.mark.parametrize("name", ["kubernetes", "helm", "container", "ray"])
def test_a_changed_share_leaves_what_runs_the_versions_alone(name):
    moved = replace(
        CANARY, arms=(replace(ARM, share_percent=75), replace(CANDIDATE, share_percent=25))
    )
    assert TARGETS[name].render(moved) == TARGETS[name].render(CANARY)


@pytest.mark.parametrize(
    "name", ["kserve", "istio", "gateway-api", "envoy", "sagemaker", "azureml"]
)
def test_a_changed_share_changes_the_lines_of_shares_alone(name, tmp_path):
    write_files(TARGETS[name].render(CANARY), tmp_path, target=name)
    moved = replace(
        CANARY,
        arms=(replace(ARM, share_percent=75), replace(CANDIDATE, share_percent=25)),
    )
    lines = [
        line
        for line in difference(TARGETS[name].render(moved), tmp_path)
        if line[0] in "+-" and not line.startswith(("+++", "---"))
    ]
    assert lines
    for line in lines:
        assert re.search(r"\b(90|10|75|25)\b", line), line


def test_routers_split_by_the_shares_of_the_plan():
    (route,) = documents(TARGETS["gateway-api"].render(CANARY)["httproute.yaml"])
    backends = route["spec"]["rules"][-1]["backendRefs"]
    assert {one["name"]: one["weight"] for one in backends} == {"late--v3": 90, "late--v4": 10}
    (service,) = documents(TARGETS["istio"].render(CANARY)["virtualservice.yaml"])
    routes = service["spec"]["http"][0]["route"]
    assert [(one["destination"]["host"], one["weight"]) for one in routes] == [
        ("late--v3", 90),
        ("late--v4", 10),
    ]
    (inference,) = documents(TARGETS["kserve"].render(CANARY)["inferenceservice.yaml"])
    (canary,) = inference["spec"]["canary"]
    assert (canary["trafficPercent"], canary["predictor"]["name"]) == (10, "late-v4")
    (alone,) = documents(TARGETS["kserve"].render(ALONE)["inferenceservice.yaml"])
    assert "canary" not in alone["spec"]


def test_routers_send_copies_to_the_shadow():
    (route,) = documents(TARGETS["gateway-api"].render(SHADOWED)["httproute.yaml"])
    (copied,) = route["spec"]["rules"][-1]["filters"]
    mirrored = {"backendRef": {"name": "late--v5", "port": 80}, "percent": 40}
    assert copied["requestMirror"] == mirrored
    (service,) = documents(TARGETS["istio"].render(SHADOWED)["virtualservice.yaml"])
    (mirror,) = service["spec"]["http"][0]["mirrors"]
    assert (mirror["destination"]["host"], mirror["percentage"]["value"]) == ("late--v5", 40)
    names = [
        one["metadata"]["name"]
        for one in documents(TARGETS["kubernetes"].render(SHADOWED)["base/deployments.yaml"])
    ]
    assert names == ["late--current", "late--candidate", "late--shadow"]


def test_prometheus_scrapes_each_pod_once():
    """The autoscaler sums the metric by pod: a pod that is scraped twice would count twice."""
    files = TARGETS["kubernetes"].render(CANARY)
    monitor = documents(files["monitoring/monitoring.yaml"])[0]
    assert monitor["kind"] == "PodMonitor"
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    for deployment in documents(files["base/deployments.yaml"]):
        assert wanted <= deployment["spec"]["template"]["metadata"]["labels"].items()
    control = documents(files["base/control.yaml"])[0]
    assert not wanted <= control["spec"]["template"]["metadata"]["labels"].items()


def test_the_autoscaler_asks_for_a_metric_that_the_server_exports():
    text = TARGETS["kubernetes"].render(CANARY)["base/scaling.yaml"]
    scaler = documents(text)[0]
    metric = scaler["spec"]["metrics"][0]["pods"]["metric"]["name"]
    exported = prometheus_text([MetricLabels("late", "3")], [Totals({}, 0, 0.0, ())])
    assert f'{metric}{{model="late",version="3"}} 0' in exported
    adapter = documents(TARGETS["kubernetes"].render(CANARY)["monitoring/monitoring.yaml"])[-1]
    (rule,) = yaml.safe_load(adapter["data"]["config.yaml"])["rules"]
    assert rule["name"]["as"] == metric


def kustomized(overlay, folder):
    """The objects of an overlay of the canary, as Kustomize builds them."""
    write_files(TARGETS["kubernetes"].render(CANARY), folder, target="kubernetes")
    built = subprocess.run(
        ["kustomize", "build", str(folder / "overlays" / overlay)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return documents(built.stdout)


@pytest.mark.parametrize(
    ("overlay", "namespace", "least"),
    [
        ("staging", "bascule-staging", 1), ("production", "bascule", 2), ("agent", "bascule", 2),
        ("plain", "bascule", 2), ("keda", "bascule", None),
    ],
)  # fmt: skip
def test_kustomize_builds_every_overlay(overlay, namespace, least, tmp_path):
    objects = kustomized(overlay, tmp_path)
    assert {one["metadata"]["namespace"] for one in objects} == {namespace}
    scalers = [one for one in objects if one["kind"] == "HorizontalPodAutoscaler"]
    assert [one["spec"]["minReplicas"] for one in scalers] == ([least, least] if least else [])
    scaled = [one for one in objects if one["kind"] == "ScaledObject"]
    assert len(scaled) == (0 if least else 2)
    for one in objects:
        assert one["metadata"]["labels"]["bascule.dev/endpoint"] == "late", one["kind"]
        assert one["spec"].get("replicas") in (None, 2) if "spec" in one else True


def test_with_an_agent_no_container_needs_the_secret_of_the_catalogue(tmp_path):
    objects = kustomized("agent", tmp_path)
    pods = [
        one["spec"]["template"]["spec"] for one in objects if one["kind"] in ("Deployment", "Job")
    ]
    assert len(pods) == 4
    for pod in pods:
        env = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}
        assert env["BASCULE_REGISTRY__STORE"] == "file:/run/bascule/catalogue"
        assert env["BASCULE_REGISTRY__OBJECTS"] == "file:/run/bascule/objects"
        assert env["BASCULE_SECURITY__CALLERS"] == "keys"
        assert "late--catalogue" not in json.dumps(pod)
        assert pod["serviceAccountName"] == "late"
        assert pod["automountServiceAccountToken"] is False
    for policy in (one for one in objects if one["kind"] == "NetworkPolicy"):
        assert policy["spec"]["egress"][-1] == {"ports": [{"port": 8200}]}


def test_the_chart_has_the_objects_of_the_kustomize_base():
    chart = TARGETS["helm"].render(CANARY)
    base = TARGETS["kubernetes"].render(CANARY)
    assert "{{ .Values.replicas }}" in chart["templates/deployments.yaml"]
    images = documents(chart["values.yaml"])[0]["images"]
    assert images == {"late--current": ARM.image, "late--candidate": CANDIDATE.image}
    for name in ("deployments", "services", "scaling", "access", "migrations", "disruption"):
        text = re.sub(r"(?m)^ *\{\{-.*\n", "", chart[f"templates/{name}.yaml"])
        text = re.sub(r"\{\{.*?\}\}", "1", text)
        kinds = [one["kind"] for one in documents(text)]
        assert kinds == [one["kind"] for one in documents(base[f"base/{name}.yaml"])]


def test_the_bill_of_materials_names_every_package_and_the_bundle():
    sbom = json.loads(TARGETS["container"].render(CANARY)["sbom.cdx.json"])
    assert (sbom["bomFormat"], sbom["specVersion"]) == ("CycloneDX", "1.6")
    assert "timestamp" not in json.dumps(sbom)
    *libraries, model = sbom["components"]
    assert [one["purl"] for one in libraries] == ["pkg:pypi/bascule@0.2.0", "pkg:pypi/numpy@2.4.6"]
    assert model["hashes"] == [{"alg": "SHA-256", "content": "3a" * 32}]


def test_the_bill_of_the_model_lies_beside_and_not_in_the_image():
    arms = tuple(replace(arm, ml_bom="{}") for arm in CANARY.arms)
    files = TARGETS["container"].render(replace(CANARY, arms=arms))
    assert files["ml-bom.cdx.json"] == "{}"
    assert "!ml-bom" not in files[".dockerignore"]
    assert "ml-bom.cdx.json" not in TARGETS["container"].render(CANARY)


def test_a_folder_keeps_files_of_others_and_loses_those_of_an_earlier_rendering(tmp_path):
    (tmp_path / "README.md").write_text("ours")
    write_files({"a.yaml": "1\n", "sub/b.yaml": "2\n"}, tmp_path, target="istio")
    assert write_files({"a.yaml": "1\n"}, tmp_path, target="istio") == ["sub/b.yaml"]
    assert not (tmp_path / "sub/b.yaml").exists()
    assert (tmp_path / "README.md").read_text() == "ours"
    assert write_files({"a.yaml": "1\n"}, tmp_path, target="istio") == []
    assert list(difference({"a.yaml": "1\n"}, tmp_path)) == []
    with pytest.raises(Conflict, match="holds the target istio"):
        write_files({"a.yaml": "1\n"}, tmp_path, target="helm")


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6))
def test_whole_shares_add_up_to_100_and_are_off_by_less_than_one(weights):
    shares = {str(number): 100 * one / sum(weights) for number, one in enumerate(weights)}
    whole = whole_shares(shares)
    assert sum(whole.values()) == 100
    for name, share in shares.items():
        assert abs(whole[name] - share) < 1


@given(st.text(max_size=80))
def test_a_slug_is_a_name_of_kubernetes(name):
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", slug_of(name))
    assert len(slug_of(name)) <= 40


@given(st.text(max_size=80), st.text(max_size=80))
def test_names_of_objects_are_labels_of_rfc_1035_and_stay_different(one, other):
    for name in (one, other):
        assert re.fullmatch(r"[a-z](-?[a-z0-9])*", object_name(name))
        assert len(object_name(name)) <= 40
    assert (object_name(one) == object_name(other)) is (one == other)


def test_a_usual_name_stays_as_it_is_and_others_get_a_mark():
    assert object_name("late-flights") == "late-flights"
    assert re.fullmatch(r"late-flights-[0-9a-f]{6}", object_name("Late_Flights"))
    assert re.fullmatch(r"m-2024-late-[0-9a-f]{6}", object_name("2024-late"))
    assert len(object_name("x" * 128)) == 40


def test_an_image_is_named_by_version_bundle_and_what_is_beside_it():
    digest = "sha256:" + "ab" * 32
    packages = [Package("numpy", "2.4.6")]
    mark = content_mark("0.2.0", "python:3.11-slim", packages)
    assert image_of("r.example.com/ml", "Late Flights", 4, digest, mark) == (
        f"r.example.com/ml/late-flights:4-abababababab-{mark}"
    )
    others = {
        content_mark("0.3.0", "python:3.11-slim", packages),
        content_mark("0.2.0", "python:3.12-slim", packages),
        content_mark("0.2.0", "python:3.11-slim", [Package("numpy", "2.4.7")]),
    }
    assert len(others | {mark}) == 4
    with pytest.raises(Invalid, match="--image 'Bad Name:1' is not a repository"):
        image_of("Bad Name:1", "late", 4, digest, mark)


def test_memory_and_cores_follow_the_measured_cost():
    assert resources_of(100 << 20, 35.0) == Resources(250, 384)
    assert resources_of(1 << 30, 10_001.0) == Resources(1_000, 1_536)
    assert resources_of(None, None).memory_mib == 640
