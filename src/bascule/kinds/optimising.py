"""A search for a smaller version of a model as a job: what passes the gate becomes a version."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from bascule.core import Invalid, Limits, Refused, Scratch, first_line
from bascule.jobs import Kind, Live, Task, half_of_memory
from bascule.kinds.batch import model_of
from bascule.kinds.packing import judge_pushed
from bascule.optimising import Device

if TYPE_CHECKING:
    from bascule.settings import Settings
    from bascule.training import Architectures

_LOG = logging.getLogger("bascule.jobs")
_DAY_S = 86_400.0


class _Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A version, a device, how long to search, and the pipelines' file, to train architectures."""

    model: str
    device: Device = Device()
    trials: Annotated[int, msgspec.Meta(ge=1)] = 60
    prunes: bool = False
    train: str = ""


def parsed(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """See `_Input`. Raises `Invalid`."""
    try:
        known: dict[str, Any] = msgspec.to_builtins(msgspec.convert(content, _Input))
    except msgspec.ValidationError as problem:
        raise Invalid(
            f"no search: {first_line(problem)}", hint="give model=late/4, and trials over 0"
        ) from None
    return known


def confined(content: Mapping[str, Any], _places: Sequence[str], _folder: str) -> None:
    """A caller of the API may search, and runs no commands or code on the server."""
    if content["train"]:
        raise Refused(
            "the code of a pipeline is not run for callers of the API",
            hint="run bascule optimize beside the server, or leave out `train`",
        )
    if content["device"]["measure"]:
        raise Refused(
            "the command of a device is not run for callers of the API",
            hint="run bascule optimize beside the server, or leave out `measure`",
        )


def optimise(settings: Settings, task: Task, live: Live) -> dict[str, Any]:
    """Search, push what was chosen, and put it before the gates of the settings."""
    from bascule.app import open_registry
    from bascule.bundle import load
    from bascule.optimising import optimise

    registry, plan = open_registry(settings), msgspec.convert(task.input, _Input)
    version = registry.resolve(plan.model)
    reference = f"{version.model}/{version.number}"
    live.begin(f"a smaller {reference}", {})
    with Scratch("bascule-optimise-") as folder:
        trainer = _trainer(plan, task.folder, version.model) if plan.train else None
        result = optimise(
            load(registry.path(version)), reference=reference, to=folder / "bundle",
            device=plan.device, trials=plan.trials, prunes=plan.prunes, trainer=trainer,
            tell=_LOG.info,
        )  # fmt: skip
        facts = {**result.to_json(), "reference": reference, "version": None}
        if result.bundle is not None:
            pushed = registry.push(result.bundle.path, by=task.by)
            criteria = trainer.prepared.pipeline.criteria if trainer else ()
            facts |= judge_pushed(settings, registry, pushed, task.by, criteria)
            facts["version"] = f"{pushed.model}/{pushed.number}"
    return facts


def _trainer(plan: _Input, folder: str, model: str) -> Architectures:
    """Of the pipeline of the model. Raises `Invalid`, `NotFound`."""
    from bascule.kinds.child import enter
    from bascule.training import Architectures, prepare, read_pipeline

    enter(folder)
    pipeline = read_pipeline(Path(plan.train), model)
    if not pipeline.search:
        raise Invalid(
            f"pipeline {pipeline.name} has nothing to search",
            hint=f"write [pipeline.{pipeline.name}.search] with ranges: depth = [2, 8]",
        )
    return Architectures(prepare(pipeline))


OPTIMISE = Kind(
    name="optimise", run=optimise, parse=parsed, confine=confined, right="write", places=1,
    model_of=model_of, is_open=True, limits=Limits(_DAY_S, half_of_memory(), is_nice=True),
)  # fmt: skip
