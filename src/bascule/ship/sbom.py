"""The bill of materials of an image, in CycloneDX 1.6 (ECMA-424)."""

from __future__ import annotations

import json
import uuid

from bascule.core import VERSION
from bascule.ship.shipment import Shipped

_NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")
"""The namespace of names that are addresses (RFC 9562, section 6.6)."""


def bill_of_materials(shipped: Shipped) -> str:
    """Every distribution of the image and the bundle, as JSON; the same image gives the same text.

    It has no time, and its serial number follows from its content.
    """
    components = [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{one.name}@{one.version}",
            "name": one.name,
            "version": one.version,
            "purl": f"pkg:pypi/{one.name}@{one.version}",
            **({"licenses": [{"license": {"name": one.license}}]} if one.license else {}),
        }
        for one in shipped.packages
    ]
    components.append(
        {
            "type": "machine-learning-model",
            "bom-ref": shipped.digest,
            "name": shipped.model,
            "version": str(shipped.number),
            "hashes": [{"alg": "SHA-256", "content": shipped.digest.removeprefix("sha256:")}],
        }
    )
    content = json.dumps(components, sort_keys=True)
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, content)}",
        "version": 1,
        "metadata": {
            "tools": {
                "components": [{"type": "application", "name": "bascule", "version": VERSION}]
            },
            "component": {"type": "container", "name": shipped.image, "bom-ref": shipped.image},
        },
        "components": components,
    }
    return json.dumps(document, indent=2) + "\n"
