"""The metadata of a model card, as the Hub of Hugging Face reads them. Pure."""

from __future__ import annotations

from typing import Any

from bascule.bundle import Manifest, Said

_TASKS = {"classification": "tabular-classification", "regression": "tabular-regression"}


def front_matter(manifest: Manifest, known: Said, version: str, licence: str = "") -> str:
    """YAML between two lines of dashes; `model-index` has the metrics on held-out rows.

    `licence` is an identifier of the Hub, such as `apache-2.0`; empty for none.
    """
    import yaml

    task = _TASKS.get(manifest.task, "other")
    metrics = [
        {"type": name, "name": name, "value": float(f"{value:.6g}")}
        for name, value in known.quality.get("overall", {}).items()
        if value is not None
    ]
    data: dict[str, Any] = {"library_name": "bascule", "tags": [manifest.flavor, manifest.task]}
    if licence:
        data["license"] = licence
    if manifest.task in _TASKS:
        data["pipeline_tag"] = task
    if metrics:
        rows = known.quality["rows"]
        result = {
            "task": {"type": task},
            "dataset": {"type": "held-out", "name": f"{rows:,} held-out rows"},
            "metrics": metrics,
        }
        data["model-index"] = [{"name": version, "results": [result]}]
    return f"---\n{yaml.safe_dump(data, sort_keys=False)}---\n\n"
