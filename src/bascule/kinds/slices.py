"""The slices of rows in which a version is worse, as a job; it runs models, so in a child."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from bascule.core import Invalid, Limits, first_line
from bascule.jobs import Kind, Live, Task, half_of_memory
from bascule.kinds.batch import model_of
from bascule.security import ANY

if TYPE_CHECKING:
    from bascule.settings import Settings


class _Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A version, another one or none, and the rows: of the ledger, or held out."""

    model: str
    against: str = ""
    since_s: Annotated[float, msgspec.Meta(gt=0)] = 2_592_000.0
    held_out: bool = False


def _parsed(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """See `_Input`. Raises `Invalid`."""
    try:
        known: dict[str, Any] = msgspec.to_builtins(msgspec.convert(content, _Input))
    except msgspec.ValidationError as problem:
        raise Invalid(f"no slices: {first_line(problem)}", hint="give model=late/4") from None
    return known


def _model_of(content: Mapping[str, Any]) -> str:
    """The name that rights are about; all models where two are compared."""
    named = [content["model"], content.get("against") or content["model"]]
    names = {model_of({"model": name}) for name in named}
    return names.pop() if len(names) == 1 else ANY


def _slices(settings: Settings, task: Task, _live: Live) -> dict[str, Any]:
    from bascule.app import open_registry
    from bascule.bundle import load
    from bascule.monitoring.slices import measure_slices

    registry, plan = open_registry(settings), msgspec.convert(task.input, _Input)
    version = registry.resolve(plan.model)
    other = registry.resolve(plan.against) if plan.against else None
    now = datetime.now(UTC)
    report = measure_slices(
        load(registry.path(version)), model=version.model, version=str(version.number),
        home=None if plan.held_out else settings.home,
        against=None if other is None else load(registry.path(other)),
        since=now - timedelta(seconds=plan.since_s), now=now,
    )  # fmt: skip
    return {"model": str(version), "against": str(other or ""), **report}


SLICES = Kind(
    name="slices", run=_slices, parse=_parsed, right="read", model_of=_model_of, is_open=True,
    limits=Limits(3_600.0, half_of_memory(), is_nice=True),
)  # fmt: skip
