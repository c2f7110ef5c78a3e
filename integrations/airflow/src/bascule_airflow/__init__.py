"""Batch jobs and training runs of a Bascule server in Apache Airflow."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """What Airflow asks a provider."""
    return {
        "package-name": "airflow-provider-bascule",
        "name": "Bascule",
        "description": "Batch scoring and training on a Bascule server.",
        "connection-types": [
            {"connection-type": "bascule", "hook-class-name": "bascule_airflow.hooks.BasculeHook"}
        ],
    }
