"""Envoy without a mesh: shares of the plan, copies for the shadow, ejection of what fails."""

from __future__ import annotations

from functools import partial

from bascule.ship.rendering import render_folder
from bascule.ship.targets.port import Target

ENVOY = Target("Envoy with the shares of the plan, and ejection", partial(render_folder, "envoy"))
