"""The bills of materials of an image and of a model, in CycloneDX 1.6 (ECMA-424)."""

from __future__ import annotations

import json
import uuid
from typing import Any

from bascule.bundle import Manifest, Said
from bascule.core import VERSION, Field
from bascule.ship.shipment import Shipped

_NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")
"""The namespace of names that are addresses (RFC 9562, section 6.6)."""
_TOOL = {"type": "application", "name": "bascule", "version": VERSION}


def bill_of_materials(shipped: Shipped) -> str:
    """Every distribution of the image and the bundle, as JSON; the same image gives the same text.

    It has no time, and its serial number follows from its content.
    """
    components = [
        _library(package.name, package.version)
        | ({"licenses": [{"license": {"name": package.license}}]} if package.license else {})
        for package in shipped.packages
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
    image = {"type": "container", "name": shipped.image, "bom-ref": shipped.image}
    return _document(image, components)


def ml_bill_of_materials(manifest: Manifest, known: Said, version: str = "") -> str:
    """A model as the subject of a CycloneDX 1.6 ML-BOM, with its model card. Pure.

    Args:
        manifest: Of its bundle.
        known: Its statements: metrics, rows, gates. What is not there is absent.
        version: What the registry calls it; empty for its digest.
    """
    component = {
        "type": "machine-learning-model",
        "bom-ref": manifest.digest,
        "name": manifest.name,
        "version": version or manifest.digest,
        "hashes": [{"alg": "SHA-256", "content": manifest.digest.removeprefix("sha256:")}],
        "modelCard": _model_card(manifest, known),
    }
    requires = sorted(manifest.original.requires.items())
    libraries = [_library(name, number) for name, number in requires]
    depends = [{"ref": manifest.digest, "dependsOn": [part["bom-ref"] for part in libraries]}]
    return _document(component, libraries, dependencies=depends)


def _document(subject: dict[str, Any], components: list[dict[str, Any]], **more: Any) -> str:
    content = json.dumps([subject, components], sort_keys=True)
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, content)}",
        "version": 1,
        "metadata": {"tools": {"components": [_TOOL]}, "component": subject},
        "components": components,
        **more,
    }
    return json.dumps(document, indent=2) + "\n"


def _library(name: str, version: str) -> dict[str, Any]:
    url = f"pkg:pypi/{name}@{version}"
    return {"type": "library", "bom-ref": url, "name": name, "version": version, "purl": url}


def _model_card(manifest: Manifest, known: Said) -> dict[str, Any]:
    sliced = {
        f"{column}={value}": part["metrics"]
        for column, slices in known.quality.get("slices", {}).items()
        for value, part in slices.items()
    }
    words = str(known.provenance.get("description") or "").strip()
    card: dict[str, Any] = {
        "modelParameters": {
            "task": manifest.task,
            "architectureFamily": manifest.flavor,
            "datasets": [
                {"type": "dataset", "name": f"{name} rows", "contents": {"properties": [
                    {"name": fact, "value": str(rows[fact])} for fact in ("rows", "sha256")
                ]}}
                for name in ("train", "test", "calibration")
                if (rows := known.provenance.get(name))
            ],
            "inputs": [_format(field) for field in manifest.signature.inputs],
            "outputs": [_format(field) for field in manifest.signature.outputs],
        },
        "quantitativeAnalysis": {"performanceMetrics": [
            {"type": name, "value": f"{value:.6g}", **({"slice": rows} if rows else {})}
            for rows, metrics in {"": known.quality.get("overall", {}), **sliced}.items()
            for name, value in metrics.items()
            if value is not None
        ]},
        "properties": [
            {"name": f"gate: {result['criterion']}", "value": f"{result.get('value')}"}
            for result in known.gates.get("results", ())
        ],
    }  # fmt: skip
    return card | ({"considerations": {"useCases": [words]}} if words else {})


def _format(field: Field) -> dict[str, str]:
    return {"format": f"{field.name}: {field.dtype.value}"}
