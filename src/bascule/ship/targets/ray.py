"""Ray Serve: an application whose replicas run the engine."""

from __future__ import annotations

from functools import partial

from bascule.ship.rendering import render_folder
from bascule.ship.targets.port import Target

RAY = Target(
    "an application of Ray Serve",
    partial(render_folder, "ray"),
    {
        "apply": (("serve", "deploy", "serve.yaml"),),
        "status": (("serve", "status"),),
        "remove": (("serve", "shutdown", "--yes"),),
    },
)
