"""The port of a target: files from a shipment, and the commands of its own tool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from bascule.ship.rendering import Files, render_folder
from bascule.ship.shipment import Shipment

Command = tuple[str, ...]
"""The words of one command, run in the folder of the files."""


class Render(Protocol):
    """Renders the files of a target; the same shipment gives the same bytes."""

    def __call__(self, shipment: Shipment) -> Files: ...


@dataclass(frozen=True, slots=True)
class Target:
    """One kind of place that a model is shipped to.

    Attributes:
        title: What the files are, in a few words.
        render: The files.
        commands: By `apply`, `status` and `remove`: the commands of the target's own tools, of
            which the first that is installed runs; an action that is absent is done by hand.
    """

    title: str
    render: Render
    commands: Mapping[str, tuple[Command, ...]] = field(default_factory=dict)


def of_templates(
    folder: str, title: str, commands: Mapping[str, tuple[Command, ...]] | None = None
) -> Target:
    """A target whose files are the templates of a folder."""
    return Target(title, partial(render_folder, folder), commands or {})


KUBECTL: Mapping[str, tuple[Command, ...]] = {
    "apply": (("kubectl", "apply", "--filename", "."),),
    "status": (("kubectl", "get", "--filename", "."),),
    "remove": (("kubectl", "delete", "--filename", "."),),
}
TERRAFORM: Mapping[str, tuple[Command, ...]] = {
    "apply": (("terraform", "apply"),),
    "status": (("terraform", "show"),),
    "remove": (("terraform", "destroy"),),
}
RAY: Mapping[str, tuple[Command, ...]] = {
    "apply": (("serve", "deploy", "serve.yaml"),),
    "status": (("serve", "status"),),
    "remove": (("serve", "shutdown", "--yes"),),
}
