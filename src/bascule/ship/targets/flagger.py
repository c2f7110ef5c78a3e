"""Flagger: a canary that asks for the verdict of the rollout."""

from __future__ import annotations

from functools import partial

from bascule.ship.rendering import render_folder
from bascule.ship.targets.port import KUBECTL, Target

FLAGGER = Target(
    "a Canary that asks for the rollout's verdict",
    partial(render_folder, "flagger"),
    KUBECTL,
)
