"""What the tools of the platforms say of the files: Kubernetes' schemas, Helm, Trivy, npm."""

from __future__ import annotations

import json
import os
import re

import pytest
from tests import images
from tests.own_environments import modules_of, packages_of, python_of
from tests.shipments import ALONE, CANARY, SHADOWED, documents

from bascule.ship import TARGETS, Project, render_pipeline, write_file, write_files

pytestmark = pytest.mark.slow

MANIFESTS = ("kubernetes", "kserve", "istio", "gateway-api", "argo-rollouts")
KUBERNETES = ("1.31", "1.34", "1.37")
VALIDATE = """
import json, sys
import kubernetes_validate
for document in json.load(sys.stdin):
    for version in sys.argv[1:]:
        kubernetes_validate.validate(document, version, strict=True)
"""
MODULES = {
    "argoproj.io/v1alpha1": "argo-rollouts",
    "external-secrets.io/v1": "external-secrets",
    "gateway.networking.k8s.io/v1": "gateway-api",
    "keda.sh/v1alpha1": "keda",
    "monitoring.coreos.com/v1": "prometheus-operator",
    "networking.istio.io/v1": "istio",
}
"""The module of `@kubernetes-models` by group; there is none for KServe."""
CHECK = """
import { readFileSync } from "node:fs";
for (const { module, document } of JSON.parse(readFileSync(0))) {
  const models = await import(`@kubernetes-models/${module}/${document.apiVersion}`);
  new models[document.kind](document).validate();
}
"""


def rendered(shipment):
    """Every object of the targets that are manifests."""
    return [
        one
        for target in MANIFESTS
        for text in TARGETS[target].render(shipment).values()
        for one in documents(text)
        if one["kind"] != "Kustomization"
    ]


def of_kubernetes(objects):
    return [
        one
        for one in objects
        if "." not in one["apiVersion"].partition("/")[0]
        or re.match(r"(networking|policy|autoscaling|batch|apps)(\.k8s\.io)?/", one["apiVersion"])
    ]


def validate(objects):
    images.run(python_of("ship"), "-c", VALIDATE, *KUBERNETES, input=json.dumps(objects))


def check(objects):
    found = [{"module": MODULES[one["apiVersion"]], "document": one} for one in objects]
    folder = modules_of("kubernetes_models")
    images.run(
        images.tool("node"), "--input-type=module", "-e", CHECK, cwd=folder, input=json.dumps(found)
    )


@pytest.mark.parametrize("shipment", [ALONE, CANARY, SHADOWED], ids=["alone", "canary", "shadowed"])
def test_every_object_of_kubernetes_is_valid_in_three_releases(shipment):
    objects = of_kubernetes(rendered(shipment))
    assert {
        "ConfigMap", "Deployment", "HorizontalPodAutoscaler", "Job", "NetworkPolicy",
        "PodDisruptionBudget", "Service", "ServiceAccount",
    } == {one["kind"] for one in objects}  # fmt: skip
    validate(objects)


def test_the_validation_refuses_a_misspelt_field():
    service = next(one for one in rendered(ALONE) if one["kind"] == "Service")
    with pytest.raises(AssertionError, match="slector"):
        validate([{**service, "spec": {**service["spec"], "slector": {}}}])


@pytest.mark.parametrize("shipment", [ALONE, CANARY, SHADOWED], ids=["alone", "canary", "shadowed"])
def test_every_custom_resource_is_valid_for_its_operator(shipment):
    objects = [one for one in rendered(shipment) if one["apiVersion"] in MODULES]
    assert {one["apiVersion"] for one in objects} == set(MODULES)
    check(objects)


def test_the_check_of_custom_resources_refuses_a_wrong_value():
    route = next(one for one in rendered(CANARY) if one["kind"] == "VirtualService")
    broken = json.loads(json.dumps(route))
    broken["spec"]["http"][0]["route"][0]["weight"] = "many"
    with pytest.raises(AssertionError, match="weight"):
        check([broken])


def trivy(folder, *words):
    program = next(
        one
        for one in packages_of("ship").rglob("trivy*")
        if os.access(one, os.X_OK) and one.is_file()
    )
    said = images.run(program, words[0], "--quiet", "--format", "json", *words[1:], ".", cwd=folder)
    return json.loads(said).get("Results") or []


@pytest.mark.parametrize("target", ["kubernetes", "container"])
def test_trivy_finds_no_fault_of_weight_and_no_secret(target, tmp_path):
    write_files(TARGETS[target].render(SHADOWED), tmp_path, target=target)
    faults = [
        (result["Target"], one["ID"], one["Title"])
        for result in trivy(tmp_path, "config", "--severity", "MEDIUM,HIGH,CRITICAL")
        for one in result.get("Misconfigurations") or []
    ]
    assert faults == []
    assert not any("Secrets" in one for one in trivy(tmp_path, "fs", "--scanners", "secret"))


def test_trivy_finds_the_fault_of_a_dockerfile_that_runs_as_root(tmp_path):
    files = TARGETS["container"].render(ALONE)
    text = re.sub(r"USER .*\n", "USER root\n", files["Dockerfile"])
    write_files({"Dockerfile": text}, tmp_path, target="container")
    assert any(one.get("Misconfigurations") for one in trivy(tmp_path, "config"))


