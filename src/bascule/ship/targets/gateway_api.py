"""The Gateway API: a route with the shares of the plan."""

from __future__ import annotations

from functools import partial

from bascule.ship.rendering import render_folder
from bascule.ship.targets.port import KUBECTL, Target

GATEWAY_API = Target(
    "a route of the Gateway API with the shares of the plan",
    partial(render_folder, "gateway-api"),
    KUBECTL,
)
