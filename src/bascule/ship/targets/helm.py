"""A Helm chart: the manifests of Kubernetes with Helm's values in place of ours.

The manifests are rendered with placeholders, which then become Helm's expressions: chart and
Kustomize base have one source.
"""

from __future__ import annotations

from dataclasses import replace

from bascule.monitoring.alerts import shipped
from bascule.ship.rendering import render_folder
from bascule.ship.shipment import Shipment
from bascule.ship.targets.port import Target

_REPLICAS, _MAX_REPLICAS = 970_001, 970_002
_RULES = "rules: PLACEHOLDER-RULES"


def _render(shipment: Shipment) -> dict[str, str]:
    arms = tuple(
        replace(arm, image=f"PLACEHOLDER-IMAGE-{number}")
        for number, arm in enumerate(shipment.arms)
    )
    shadow = shipment.shadow and replace(shipment.shadow, image="PLACEHOLDER-IMAGE-shadow")
    marked = replace(
        shipment, arms=arms, shadow=shadow, replicas=_REPLICAS, max_replicas=_MAX_REPLICAS
    )
    expressions = {
        str(_REPLICAS): "{{ .Values.replicas }}",
        str(_MAX_REPLICAS): "{{ .Values.maxReplicas }}",
        _RULES: '{{ .Files.Get "rules.yml" | nindent 2 }}',
    } | {
        arm.image: f'{{{{ index .Values.images "{arm.slug}" }}}}' for arm in marked.versions
    }  # fmt: skip
    chart = render_folder("helm", shipment) | {"rules.yml": shipped("rules.yml")}
    for path, text in render_folder("kubernetes", marked, rules=_RULES).items():
        folder, name = path.rsplit("/", 1)
        if folder == "base" and name != "kustomization.yaml":
            chart[f"templates/{name}"] = _replaced(text, expressions)
        elif name in ("monitoring.yaml", "external-secrets.yaml"):
            value = {"monitoring.yaml": "monitoring", "external-secrets.yaml": "externalSecrets"}
            condition = f"{{{{- if .Values.{value[name]} }}}}\n"
            chart[f"templates/{name}"] = (
                condition + _replaced(text, expressions).rstrip() + "\n{{- end }}\n"
            )
    return chart


def _replaced(text: str, expressions: dict[str, str]) -> str:
    for placeholder, expression in expressions.items():
        text = text.replace(placeholder, expression)
    return text


HELM = Target(
    "a Helm chart",
    _render,
    {
        "apply": (("helm", "upgrade", "--install", "bascule", "."),),
        "status": (("helm", "status", "bascule"),),
        "remove": (("helm", "uninstall", "bascule"),),
    },
)
