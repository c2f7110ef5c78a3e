"""KServe: a runtime for each version, and a service whose canary has the share of the plan."""

from __future__ import annotations

from bascule.ship.rendering import render_folder
from bascule.ship.shipment import Shipment
from bascule.ship.targets.port import KUBECTL, Target


def _render(shipment: Shipment) -> dict[str, str]:
    return render_folder("kserve", shipment, newest=shipment.arms[-1])


KSERVE = Target(
    "a ServingRuntime and an InferenceService of KServe",
    _render,
    KUBECTL,
)
