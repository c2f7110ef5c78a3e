"""A search for a model of a table as a job: the best within the limits is pushed and deployed."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import psutil

from bascule.core import Invalid, Limits, Refused, Scratch, check_name, first_line
from bascule.jobs import Kind, Live, Task, half_of_memory
from bascule.kinds.batch import check_upload, model_of
from bascule.kinds.training import confine as confine_place, passes_gates, promote

if TYPE_CHECKING:
    from bascule.settings import Settings

_LOG = logging.getLogger("bascule.jobs")
_DAY_S = 86_400.0
_MOST_SHOWN = 5_000


def parsed(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """See `training.Plan`. Raises `Invalid`."""
    from bascule.training import ENGINES, Plan

    try:
        plan = msgspec.convert(content, Plan)
    except msgspec.ValidationError as problem:
        hint = "give table, target, and budget_s of 10 or more"
        raise Invalid(f"no search: {first_line(problem)}", hint=hint) from None
    if plan.engine not in ENGINES:
        raise Invalid(f"no engine {plan.engine!r}", hint=f"engines are {', '.join(ENGINES)}")
    plan = msgspec.structs.replace(plan, model=plan.model or plan.target)
    check_name(plan.model)
    fields: dict[str, Any] = msgspec.to_builtins(plan)
    return fields


def confine(content: Mapping[str, Any], places: Sequence[str], folder: str) -> None:
    """A caller of the API reads from the places of the settings, and needs a right to deploy."""
    if content["deploy"]:
        hint = "leave out deploy, and run bascule deploy with the version"
        raise Refused("a search over the API deploys nothing", hint=hint, field="deploy")
    confine_place(content, places, folder, "table")


def run(settings: Settings, task: Task, live: Live) -> dict[str, Any]:
    """Search, push the winner, put it before the gates, and deploy it where they pass."""
    from bascule.app import open_registry
    from bascule.kinds.child import enter
    from bascule.training import Pipeline, Plan, Verdict, automl

    enter(task.folder)
    plan = msgspec.convert(task.input, Plan)
    live.begin(plan.model, {})  # one search of a model at a time, on all hosts
    check_upload(plan.table)
    with Scratch("bascule-automl-") as work:
        spent_s = time.time() - psutil.Process().create_time()  # the start of this process
        outcome = automl(plan, work, _LOG.info, spent_s=spent_s)
        facts = {**outcome.to_json(), "version": "", "passes": False, "deployed": ""}
        if (winner := outcome.winner) is None:
            return {**facts, "sentence": "no candidate is within the limits and the budget"}
        registry = open_registry(settings)
        version = registry.push(work / winner.kind, by=task.by)
    pipeline = Pipeline(
        name=plan.model, data=plan.table, target=plan.target, criteria=plan.limits,
        endpoint=plan.deploy,
    )  # fmt: skip
    passes = passes_gates(settings, registry, version, pipeline, task.by)
    judged = f"{outcome.metric} {outcome.judged:.4g} on rows that nothing has seen"
    gates = f"its gates have {'passed' if passes else 'failed'}"
    verdict = Verdict(passes, f"{version} is {winner.kind}, {judged}; {gates}")
    facts |= {"version": str(version), "passes": passes, "sentence": verdict.sentence}
    if passes and plan.deploy:
        facts["deployed"] = promote(
            settings, registry, pipeline, version, verdict.sentence, task.by
        )
    return facts


def columns(_settings: Settings, task: Task, _live: Live) -> list[str]:
    """The names of the columns of an uploaded table, for a page. Raises `Invalid`."""
    from bascule.batch import read_place

    check_upload(task.input["table"])
    names = list(read_place(task.input["table"]).column_names)
    if len(names) > _MOST_SHOWN:
        hint = "bascule automl FILE --target COLUMN has no such bound"
        raise Invalid(f"{len(names):,} columns are over {_MOST_SHOWN:,}", hint=hint)
    return names


AUTOML = Kind(
    name="automl", run=run, parse=parsed, confine=confine, right="write", model_of=model_of,
    places=1, kept=None, is_open=True, limits=Limits(_DAY_S, half_of_memory(), is_nice=True),
)  # fmt: skip
COLUMNS = Kind(name="columns", run=columns, right="write", is_private=True)
