"""Azure Machine Learning: an online endpoint with its deployments, as Terraform."""

from __future__ import annotations

from functools import partial

from bascule.ship.rendering import render_folder
from bascule.ship.targets.port import TERRAFORM, Target

AZUREML = Target(
    "Terraform of an Azure ML online endpoint",
    partial(render_folder, "azureml"),
    TERRAFORM,
)