HELM = """
import json, sys
from helm_python import Chart, lint

values = json.loads(sys.argv[2])
report = lint(sys.argv[1], values, strict=True)
with Chart.load(sys.argv[1]) as chart:
    upgrades = len(sys.argv) > 3
    manifests = chart.render(
        values, name="late", namespace="bascule", is_install=not upgrades, is_upgrade=upgrades
    )
print(json.dumps({"report": report, "manifests": manifests}))
"""


def helm(folder, *, upgrades=False, **values):
    """What Helm says of a chart, and the objects that it makes, by the name of their file."""
    more = ["upgrade"] if upgrades else []
    said = json.loads(images.run(python_of("ship"), "-c", HELM, folder, json.dumps(values), *more))
    made = {path.rpartition("/")[2]: documents(text) for path, text in said["manifests"].items()}
    return said["report"], {name: objects for name, objects in made.items() if objects}


def test_helm_makes_the_objects_of_the_kustomize_base(tmp_path):
    write_files(TARGETS["helm"].render(SHADOWED), tmp_path, target="helm")
    report, made = helm(tmp_path)
    base = {
        path.rpartition("/")[2]: documents(text)
        for path, text in TARGETS["kubernetes"].render(SHADOWED).items()
        if path.startswith("base/") and "kustomization" not in path
    }
    assert made == base
    assert not report["errors"]
    assert [one for one in report["messages"] if one["severity"] > 1] == []


def test_helm_waits_for_the_migrations_of_an_upgrade_before_it_replaces_pods(tmp_path):
    write_files(TARGETS["helm"].render(CANARY), tmp_path, target="helm")
    hooks = [
        made["migrations.yaml"][0]["metadata"]["annotations"].get("helm.sh/hook")
        for made in (helm(tmp_path)[1], helm(tmp_path, upgrades=True)[1])
    ]
    assert hooks == [None, "pre-upgrade"]


def test_values_of_the_chart_choose_scaling_images_and_operators(tmp_path):
    write_files(TARGETS["helm"].render(CANARY), tmp_path, target="helm")
    _, made = helm(
        tmp_path, replicas=5, monitoring=True, externalSecrets=True,
        images={"late--current": "mirror.example.com/late:3"},
    )  # fmt: skip
    first, second = made["deployments.yaml"]
    (container,) = first["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "mirror.example.com/late:3"
    assert "replicas" not in first["spec"]
    assert made["scaling.yaml"][0]["spec"]["minReplicas"] == 5
    image = second["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image.endswith("4b4b4b4b4b4b-0d0d0d0d")
    files = TARGETS["kubernetes"].render(CANARY)
    assert made["monitoring.yaml"] == documents(files["monitoring/monitoring.yaml"])
    assert made["external-secrets.yaml"] == documents(files["secrets/external-secrets.yaml"])


def test_values_of_the_chart_choose_where_pods_run_and_who_scales_them(tmp_path):
    write_files(TARGETS["helm"].render(CANARY), tmp_path, target="helm")
    _, made = helm(
        tmp_path, autoscaling="none", replicas=3, imagePullSecrets=[{"name": "pull"}],
        nodeSelector={"pool": "cpu"}, tolerations=[{"key": "ml", "operator": "Exists"}],
        ingress={"host": "late.example.com", "className": "nginx", "tlsSecret": "late-tls"},
    )  # fmt: skip
    assert "scaling.yaml" not in made
    for deployment in made["deployments.yaml"]:
        pod = deployment["spec"]["template"]["spec"]
        assert deployment["spec"]["replicas"] == 3
        assert pod["imagePullSecrets"] == [{"name": "pull"}]
        assert pod["nodeSelector"] == {"pool": "cpu"}
        assert pod["tolerations"] == [{"key": "ml", "operator": "Exists"}]
    (ingress,) = made["ingress.yaml"]
    assert ingress["spec"]["ingressClassName"] == "nginx"
    assert ingress["spec"]["tls"] == [{"hosts": ["late.example.com"], "secretName": "late-tls"}]
    validate([one for objects in made.values() for one in objects])
    _, made = helm(tmp_path, autoscaling="keda")
    assert "scaling.yaml" not in made
    assert [one["kind"] for one in made["keda.yaml"]] == ["ScaledObject", "ScaledObject"]


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"replicas": 0}, "replicas"), ({"autoscaling": "often"}, "autoscaling"),
        ({"images": {"late--curent": "late:3"}}, "curent"), ({"replica": 2}, "replica"),
        ({"images": {"late--current": "late"}}, "late--current"),
    ],
)  # fmt: skip
def test_values_that_the_chart_does_not_know_are_refused(tmp_path, values, place):
    write_files(TARGETS["helm"].render(CANARY), tmp_path, target="helm")
    with pytest.raises(AssertionError, match=place):
        helm(tmp_path, **values)


def test_workflows_of_github_have_no_finding_of_zizmor(tmp_path):
    project = Project(model="late", data="new.csv", image="registry.example.com/ml/late")
    for path, text in render_pipeline("github", project).items():
        write_file(tmp_path / path, text)
    zizmor = [python_of("zizmor").parent / "zizmor", "--offline", "--no-progress"]
    images.run(*zizmor, "--persona=pedantic", tmp_path / ".github")
    workflow = tmp_path / ".github" / "workflows" / "bascule.yml"
    workflow.write_text(re.sub(r"@[0-9a-f]{40} # ", "@", workflow.read_text()))
    with pytest.raises(AssertionError, match="unpinned-uses"):
        images.run(*zizmor, tmp_path / ".github")
