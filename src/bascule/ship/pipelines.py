"""Pipelines that deliver a model: one script of steps, and a workflow that calls them.

The steps are in one shell script, `ci/bascule.sh`, which runs on a laptop as it runs in the
pipeline. A workflow only says when which step runs, and where secrets come from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from bascule.core import Invalid, check_name
from bascule.ship.rendering import Files, render_text

SYSTEMS: Mapping[str, Mapping[str, str]] = {
    "github": {
        ".github/workflows/bascule.yml": "ci/github/bascule.yml.j2",
        ".github/workflows/bascule-updates.yml": "ci/github/updates.yml.j2",
    },
    "gitlab": {".gitlab-ci.yml": "ci/gitlab/gitlab-ci.yml.j2"},
    "azure": {
        "azure-pipelines.yml": "ci/azure/azure-pipelines.yml.j2",
        "azure-pipelines-updates.yml": "ci/azure/updates.yml.j2",
    },
}
"""By system: its files, and the templates of them."""

SCRIPT = "ci/bascule.sh"

CHECKS = (
    ("data", "Validate the data"),
    ("test", "Test the project"),
    ("pack", "Train and pack"),
    ("gates", "Check the gates against the champion"),
    ("build", "Build the image"),
    ("scan", "Scan the image"),
)
"""The steps of every change, in their order, with their titles."""

DELIVERY = (
    ("register", "Register the version"),
    ("build", "Build the image"),
    ("scan", "Scan the image"),
    ("publish", "Push the image, sign it, and note its digest"),
    ("deploy", "Deploy the version as a canary"),
    ("settle", "Wait for the verdict, and move the champion"),
)
"""The steps of the main branch, after those of every change; alone they have the deploying key."""
OF_IMAGES = ("build", "scan", "publish")
ACTIONS = {
    "checkout": "actions/checkout@08c6903cd8c0fde910a37f88322edcfb5dd907a8 # v5.0.0",
    "python": "actions/setup-python@e797f83bcb11b83ae66e0230d6156d7c80228e7c # v6.0.0",
    "upload": "actions/upload-artifact@ea165f8d65b6e75b540449e92b4886f43607fa02 # v4.6.2",
    "download": "actions/download-artifact@d3f86a106a0bac45b974a628896c90dbdf5c8093 # v4.3.0",
    "trivy": "aquasecurity/setup-trivy@81e514348e19b6112ce2a7e3ecbafe19c1e1f567 # v0.3.1",
    "cosign": "sigstore/cosign-installer@d7543c93d881b35a8faa02e8e3605f69b7a1ce62 # v3.10.0",
}
"""Actions of GitHub by commit: a tag can be moved to other code."""
TRIVY_VERSION = "v0.74.0"

_IMAGE = re.compile(r"[a-z0-9][a-z0-9._:-]*(/[a-z0-9][a-z0-9._-]*)+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """What a pipeline needs to know of a project.

    Attributes:
        model: The name that its training script packs.
        train: The command that trains and packs the bundle, a folder beside the script.
        test: The command of its tests.
        data: The table of new rows that is compared with the champion's baseline; empty for none.
        image: REGISTRY/PATH/NAME of the image, without a tag; empty to build and push none.
        python: The version of Python.
    """

    model: str
    train: str = "python train.py"
    test: str = "python -m pytest -q"
    data: str = ""
    image: str = ""
    python: str = "3.11"


def render_pipeline(system: str, project: Project) -> Files:
    """The files of a pipeline, by their path in the repository.

    Raises:
        Invalid: The system is not known, or a value of the project cannot be one.
    """
    if system not in SYSTEMS:
        raise Invalid(f"no system {system!r}", hint=f"one of {', '.join(SYSTEMS)}")
    check_name(project.model)
    if project.image and not _IMAGE.fullmatch(project.image):
        raise Invalid(
            f"--image {project.image!r} is not the name of an image",
            hint="give REGISTRY/PATH/NAME in lower case without a tag: "
            "registry.example.com/ml/late",
        )
    for name in ("train", "test", "data"):
        if "\n" in getattr(project, name):
            raise Invalid(f"--{name} has several lines", hint="put them into a script")
    checks, delivery = (
        [step for step in steps if project.image or step[0] not in OF_IMAGES]
        for steps in (CHECKS, DELIVERY)
    )
    facts = {
        "p": project, "checks": checks, "delivery": delivery, "script": SCRIPT,
        "actions": ACTIONS, "of_images": OF_IMAGES, "trivy_version": TRIVY_VERSION,
    }  # fmt: skip
    files = {path: render_text(name, **facts) for path, name in SYSTEMS[system].items()}
    return {**files, SCRIPT: render_text("ci/bascule.sh.j2", **facts)}
