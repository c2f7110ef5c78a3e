"""A search for a smaller version of a model as a job: what passes the gate becomes a version."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bascule.core import Limits
from bascule.jobs import Kind, Live, Task, half_of_memory

if TYPE_CHECKING:
    from bascule.settings import Settings

_LOG = logging.getLogger("bascule.jobs")
_DAY_S = 86_400.0


def parsed(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The input: a version, a device, and how long to search. Raises `Invalid`."""
    from bascule.core import Invalid
    from bascule.optimising import Device

    trials = content.get("trials", 30)
    if not isinstance(trials, int) or trials < 1:
        raise Invalid(f"trials: {trials!r} is not a whole number over 0")
    Device.from_json(content.get("device", {}))
    return {
        "model": str(content.get("model", "")), "device": dict(content.get("device", {})),
        "trials": trials, "prunes": bool(content.get("prunes", False)),
    }  # fmt: skip


def optimise(settings: Settings, task: Task, live: Live) -> dict[str, Any]:
    """Search, push what was chosen, and put it before the gates of the settings."""
    from bascule.app import open_registry
    from bascule.bundle import load
    from bascule.core import Scratch
    from bascule.kinds.packing import judge_pushed
    from bascule.optimising import Device, draw, optimise

    registry = open_registry(settings)
    version = registry.resolve(task.input["model"])
    reference = f"{version.model}/{version.number}"
    live.begin(reference, {})
    with Scratch("bascule-optimise-") as folder:
        result = optimise(
            load(registry.path(version)), reference=reference, to=folder / "bundle",
            device=Device.from_json(task.input["device"]), trials=task.input["trials"],
            prunes=task.input["prunes"], tell=_LOG.info,
        )  # fmt: skip
        facts = {
            **result.to_json(), "reference": reference,
            "chart": draw(result.candidates, result.margin, result.metric),
        }  # fmt: skip
        if result.bundle is None:
            return {**facts, "version": None}
        pushed = registry.push(result.bundle.path, by=task.by)
        judged = judge_pushed(settings, registry, pushed, task.by)
        return {**facts, **judged, "version": f"{pushed.model}/{pushed.number}"}


def _model(content: Mapping[str, Any]) -> str:
    return str(content["model"]).partition("/")[0].partition("@")[0]


OPTIMISE = Kind(
    name="optimise", run=optimise, parse=parsed, right="write", model_of=_model, places=1,
    is_open=True, limits=Limits(_DAY_S, half_of_memory(), is_nice=True),
)  # fmt: skip
