"""A container image of one version: Dockerfile, exact packages, SBOM and licences.

The ML-BOM of the model lies beside the SBOM and not in the image: evidence that comes later changes
it, and the same version must give the same image.
"""

from __future__ import annotations

from bascule.ship.rendering import render_folder
from bascule.ship.sbom import bill_of_materials
from bascule.ship.shipment import Shipment
from bascule.ship.targets.port import Target


def _render(shipment: Shipment) -> dict[str, str]:
    files = {"sbom.cdx.json": bill_of_materials(shipment.current)}
    if shipment.current.ml_bom:
        files["ml-bom.cdx.json"] = shipment.current.ml_bom
    return render_folder("container", shipment) | files


CONTAINER = Target("a Dockerfile with exact packages, SBOM and licences", _render)
