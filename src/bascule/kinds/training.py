"""A training run as a job: trained, pushed, put before the gates, compared with the champion."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.core import Invalid, Limits, NotFound, Refused
from bascule.jobs import Kind, Live, Task, half_of_memory
from bascule.kinds.batch import model_of
from bascule.training import CHALLENGE, Verdict

if TYPE_CHECKING:
    from bascule.bundle import Bundle
    from bascule.jobs import Jobs
    from bascule.registry import Registry, Version
    from bascule.settings import Settings
    from bascule.training import Facts, Pipeline, Trained, Trigger

_LOG = logging.getLogger("bascule.jobs")
_CHAMPION = "champion"
_DAYS_S = 7 * 86_400.0


def parsed(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The input: a file, the pipeline in it, parameters, and why it runs. Raises `Invalid`."""
    parameters = content.get("parameters", {})
    if not isinstance(parameters, Mapping):
        raise Invalid("parameters: give names and values", hint='"parameters": {"depth": 3}')
    return {
        "file": str(content.get("file") or "pipeline.toml"),
        "pipeline": str(content.get("pipeline") or ""),
        "parameters": dict(parameters),
        "why": str(content.get("why") or "by hand"),
    }


def confine(content: Mapping[str, Any], places: Sequence[str], folder: str) -> None:
    """Code runs from the places of the settings alone."""
    from bascule.batch import is_below

    if not any(is_below(os.path.join(folder, content["file"]), place) for place in places):
        raise Refused(
            f"file: {content['file']} is none of the places that batch.places allows",
            hint="add its folder to batch.places in the server's bascule.toml",
            field="file",
        )


def run(settings: Settings, task: Task, live: Live) -> dict[str, Any]:
    """Train, push, judge; the winner becomes the champion, and goes out as its pipeline says."""
    from bascule.app import open_registry
    from bascule.kinds.child import enter
    from bascule.kinds.learning import run_learner
    from bascule.training import Learner, Trained, prepare, read_pipeline, train

    enter(task.folder)
    chosen = task.input
    pipeline = read_pipeline(Path(chosen["file"]), chosen["pipeline"])
    pipeline = pipeline.with_parameters(chosen["parameters"])

    def tell(step: str) -> None:
        live.tell({"step": step})

    def judge(
        registry: Registry, version: Version, bundle: Bundle, rows: int
    ) -> tuple[Verdict, str]:  # fmt: skip
        learnt = Trained(bundle, {"rows": {"all": rows}}, was_known=False)
        return _judged(settings, registry, version, pipeline, learnt, task.by, tell)

    live.begin(pipeline.name, {})  # one run of a pipeline at a time, on all hosts
    if isinstance(pipeline, Learner):
        return run_learner(settings, task, live, pipeline, judge)
    prepared = prepare(pipeline, tell)
    trained = train(prepared, settings.home / "training", tell)
    registry = open_registry(settings)
    tell("push")
    version = registry.push(trained.bundle.path, by=task.by)
    reference = f"{version.model}/{version.number}"
    verdict, deployed = _judged(settings, registry, version, pipeline, trained, task.by, tell)
    facts = dict(trained.facts)
    # The record of a run is replaced by one of equal inputs alone.
    live.begin(f"{pipeline.name} {prepared.key}", {})
    return {
        **facts, "version": reference, "parameters": facts["pipeline"]["parameters"],
        "wins": verdict.wins, "sentence": verdict.sentence, "deployed": deployed,
        "was_known": trained.was_known, "rows_seen": prepared.rows.seen,
    }  # fmt: skip


def _judged(
    settings: Settings, registry: Registry, version: Version, pipeline: Pipeline,
    trained: Trained, by: str, tell: Callable[[str], None],
) -> tuple[Verdict, str]:  # fmt: skip
    """The verdict, and what became of a winner."""
    tell("judge")
    verdict = _verdict(settings, registry, version, pipeline, trained, by)
    _LOG.info("%s", verdict.sentence)
    if not verdict.wins:
        return verdict, ""
    tell("deploy")
    return verdict, _take_over(settings, registry, version, pipeline, verdict, by)


def _verdict(
    settings: Settings, registry: Registry, version: Version, pipeline: Pipeline,
    trained: Trained, by: str,
) -> Verdict:  # fmt: skip
    """Compare with the champion on the newest rows, and lay the verdict beside the version.

    A version that was judged against this champion keeps its verdict: a second look at the same
    rows is no new evidence.
    """
    from bascule.training import challenges_of, confidence_of_look, judged

    champion = _champion(settings, registry, pipeline)
    name = "" if champion is None else str(champion)
    if name == str(version):
        return Verdict(False, f"{version} is the champion already")
    known = [own for own in challenges_of(registry, version.model) if own["champion"] == name]
    if own := [body for body in known if body["challenger"] == str(version)]:
        return Verdict(own[0]["wins"], own[0]["sentence"])
    passes = _passes_gates(settings, registry, version, pipeline, by)
    lower, note = None, ""
    confidence = confidence_of_look(len(known) + 1)
    if passes and champion is not None:
        lower, note = _compared(registry, champion, trained.bundle, pipeline, confidence)
    verdict = judged(
        str(version), name, lower, note, margin=pipeline.margin, passes=passes
    )  # fmt: skip
    body = {
        "champion": name, "challenger": str(version), "look": len(known) + 1,
        "confidence": confidence, "wins": verdict.wins, "sentence": verdict.sentence,
        "rows": trained.facts["rows"],
    }  # fmt: skip
    registry.add_statement(version, CHALLENGE, body, at=datetime.now(UTC), by=by)
    return verdict


