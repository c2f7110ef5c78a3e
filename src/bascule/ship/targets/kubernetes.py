"""Kubernetes: a Kustomize base with overlays for staging and production."""

from __future__ import annotations

from bascule.monitoring.alerts import shipped
from bascule.ship.rendering import render_folder
from bascule.ship.shipment import Shipment
from bascule.ship.targets.port import Target

_OVERLAY = "overlays/production"


def _render(shipment: Shipment) -> dict[str, str]:
    return render_folder("kubernetes", shipment, rules=shipped("rules.yml"))


KUBERNETES = Target(
    "a Kustomize base with overlays for staging and production",
    _render,
    {
        "apply": (("kubectl", "apply", "--kustomize", _OVERLAY),),
        "status": (("kubectl", "get", "--kustomize", _OVERLAY),),
        "remove": (("kubectl", "delete", "--kustomize", _OVERLAY),),
    },
)
