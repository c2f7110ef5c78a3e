"""Istio: shares of the plan, and ejection of pods that fail."""

from __future__ import annotations

from functools import partial

from bascule.ship.rendering import render_folder
from bascule.ship.targets.port import Target

ISTIO = Target(
    "Istio's routes with the shares of the plan, and ejection",
    partial(render_folder, "istio"),
    {
        "apply": ("kubectl", "apply", "--filename", "."),
        "status": ("kubectl", "get", "--filename", "."),
        "remove": ("kubectl", "delete", "--filename", "."),
    },
)
