"""Argo Rollouts: an analysis that asks for the verdict of the rollout."""

from __future__ import annotations

from functools import partial

from bascule.ship.rendering import render_folder
from bascule.ship.targets.port import KUBECTL, Target

ARGO_ROLLOUTS = Target(
    "an AnalysisTemplate that asks for the rollout's verdict",
    partial(render_folder, "argo-rollouts"),
    KUBECTL,
)
