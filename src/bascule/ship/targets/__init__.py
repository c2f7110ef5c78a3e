"""The targets by name. A target is a folder of templates and an entry here.

One whose files are more than its templates has a module.
"""

from __future__ import annotations

from collections.abc import Mapping

from bascule.ship.targets.compose import COMPOSE
from bascule.ship.targets.container import CONTAINER
from bascule.ship.targets.helm import HELM
from bascule.ship.targets.kubernetes import KUBERNETES
from bascule.ship.targets.port import KUBECTL, RAY, TERRAFORM, Target, of_templates

TARGETS: Mapping[str, Target] = {
    "container": CONTAINER,
    "compose": COMPOSE,
    "kubernetes": KUBERNETES,
    "helm": HELM,
    "kserve": of_templates("kserve", "a ServingRuntime and an InferenceService of KServe", KUBECTL),
    "istio": of_templates(
        "istio", "Istio's routes with the shares of the plan, and ejection", KUBECTL
    ),
    "gateway-api": of_templates(
        "gateway-api", "a route of the Gateway API with the shares of the plan", KUBECTL
    ),
    "envoy": of_templates("envoy", "Envoy with the shares of the plan, and ejection"),
    "argo-rollouts": of_templates(
        "argo-rollouts", "an AnalysisTemplate that asks for the rollout's verdict", KUBECTL
    ),
    "ray": of_templates("ray", "applications of Ray Serve", RAY),
    "sagemaker": of_templates("sagemaker", "Terraform of a SageMaker endpoint", TERRAFORM),
    "vertex": of_templates("vertex", "Terraform and a script of a Vertex AI endpoint", TERRAFORM),
    "azureml": of_templates("azureml", "Terraform of an Azure ML online endpoint", TERRAFORM),
}
"""In the order of the help."""

ROUTES: Mapping[str, tuple[str, ...]] = {
    "envoy": ("routes.yaml",),
    "gateway-api": ("httproute.yaml",),
    "istio": ("destinationrule.yaml", "virtualservice.yaml"),
}
"""By targets that split requests: the files that have the shares."""
