"""What the tools of the platforms say of the files: Kubernetes' schemas, Helm, Trivy, npm."""

from __future__ import annotations

import json

import pytest
from tests import images
from tests.own_environments import python_of
from tests.shipments import CANARY, documents

from bascule.ship import TARGETS

pytestmark = pytest.mark.slow

MANIFESTS = ("kubernetes", "kserve", "istio", "gateway-api", "argo-rollouts", "flagger")
KUBERNETES = ("1.31", "1.34", "1.37")
VALIDATE = """
import json, sys
import kubernetes_validate
for document in json.load(sys.stdin):
    for version in sys.argv[1:]:
        kubernetes_validate.validate(document, version, strict=True)
"""
HELM = """
import json, sys
from pathlib import Path
"""
CUSTOM = {
    "gateway.networking.k8s.io/v1": "gateway-api/gateway.networking.k8s.io/v1",
    "networking.istio.io/v1": "istio/networking.istio.io/v1",
    "keda.sh/v1alpha1": "keda/keda.sh/v1alpha1",
    "monitoring.coreos.com/v1": "prometheus-operator/monitoring.coreos.com/v1",
    "argoproj.io/v1alpha1": "argo-rollouts/argoproj.io/v1alpha1",
    "external-secrets.io/v1": "external-secrets/external-secrets.io/v1",
}
"""The npm module of `@kubernetes-models` with the validators of each group."""
CHECK = """
import { readFileSync } from "node:fs";
for (const { path, kind, document } of JSON.parse(readFileSync(0))) {
  const models = await import("@kubernetes-models/" + path);
  new models[kind](document).validate();
}
"""


def rendered():
    """Every document of the targets that are manifests."""
    for target in MANIFESTS:
        for path, text in TARGETS[target].render(CANARY).items():
            for document in documents(text):
                if document.get("kind") != "Kustomization":
                    yield path, document


def is_of_kubernetes(document):
    group = document["apiVersion"].partition("/")[0]
    return "." not in group or (group.endswith((".k8s.io",)) and "gateway" not in group)


def test_every_object_of_kubernetes_is_valid_in_three_releases():
    found = [document for _, document in rendered() if is_of_kubernetes(document)]
    assert {"Deployment", "Service", "Job", "NetworkPolicy", "HorizontalPodAutoscaler"} <= {
        one["kind"] for one in found
    }
    images.run(python_of("ship"), "-c", VALIDATE, *KUBERNETES, input=json.dumps(found))


def test_the_strict_validation_refuses_a_misspelt_field():
    service = next(one for _, one in rendered() if one["kind"] == "Service")
    broken = {**service, "spec": {**service["spec"], "slector": {}}}
    with pytest.raises(AssertionError, match="slector"):
        images.run(python_of("ship"), "-c", VALIDATE, "1.34", input=json.dumps([broken]))
