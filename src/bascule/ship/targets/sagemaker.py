"""SageMaker: models and an endpoint with the shares of the plan, as Terraform."""

from __future__ import annotations

from functools import partial

from bascule.ship.rendering import render_folder
from bascule.ship.targets.port import TERRAFORM, Target

SAGEMAKER = Target(
    "Terraform of a SageMaker endpoint",
    partial(render_folder, "sagemaker"),
    TERRAFORM,
)
