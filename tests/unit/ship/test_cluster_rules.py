"""What an API server and operators refuse, as rules on the objects; each names its source.

`bench/kubernetes` runs the life cycle on a real API server, which no registry of packages has. Here
every rule is shown to refuse an object that breaks it.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
from dataclasses import replace

import pytest
from tests.shipments import ALONE, ARM, CANARY, CANDIDATE, SHADOWED, documents

from bascule.ship import TARGETS, Cluster

LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
VALUE = r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"


def objects_of(shipment, target="kubernetes"):
    return [
        one
        for path, text in TARGETS[target].render(shipment).items()
        if "kustomization" not in path
        for one in documents(text)
    ]


def pods_of(objects):
    return [
        (one, one["spec"]["template"]) for one in objects if one["kind"] in ("Deployment", "Job")
    ]


def names_are_those_of_kubernetes(objects, _before):
    """RFC 1123 labels, for Services RFC 1035; values of labels have at most 63 characters.

    https://kubernetes.io/docs/concepts/overview/working-with-objects/names/
    """
    for one in objects:
        name = one["metadata"]["name"]
        if not re.fullmatch(LABEL, name) or (one["kind"] == "Service" and not name[0].isalpha()):
            yield f"name {name}"
        for value in one["metadata"].get("labels", {}).values():
            if not re.fullmatch(VALUE, value):
                yield f"label {value}"


def selectors_stay_and_meet_nothing_else(objects, before):
    """A selector cannot change, selects its template, and selects no pod of another Deployment.

    https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#selector
    """
    deployments = [one for one in objects if one["kind"] == "Deployment"]
    former = {one["metadata"]["name"]: one for one in before if one["kind"] == "Deployment"}
    for one in deployments:
        selector, name = one["spec"]["selector"]["matchLabels"], one["metadata"]["name"]
        if name in former and former[name]["spec"]["selector"]["matchLabels"] != selector:
            yield f"selector of {name} is immutable"
        for other in deployments:
            labels = other["spec"]["template"]["metadata"]["labels"]
            if (selector.items() <= labels.items()) is not (one is other):
                yield f"selector of {name} and the pods of {other['metadata']['name']}"


def jobs_do_not_change(objects, before):
    """The template of a Job is immutable.

    https://kubernetes.io/docs/concepts/workloads/controllers/job/
    """
    former = {one["metadata"]["name"]: one for one in before if one["kind"] == "Job"}
    for one in objects:
        known = former.get(one["metadata"]["name"]) if one["kind"] == "Job" else None
        if known is not None and known["spec"] != one["spec"]:
            yield f"template of {one['metadata']['name']} is immutable"


def one_thing_sets_replicas(objects, _before):
    """With an autoscaler the manifest has no replicas, and KEDA refuses a second autoscaler.

    https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/
    #migrating-deployments-and-statefulsets-to-horizontal-autoscaling
    """
    scaled = [
        one["spec"]["scaleTargetRef"]["name"]
        for one in objects
        if one["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")
    ]
    for name in {one for one in scaled if scaled.count(one) > 1}:
        yield f"{name} has two autoscalers"
    for one in objects:
        if one["metadata"]["name"] in scaled and "replicas" in one["spec"]:
            yield f"{one['metadata']['name']} has replicas and an autoscaler"


def pods_meet_the_restricted_standard(objects, _before):
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted"""
    for one, template in pods_of(objects):
        for container in template["spec"]["containers"]:
            both = {**template["spec"].get("securityContext", {}), **container["securityContext"]}
            if not (
                both.get("runAsNonRoot") is True
                and both.get("runAsUser") != 0
                and both.get("seccompProfile") == {"type": "RuntimeDefault"}
                and both.get("allowPrivilegeEscalation") is False
                and both.get("capabilities") == {"drop": ["ALL"]}
            ):
                yield f"{one['metadata']['name']} is not restricted"


