"""Istio: shares of the plan, and ejection of pods that fail."""

from __future__ import annotations

from functools import partial

from bascule.ship.rendering import render_folder
from bascule.ship.targets.port import KUBECTL, Target

ISTIO = Target(
    "Istio's routes with the shares of the plan, and ejection",
    partial(render_folder, "istio"),
    KUBECTL,
)
