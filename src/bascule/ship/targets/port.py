"""The port of a target: files from a shipment, and the commands of its own tool."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from bascule.ship.rendering import Files, render_folder
from bascule.ship.shipment import Shipment

Steps = tuple[tuple[str, ...], ...]
"""Commands of one tool, run one after the other in the folder of the files."""
Commands = Mapping[str, tuple[Steps, ...]]
"""By action, `apply`, `prune`, `diff` or `remove`: alternatives, of which the first whose tool is
installed runs. An action that is absent is done by hand."""


class Render(Protocol):
    """Renders the files of a target; the same shipment gives the same bytes."""

    def __call__(self, shipment: Shipment) -> Files: ...


CommandsOf = Callable[[Shipment, str], Commands]
"""The commands for a shipment, under an overlay where the target has overlays."""


def by_hand(_shipment: Shipment, _overlay: str) -> Commands:
    return {}


@dataclass(frozen=True, slots=True)
class Target:
    """One kind of place that a model is shipped to.

    Attributes:
        title: What the files are, in a few words.
        render: The files.
        commands: The commands of the target's own tools.
        overlays: The names of its overlays; empty for none.
    """

    title: str
    render: Render
    commands: CommandsOf = by_hand
    overlays: tuple[str, ...] = ()


def of_templates(folder: str, title: str, commands: CommandsOf = by_hand) -> Target:
    """A target whose files are the templates of a folder."""
    return Target(title, partial(render_folder, folder), commands)


def always(**commands: str) -> CommandsOf:
    """The same commands for every shipment; alternatives are separated by ` || `."""
    parsed: Commands = {
        action: tuple((tuple(words.split()),) for words in text.split(" || "))
        for action, text in commands.items()
    }
    return lambda _shipment, _overlay: parsed


KUBECTL = always(
    apply="kubectl apply --filename .",
    diff="kubectl diff --filename .",
    remove="kubectl delete --ignore-not-found --filename .",
)
TERRAFORM = always(
    apply="terraform apply", diff="terraform plan -detailed-exitcode", remove="terraform destroy"
)
RAY = always(apply="serve deploy serve.yaml", remove="serve shutdown --yes")
