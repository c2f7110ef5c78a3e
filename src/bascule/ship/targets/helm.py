"""A Helm chart: the manifests of Kubernetes with Helm's values in place of ours.

The manifests are rendered with placeholders, which then become Helm's expressions: chart and
Kustomize base have one source.
"""

from __future__ import annotations

import re
from dataclasses import replace

from bascule.monitoring.alerts import shipped
from bascule.ship.rendering import render_folder
from bascule.ship.shipment import Cluster, Shipment
from bascule.ship.targets.port import Commands, Target

_REPLICAS, _MAX_REPLICAS = 970_001, 970_002
_RULES = "rules: PLACEHOLDER-RULES"
_MARKED = Cluster(
    pull_secrets=("PLACEHOLDER",), node_selector={"PLACEHOLDER": ""}, tolerations=({"key": ""},),
    host="PLACEHOLDER-HOST", tls_secret="PLACEHOLDER-TLS", ingress_class="PLACEHOLDER-CLASS",
)  # fmt: skip
_CONDITIONS = {
    "scaling.yaml": 'eq .Values.autoscaling "hpa"',
    "keda.yaml": 'eq .Values.autoscaling "keda"',
    "ingress.yaml": ".Values.ingress.host",
    "monitoring.yaml": ".Values.monitoring",
    "external-secrets.yaml": ".Values.externalSecrets",
}
"""By file that is not always there: when it is."""
_FIXED = """\
  {{- if eq .Values.autoscaling "none" }}
  replicas: {{ .Values.replicas }}
  {{- end }}
"""
_UPGRADE = """
    {{- if .Release.IsUpgrade }}
    helm.sh/hook: pre-upgrade
    helm.sh/hook-delete-policy: before-hook-creation
    {{- end }}"""
"""Of the migrations: Helm waits for them before it replaces pods. At an installation they run
beside the pods, which are ready when the tables are there: the secrets come with the chart."""


def _render(shipment: Shipment) -> dict[str, str]:
    arms = tuple(
        replace(arm, image=f"PLACEHOLDER-IMAGE-{number}")
        for number, arm in enumerate(shipment.arms)
    )
    shadow = shipment.shadow and replace(shipment.shadow, image="PLACEHOLDER-IMAGE-shadow")
    cluster = replace(
        _MARKED, namespace=shipment.cluster.namespace, has_bucket=shipment.cluster.has_bucket,
        egress_ports=shipment.cluster.egress_ports, providers=shipment.cluster.providers,
    )  # fmt: skip
    marked = replace(
        shipment, arms=arms, shadow=shadow, replicas=_REPLICAS, max_replicas=_MAX_REPLICAS,
        cluster=cluster,
    )  # fmt: skip
    expressions = {
        str(_REPLICAS): "{{ .Values.replicas }}",
        str(_MAX_REPLICAS): "{{ .Values.maxReplicas }}",
        _RULES: '{{ .Files.Get "rules.yml" | nindent 2 }}',
        "PLACEHOLDER-HOST": "{{ .Values.ingress.host }}",
        marked.migrations: shipment.migrations,
    } | {
        arm.image: f'{{{{ index .Values.images "{marked.workload(arm)}" }}}}'
        for arm in marked.versions
    }  # fmt: skip
    chart = render_folder("helm", shipment) | {"rules.yml": shipped("rules.yml")}
    for path, text in render_folder("kubernetes", marked, rules=_RULES).items():
        name = path.rsplit("/", 1)[1]
        if name != "kustomization.yaml":
            for placeholder, expression in expressions.items():
                text = text.replace(placeholder, expression)
            chart[f"templates/{name}"] = _conditional(name, _with_values(text))
    return chart


def _with_values(text: str) -> str:
    """Fields of values that may be empty are there only if they are not."""
    for name in ("imagePullSecrets", "nodeSelector", "tolerations"):
        text = re.sub(
            rf"^( *){name}: .*\n",
            rf"\1{{{{- with .Values.{name} }}}}\n\1{name}: {{{{ toJson . }}}}\n\1{{{{- end }}}}\n",
            text,
            flags=re.MULTILINE,
        )
    text = re.sub(
        r"^  ingressClassName: .*\n",
        "  {{- with .Values.ingress.className }}\n  ingressClassName: {{ . }}\n  {{- end }}\n",
        text,
        flags=re.MULTILINE,
    )
    text = re.sub(
        r"^  tls:\n(    .*\n)+?( +)secretName: .*\n",
        lambda found: (
            "  {{- if .Values.ingress.tlsSecret }}\n"
            + found[0].replace("PLACEHOLDER-TLS", "{{ .Values.ingress.tlsSecret }}")
            + "  {{- end }}\n"
        ),
        text,
        flags=re.MULTILINE,
    )
    text = text.replace("  revisionHistoryLimit: 3\n", f"  revisionHistoryLimit: 3\n{_FIXED}")
    return re.sub(r'(?<=sync-wave: "-1")', _UPGRADE, text)


def _conditional(name: str, text: str) -> str:
    if name not in _CONDITIONS:
        return text
    return f"{{{{- if {_CONDITIONS[name]} }}}}\n{text.rstrip()}\n{{{{- end }}}}\n"


def _commands(shipment: Shipment, _overlay: str) -> Commands:
    # A release of its own: two endpoints in a namespace are two charts.
    release, place = shipment.slug, ("--namespace", shipment.cluster.namespace)
    apply = ("helm", "upgrade", "--install", release, ".", *place, "--create-namespace", "--wait")
    return {
        "apply": ((apply,),),
        "remove": ((("helm", "uninstall", release, *place),),),
    }


HELM = Target("a Helm chart", _render, _commands)
