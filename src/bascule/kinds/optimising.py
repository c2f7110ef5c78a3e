"""A search for a smaller version of a model as a job: what passes the gate becomes a version."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bascule.core import Invalid, Limits, Scratch
from bascule.jobs import Kind, Live, Task, half_of_memory
from bascule.kinds.batch import model_of
from bascule.kinds.packing import judge_pushed

if TYPE_CHECKING:
    from bascule.settings import Settings

_LOG = logging.getLogger("bascule.jobs")
_DAY_S = 86_400.0


def parsed(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The input: a version, a device, and how long to search. Raises `Invalid`."""
    from bascule.optimising import Device

    trials, device = content.get("trials", 60), content.get("device", {})
    if not isinstance(trials, int) or trials < 1:
        raise Invalid(f"trials: {trials!r} is not a number over 0", hint="give a whole number: 60")
    Device.from_json(device)
    prunes = bool(content.get("prunes"))
    return {
        "model": str(content.get("model")),
        "device": device,
        "trials": trials,
        "prunes": prunes,
    }


def optimise(settings: Settings, task: Task, live: Live) -> dict[str, Any]:
    """Search, push what was chosen, and put it before the gates of the settings."""
    from bascule.app import open_registry
    from bascule.bundle import load
    from bascule.optimising import Device, optimise

    registry, chosen = open_registry(settings), task.input
    version = registry.resolve(chosen["model"])
    reference = f"{version.model}/{version.number}"
    live.begin(f"a smaller {reference}", {})
    with Scratch("bascule-optimise-") as folder:
        result = optimise(
            load(registry.path(version)), reference=reference, to=folder / "bundle",
            device=Device.from_json(chosen["device"]), trials=chosen["trials"],
            prunes=chosen["prunes"], tell=_LOG.info,
        )  # fmt: skip
        device = {"latency_factor": 1.0, **chosen["device"]}
        facts = {**result.to_json(), **device, "reference": reference, "version": None}
        if result.bundle is not None:
            pushed = registry.push(result.bundle.path, by=task.by)
            facts |= judge_pushed(settings, registry, pushed, task.by)
            facts["version"] = f"{pushed.model}/{pushed.number}"
    return facts


OPTIMISE = Kind(
    name="optimise", run=optimise, parse=parsed, right="write", model_of=model_of, places=1,
    is_open=True, limits=Limits(_DAY_S, half_of_memory(), is_nice=True),
)  # fmt: skip