def pods_run_as_any_user(objects, _before):
    """OpenShift's `restricted-v2` chooses the user, and refuses a fixed one.

    https://docs.redhat.com/en/documentation/openshift_container_platform/4.19/html/
    authentication_and_authorization/managing-pod-security-policies
    """
    for one, template in pods_of(objects):
        if re.search(r'"(runAsUser|runAsGroup|fsGroup)"', json.dumps(template)):
            yield f"{one['metadata']['name']} has a fixed user"


def a_wave_has_what_it_needs_of_earlier_ones(objects, _before):
    """Argo CD ends a phase before the next, and a wave before the next: a secret comes earlier.

    https://argo-cd.readthedocs.io/en/stable/user-guide/sync-waves/
    """

    def wave(one):
        notes = one["metadata"].get("annotations", {})
        hook = notes.get("argocd.argoproj.io/hook", "Sync")
        phase = {"PreSync": 0, "Sync": 1}[hook]
        return (phase, int(notes.get("argocd.argoproj.io/sync-wave", "0")))

    secrets = {
        one["spec"]["target"]["name"]: wave(one) for one in objects if "Secret" in one["kind"]
    }
    for one, template in pods_of(objects):
        needed = re.findall(
            r'"secretKeyRef": \{"name": "([^"]+)", "key": "[^"]+"\}', json.dumps(template)
        )
        for name in needed:
            if name not in secrets or not secrets[name] < wave(one):
                yield f"{one['metadata']['name']} waits for {name}"


def services_reach_pods(objects, _before):
    """A Service, or a budget of disruptions, that selects no pod of these is a mistake."""
    labels = [template["metadata"]["labels"].items() for _, template in pods_of(objects)]
    for one in objects:
        if one["kind"] in ("Service", "PodDisruptionBudget"):
            selector = one["spec"]["selector"]
            chosen = selector.get("matchLabels", selector).items()
            if not any(chosen <= those for those in labels):
                yield f"{one['kind']} {one['metadata']['name']} selects nothing"


RULES = (
    names_are_those_of_kubernetes, selectors_stay_and_meet_nothing_else, jobs_do_not_change,
    one_thing_sets_replicas, pods_meet_the_restricted_standard, pods_run_as_any_user,
    a_wave_has_what_it_needs_of_earlier_ones, services_reach_pods,
)  # fmt: skip


def refused(objects, before=()):
    return [said for rule in RULES for said in rule(objects, before)]


def without_keda(objects):
    """What `production` applies; the overlay `keda` has the other autoscaler, and no HPA."""
    return [one for one in objects if one["kind"] != "ScaledObject"]


NEXT = replace(ALONE, arms=(replace(CANDIDATE, arm="current", share_percent=100),))
OTHER_RELEASE = replace(ALONE, arms=(replace(ALONE.current, image=f"{ARM.image}-next"),))
OTHER_MODEL = replace(
    CANARY,
    endpoint="late-current",
    arms=tuple(replace(a, model="late-current") for a in CANARY.arms),
)
ODD_NAME = replace(ALONE, endpoint="2024_Late.Flights" + "x" * 111)
BUCKET = replace(CANARY, cluster=Cluster(has_bucket=True, host="late.example.com"))


@pytest.mark.parametrize(
    "shipment", [ALONE, CANARY, SHADOWED, OTHER_MODEL, ODD_NAME, BUCKET],
    ids=["alone", "canary", "shadowed", "model", "name", "bucket"],
)  # fmt: skip
def test_no_rule_refuses_what_is_shipped(shipment):
    assert refused(without_keda(objects_of(shipment))) == []


@pytest.mark.parametrize(
    "then", [NEXT, OTHER_RELEASE, CANARY], ids=["version", "release", "canary"]
)
def test_what_comes_next_takes_the_place_of_what_was(then):
    before = without_keda(objects_of(ALONE))
    after = without_keda(objects_of(then))
    assert refused(after, before) == []
    assert "late--current" in {one["metadata"]["name"] for one in after}


def test_endpoints_in_one_namespace_share_no_object_and_no_selector():
    """Two charts that render one object: Helm refuses the second, and Argo CD warns of it."""
    shipments = [CANARY, OTHER_MODEL, replace(ALONE, endpoint="late_current")]
    rendered = [without_keda(objects_of(one)) for one in shipments]
    keys = [{(one["kind"], one["metadata"]["name"]) for one in objects} for objects in rendered]
    for some, others in itertools.combinations(keys, 2):
        assert not some & others
    assert refused([one for objects in rendered for one in objects]) == []


