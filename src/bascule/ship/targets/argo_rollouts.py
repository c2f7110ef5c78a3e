"""Argo Rollouts: an analysis that asks for the verdict of the rollout."""

from __future__ import annotations

from functools import partial

from bascule.ship.rendering import render_folder
from bascule.ship.targets.port import Target

ARGO_ROLLOUTS = Target(
    "an AnalysisTemplate that asks for the rollout's verdict",
    partial(render_folder, "argo-rollouts"),
    {
        "apply": ("kubectl", "apply", "--filename", "."),
        "status": ("kubectl", "get", "--filename", "."),
        "remove": ("kubectl", "delete", "--filename", "."),
    },
)
