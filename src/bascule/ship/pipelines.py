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
    ("publish", "Push the image, and sign it"),
    ("deploy", "Register the version, and deploy it as a canary"),
    ("settle", "Wait for the verdict, and move the champion"),
)
"""The steps of the main branch, after those of every change."""

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
    steps = [one for one in CHECKS if project.image or one[0] not in ("build", "scan")]
    delivery = [one for one in DELIVERY if project.image or one[0] != "publish"]
    facts = {"p": project, "checks": steps, "delivery": delivery, "script": SCRIPT}
    files = {path: render_text(name, **facts) for path, name in SYSTEMS[system].items()}
    return {**files, SCRIPT: render_text("ci/bascule.sh.j2", **facts)}
