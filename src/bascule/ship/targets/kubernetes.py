"""Kubernetes: a Kustomize base with overlays."""

from __future__ import annotations

from bascule.monitoring.alerts import shipped
from bascule.ship.rendering import render_folder
from bascule.ship.shipment import Shipment
from bascule.ship.targets.port import Commands, Target

OVERLAYS = ("production", "plain", "staging", "keda", "agent")
_READY = "10m"
"""For the pods of a new version to be ready."""
_PRUNED = (
    "core/v1/Service", "core/v1/ConfigMap", "core/v1/ServiceAccount", "apps/v1/Deployment",
    "autoscaling/v2/HorizontalPodAutoscaler", "batch/v1/Job", "networking.k8s.io/v1/Ingress",
    "networking.k8s.io/v1/NetworkPolicy", "policy/v1/PodDisruptionBudget",
)  # fmt: skip
"""What is pruned. Custom resources are not: kubectl fails where their operator is not installed."""


def _render(shipment: Shipment) -> dict[str, str]:
    files = render_folder("kubernetes", shipment, rules=shipped("rules.yml"))
    if not shipment.cluster.host:
        del files["base/ingress.yaml"]
    return files


def _commands(shipment: Shipment, overlay: str) -> Commands:
    """The next version is applied and waited for; what it leaves behind goes after that."""
    kustomize = ("--kustomize", f"overlays/{overlay}")
    namespace = shipment.cluster.namespace + ("-staging" if overlay == "staging" else "")
    ours = ",".join(f"{key}={value}" for key, value in shipment.owned.items())
    workloads = [*map(shipment.workload, shipment.versions), shipment.part("control")]
    ready = tuple(
        (
            "kubectl", "rollout", "status", f"deployment/{name}", "--namespace", namespace,
            "--timeout", _READY,
        )
        for name in workloads
    )  # fmt: skip
    kinds = [word for kind in _PRUNED for word in ("--prune-allowlist", kind)]
    prune = ("kubectl", "apply", *kustomize, "--prune", "--selector", ours, *kinds)
    return {
        "apply": ((("kubectl", "apply", *kustomize), *ready),),
        "prune": ((prune,),),
        "diff": ((("kubectl", "diff", *kustomize),),),
        "remove": ((("kubectl", "delete", "--ignore-not-found", *kustomize),),),
    }


KUBERNETES = Target("a Kustomize base with overlays", _render, _commands, OVERLAYS)
