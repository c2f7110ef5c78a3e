"""Vertex AI: an endpoint as Terraform, and a script that deploys the versions."""

from __future__ import annotations

from functools import partial

from bascule.ship.rendering import render_folder
from bascule.ship.targets.port import TERRAFORM, Target

VERTEX = Target(
    "Terraform and a script of a Vertex AI endpoint",
    partial(render_folder, "vertex"),
    TERRAFORM,
)
