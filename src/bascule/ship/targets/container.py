"""A container image of one version: Dockerfile, exact packages, SBOM and licences."""

from __future__ import annotations

from bascule.ship.rendering import render_folder
from bascule.ship.sbom import bill_of_materials
from bascule.ship.shipment import Shipment
from bascule.ship.targets.port import Target


def _render(shipment: Shipment) -> dict[str, str]:
    return render_folder("container", shipment) | {
        "sbom.cdx.json": bill_of_materials(shipment.current)
    }


CONTAINER = Target("a Dockerfile with exact packages, SBOM and licences", _render)
