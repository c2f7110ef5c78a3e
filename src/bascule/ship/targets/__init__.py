"""The targets by name. One file a target, and one line here."""

from __future__ import annotations

from collections.abc import Mapping

from bascule.ship.targets.argo_rollouts import ARGO_ROLLOUTS
from bascule.ship.targets.azureml import AZUREML
from bascule.ship.targets.compose import COMPOSE
from bascule.ship.targets.container import CONTAINER
from bascule.ship.targets.envoy import ENVOY
from bascule.ship.targets.flagger import FLAGGER
from bascule.ship.targets.gateway_api import GATEWAY_API
from bascule.ship.targets.helm import HELM
from bascule.ship.targets.istio import ISTIO
from bascule.ship.targets.kserve import KSERVE
from bascule.ship.targets.kubernetes import KUBERNETES
from bascule.ship.targets.port import Target
from bascule.ship.targets.sagemaker import SAGEMAKER
from bascule.ship.targets.vertex import VERTEX

TARGETS: Mapping[str, Target] = {
    "container": CONTAINER,
    "compose": COMPOSE,
    "kubernetes": KUBERNETES,
    "helm": HELM,
    "kserve": KSERVE,
    "istio": ISTIO,
    "gateway-api": GATEWAY_API,
    "envoy": ENVOY,
    "argo-rollouts": ARGO_ROLLOUTS,
    "flagger": FLAGGER,
    "sagemaker": SAGEMAKER,
    "vertex": VERTEX,
    "azureml": AZUREML,
}
"""In the order of the help."""