def _champion(settings: Settings, registry: Registry, pipeline: Pipeline) -> Version | None:
    """What answers the endpoint of the pipeline; without one, the version of the alias."""
    from bascule.app import open_endpoints

    with suppress(NotFound):
        if pipeline.endpoint:
            plan = open_endpoints(settings).endpoint(pipeline.endpoint).current.plan
            most = max(plan.arms, key=lambda arm: arm.share_percent)
            return registry.resolve(most.version)
        return registry.resolve(f"{pipeline.name}@{_CHAMPION}")
    return None


def _passes_gates(
    settings: Settings, registry: Registry, version: Version, pipeline: Pipeline, by: str
) -> bool:
    from bascule.bundle import load
    from bascule.release import check_and_record

    criteria = [*settings.gates.criteria, *pipeline.criteria]
    if not criteria:
        return True
    report, problem = check_and_record(
        load(registry.path(version)), criteria, registry, version,
        configured=settings.gates.criteria, now=datetime.now(UTC), by=by,
    )  # fmt: skip
    if problem is not None:
        raise problem
    return report.passed


def _compared(
    registry: Registry, champion: Version, challenger: Bundle, pipeline: Pipeline,
    confidence: float,
) -> tuple[float | None, str]:  # fmt: skip
    from bascule.bundle import load
    from bascule.release import FIRST_CRITERION, NotWorse, measure_against

    metric = pipeline.metric or FIRST_CRITERION[challenger.task].split()[0]
    criterion = NotWorse(metric, ">", -pipeline.margin, against=str(champion))
    facts = measure_against(
        challenger, [criterion], find=lambda _: load(registry.path(champion)),
        confidence=confidence,
    )  # fmt: skip
    measured = facts[criterion.measure]
    return measured.value, measured.note


def _take_over(
    settings: Settings, registry: Registry, version: Version, pipeline: Pipeline,
    verdict: Verdict, by: str,
) -> str:  # fmt: skip
    """The winner goes to the endpoint; without one, the alias moves to it."""
    if not pipeline.endpoint:
        registry.set_alias(
            version.model, _CHAMPION, version.number, by=by, reason=verdict.sentence
        )  # fmt: skip
        return f"{version.model}@{_CHAMPION} is {version} now"
    from bascule.app import open_rollouts
    from bascule.release.rollouts import RolloutRequest

    request = RolloutRequest(
        version=str(version), endpoint=pipeline.endpoint, strategy=pipeline.strategy,
        reason=verdict.sentence,
    )  # fmt: skip
    return str(open_rollouts(settings).deploy(request, by=by).sentence)


def asked(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The input of a trigger. Raises `Invalid`."""
    from msgspec import to_builtins

    from bascule.training import Trigger

    fields: dict[str, Any] = to_builtins(Trigger.of(dict(content)))
    return fields


def pull(settings: Settings, task: Task, _live: Live) -> dict[str, Any]:
    """Decide whether the pipeline runs now, and submit its run if it does.

    Of two triggers that decide at once, the second is given the run of the first.
    """
    from bascule.app import open_jobs
    from bascule.kinds.child import enter
    from bascule.training import Trigger, decide, read_pipeline

    enter(task.folder)
    trigger = Trigger.of(dict(task.input))
    pipeline = read_pipeline(Path(trigger.file), trigger.pipeline)
    jobs = open_jobs(settings)
    decision = decide(trigger, _facts(settings, jobs, trigger, pipeline), datetime.now(UTC))
    _LOG.info("%s", decision.sentence)
    result = {"sentence": decision.sentence, "run": ""}
    if decision.starts:
        content = parsed({
            "file": trigger.file, "pipeline": pipeline.name, "parameters": trigger.parameters,
            "why": decision.sentence,
        })  # fmt: skip
        submitted = jobs.submit(
            Task(
                kind="train", input=content, title=f"train {pipeline.name}", by=task.by,
                key=task.key, subject=pipeline.name, folder=task.folder,
                is_confined=task.is_confined,
            )
        )  # fmt: skip
        result["run"] = submitted.id
    return result


def _facts(settings: Settings, jobs: Jobs, trigger: Trigger, pipeline: Pipeline) -> Facts:
    from bascule.app import open_alerts
    from bascule.batch import count_place
    from bascule.monitoring.ledger import Ledger
    from bascule.training import ALERTS, Facts, Learner, PastRun, count_outcomes

    runs = [
        PastRun(job.created_at, not job.is_ended, (job.result or {}).get("rows_seen"))
        for job in jobs.find(kind="train")
        if pipeline.name in (job.input["pipeline"], job.subject.split(" ")[0])
    ]
    firing = open_alerts(settings).alerts(model=pipeline.endpoint or pipeline.name)
    alerts = [
        (own.finding.source, own.finding.sentence)
        for own in firing
        if own.state == "firing" and own.finding.source in ALERTS
    ]
    if not trigger.reads_rows:
        return Facts(runs, alerts)
    if isinstance(pipeline, Learner):
        return Facts(runs, alerts, count_outcomes(Ledger(settings.home), pipeline))
    return Facts(runs, alerts, count_place(pipeline.data))


TRAIN = Kind(
    name="train", run=run, parse=parsed, confine=confine, right="write", model_of=model_of,
    places=1, can_resume=True, retries=1, kept=None, is_open=True,
    limits=Limits(_DAYS_S, half_of_memory(), is_nice=True),
)  # fmt: skip
TRIGGER = Kind(
    name="trigger", run=pull, parse=asked, confine=confine, right="write", model_of=model_of,
    is_open=True, limits=Limits(600.0, half_of_memory(), is_nice=True),
)  # fmt: skip
