"""Flagger: a canary that asks for the verdict of the rollout."""

from __future__ import annotations

from functools import partial

from bascule.ship.rendering import render_folder
from bascule.ship.targets.port import Target

FLAGGER = Target(
    "a Canary that asks for the rollout's verdict",
    partial(render_folder, "flagger"),
    {
        "apply": ("kubectl", "apply", "--filename", "."),
        "status": ("kubectl", "get", "--filename", "."),
        "remove": ("kubectl", "delete", "--filename", "."),
    },
)
