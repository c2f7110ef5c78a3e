"""Compose: serving, control, PostgreSQL, S3, Prometheus, Alertmanager and Grafana for a team."""

from __future__ import annotations

from bascule.monitoring.alerts import shipped
from bascule.ship.rendering import render_folder
from bascule.ship.shipment import Shipment
from bascule.ship.targets.port import Target, always


def _render(shipment: Shipment) -> dict[str, str]:
    return render_folder("compose", shipment) | {
        "rules.yml": shipped("rules.yml"),
        "grafana/dashboard.json": shipped("dashboard.json"),
    }


COMPOSE = Target(
    "a team's shared installation with Compose",
    _render,
    always(
        apply="docker compose up --detach || podman-compose up --detach",
        remove="docker compose down || podman-compose down",
    ),
)