def test_kserve_takes_the_canaries():
    """In mode Standard alone, under different names, with shares of at most 100 %.

    https://github.com/kserve/kserve/pull/5672, of release 0.20
    """
    service, *runtimes = objects_of(CANARY, "kserve")
    assert service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Standard"
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", service["metadata"]["name"])
    predictors = [
        service["spec"]["predictor"],
        *(c["predictor"] for c in service["spec"]["canary"]),
    ]
    assert len({one["name"] for one in predictors}) == len(predictors) == 2
    assert sum(one["trafficPercent"] for one in service["spec"]["canary"]) <= 100
    assert all("minReplicas" not in c["predictor"] for c in service["spec"]["canary"])
    assert {one["metadata"]["name"] for one in runtimes} == {
        one["model"]["runtime"] for one in predictors
    }
    for runtime in runtimes:
        (container,) = runtime["spec"]["containers"]
        # Knative's Service: one port, and none of its own names for it but h2c and http1.
        assert container["ports"] == [{"containerPort": 8080, "protocol": "TCP"}]
        assert "lifecycle" not in container


def breaks(kind, change):
    def broken(objects):
        changed = copy.deepcopy(objects)
        change(next(one for one in changed if one["kind"] == kind))
        return changed

    return broken


def on_pod(change):
    return lambda one: change(one["spec"]["template"]["spec"])


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (breaks("Service", lambda o: o["metadata"].update(name="2-late")), "name 2-late"),
        (
            breaks("Deployment", lambda o: o["spec"]["selector"].update(matchLabels={"a": "b"})),
            "selector of late--control is immutable",
        ),
        (
            breaks("Job", on_pod(lambda pod: pod.update(priority=1))),
            "is immutable",
        ),
        (
            lambda objects: [*objects, *documents(
                TARGETS["kubernetes"].render(ALONE)["keda/keda.yaml"])],
            "late--current has two autoscalers",
        ),
        (
            breaks("Job", on_pod(lambda pod: pod["containers"][0]["securityContext"].clear())),
            "is not restricted",
        ),
        (
            breaks("Job", on_pod(lambda pod: pod["securityContext"].update(fsGroup=10_001))),
            "has a fixed user",
        ),
        (
            breaks("Job", lambda o: o["metadata"]["annotations"].update(
                {"argocd.argoproj.io/hook": "PreSync"})),
            "waits for late--catalogue",
        ),
        (
            breaks("Service", lambda o: o["spec"].update(selector={"a": "b"})),
            "selects nothing",
        ),
    ],
)  # fmt: skip
def test_each_rule_refuses_what_breaks_it(broken, said):
    objects = without_keda(objects_of(ALONE))
    assert any(said in one for one in refused(broken(objects), objects))


@pytest.mark.parametrize(
    ("provider", "gpus"), [("CUDAExecutionProvider", 1), ("OpenVINOExecutionProvider", None)]
)
def test_servers_get_their_execution_providers_and_gpus(provider, gpus):
    shipment = replace(CANARY, cluster=Cluster(providers=(provider,)))
    pods = [pod["spec"] for _, pod in pods_of(objects_of(shipment))]
    runtimes = [one["spec"] for one in objects_of(shipment, "kserve") if "Runtime" in one["kind"]]
    containers = [one for spec in (*pods, *runtimes) for one in spec["containers"]]
    servers = [one for one in containers if one["name"] in ("serve", "kserve-container")]
    assert len(servers) == 4
    for container in containers:
        env = {one["name"]: one.get("value") for one in container["env"]}
        is_server = container in servers
        expected = f'["{provider}"]' if is_server else None
        assert env.get("BASCULE_SERVING__PROVIDERS") == expected
        limits = container["resources"]["limits"]
        assert limits.get("nvidia.com/gpu") == (gpus if is_server else None)
