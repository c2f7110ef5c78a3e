"""A training run as a job: trained, pushed, put before the gates, compared with the champion."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.core import (
    Conflict,
    Invalid,
    Limits,
    MissingExtra,
    NotFound,
    Refused,
    Unavailable,
    masked,
)
from bascule.jobs import Kind, Live, Task, half_of_memory
from bascule.security import ANY
from bascule.training import CHALLENGE, CHAMPION, Verdict

if TYPE_CHECKING:
    from bascule.bundle import Bundle
    from bascule.jobs import Jobs
    from bascule.registry import Registry, Version
    from bascule.settings import Settings
    from bascule.training import Facts, Pipeline, Prepared, Trained, Trigger

_LOG = logging.getLogger("bascule.jobs")
_DAYS_S = 7 * 86_400.0


def parsed(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The input: a file, the pipeline in it, parameters, why it runs, MLflow. Raises `Invalid`."""
    parameters = content.get("parameters", {})
    if not isinstance(parameters, Mapping):
        raise Invalid("parameters: give names and values", hint='"parameters": {"depth": 3}')
    return {
        "file": str(content.get("file") or "pipeline.toml"),
        "pipeline": str(content.get("pipeline") or ""),
        "parameters": dict(parameters),
        "why": str(content.get("why") or "by hand"),
        "mlflow": str(content.get("mlflow") or ""),
    }


def confine(
    content: Mapping[str, Any], places: Sequence[str], folder: str, field: str = "file"
) -> None:
    """Code runs, and tables are read, from the places of the settings; tracking is there too."""
    from bascule.batch import is_below

    addresses = {field: os.path.join(folder, content[field])}
    if content.get("mlflow"):
        addresses["mlflow"] = content["mlflow"]
    for name, address in addresses.items():
        if not any(is_below(address, place) for place in places):
            raise Refused(
                f"{name}: {masked(content[name])} is none of the places that batch.places allows",
                hint="add it, or its folder, to batch.places in the server's bascule.toml",
                field=name,
            )


def run(settings: Settings, task: Task, live: Live) -> dict[str, Any]:
    """Train, push, judge; the winner becomes the champion, and goes out as its pipeline says."""
    from msgspec import to_builtins

    from bascule.app import open_registry
    from bascule.kinds.child import enter
    from bascule.kinds.learning import run_learner
    from bascule.training import Learner, Trained, feedback_of, prepare, read_pipeline, train

    enter(task.folder)
    chosen = task.input
    pipeline = read_pipeline(Path(chosen["file"]), chosen["pipeline"])
    pipeline = pipeline.with_parameters(chosen["parameters"])

    def tell(step: str) -> None:
        live.tell({"step": step})

    def learnt_rows(rows: int) -> dict[str, Any]:
        is_clean = bool(pipeline.holdback)
        return {"all": rows, "held_back": rows if is_clean else None, "is_clean": is_clean}

    def judge(
        registry: Registry, version: Version, bundle: Bundle, rows: int
    ) -> tuple[Verdict, str]:  # fmt: skip
        learnt = Trained(bundle, {"rows": learnt_rows(rows)}, was_known=False)
        return _judged(settings, registry, version, pipeline, learnt, task.by, tell)

    live.begin(pipeline.name, {})  # one run of a pipeline at a time, on all hosts
    if isinstance(pipeline, Learner):
        declared = {**to_builtins(pipeline), "data": masked(pipeline.data)}
        result = run_learner(settings, task, live, pipeline, judge)
        feedback = feedback_of(pipeline, learnt_rows(result["rows_seen"]))
        return {**result, "pipeline": declared, "feedback": feedback}
    prepared = prepare(pipeline, tell)
    mlflow = chosen.get("mlflow") or settings.tracking.mlflow
    trained = train(prepared, settings.home / "training", tell, mlflow=mlflow)
    facts = {**trained.facts, "metrics": _metrics(trained)}
    registry = open_registry(settings)
    tell("push")
    version = registry.push(trained.bundle.path, by=task.by)
    refit = partial(_refit, settings, registry, version, prepared, task.by, tell)
    verdict, deployed = _judged(
        settings, registry, version, pipeline, trained, task.by, tell, refit
    )  # fmt: skip
    facts["parameters"] = {**facts["logged"], **facts["pipeline"]["parameters"]}
    outcome = {"version": str(version), "sentence": verdict.sentence, "why": chosen["why"]}
    tell("record")
    _track(settings, mlflow, prepared.key, facts, outcome)
    # The record of a run is replaced by one of equal inputs alone.
    live.begin(f"{pipeline.name} {prepared.key}", {})
    return {
        **facts, "version": str(version),
        "wins": verdict.wins, "sentence": verdict.sentence, "deployed": deployed,
        "was_known": trained.was_known, "rows_seen": prepared.rows.seen,
        "feedback": feedback_of(pipeline, facts["rows"]),
    }  # fmt: skip


def _track(
    settings: Settings, mlflow: str, key: str, facts: Mapping[str, Any], outcome: Mapping[str, str]
) -> None:
    """Write the run to MLflow and wandb; what fails is written by the next run of these inputs."""
    from bascule.training import write_to_mlflow, write_to_wandb

    try:
        if mlflow and facts["mlflow"]["run"]:
            files = settings.home / "training" / key / "artefacts"
            write_to_mlflow(mlflow, facts, outcome, files)
        if settings.tracking.wandb:
            write_to_wandb(Path(settings.tracking.wandb).absolute(), key, facts, outcome)
    except (MissingExtra, Unavailable) as problem:  # the version is there
        _LOG.warning("%s", problem)


def _metrics(trained: Trained) -> dict[str, float]:
    """What the code has noted, and how the model does on the newest rows."""
    from bascule.release import measure_quality

    overall = (measure_quality(trained.bundle) or {}).get("overall", {})
    newest = {f"held_out_{name}": value for name, value in overall.items() if value is not None}
    return {**trained.facts["metrics"], **newest}


def _judged(
    settings: Settings, registry: Registry, version: Version, pipeline: Pipeline,
    trained: Trained, by: str, tell: Callable[[str], None],
    refit: Callable[[], None] = lambda: None,
) -> tuple[Verdict, str]:  # fmt: skip
    """The verdict, and what went out; `refit` is called between them for a winner."""
    tell("judge")
    verdict = _verdict(settings, registry, version, pipeline, trained, by)
    _LOG.info("%s", verdict.sentence)
    if verdict.wins and pipeline.refit:
        refit()
    tell("deploy")
    return verdict, _send_out(settings, registry, pipeline, by)


def _refit(
    settings: Settings, registry: Registry, version: Version, prepared: Prepared, by: str,
    tell: Callable[[str], None],
) -> None:  # fmt: skip
    """Fit a winner to all rows, unless that was done; a killed run goes on after its last step.

    Where it fails a gate, no statement says that the winner has become it, and nothing goes out.
    """
    from bascule.training import REFIT, refits_of, train

    if str(version) in refits_of(registry, version.model):
        return
    tell("refit")
    trained = train(prepared.on_all_rows(), settings.home / "training", tell)
    again = registry.push(trained.bundle.path, by=by)
    if passes_gates(settings, registry, again, prepared.pipeline, by, of_form=True):
        body = {"judged": str(version), "rows": trained.facts["rows"]}
        registry.add_statement(again, REFIT, body, at=datetime.now(UTC), by=by)
    else:
        _LOG.warning("%s, which is %s fitted to all rows, fails its gates", again, version)


def _verdict(
    settings: Settings, registry: Registry, version: Version, pipeline: Pipeline,
    trained: Trained, by: str,
) -> Verdict:  # fmt: skip
    """Compare with the champion on the newest rows, and lay the verdict beside the version.

    A version that was judged against this champion keeps its verdict: a second look at the same
    rows is no new evidence. So does the champion that it has become.
    """
    from bascule.training import challenges_of, confidence_of_look, feedback_of, judged

    champion = _champion(settings, registry, pipeline)
    name = "" if champion is None else str(champion)
    challenges = challenges_of(registry, version.model)
    known = [own for own in challenges if own["champion"] == name]
    opponent = None if champion is None else _as_judged(registry, champion)
    champions = (name, str(opponent))
    # A run that was killed after its version went out finds it as the champion.
    looks = challenges if str(version) in champions else known
    if own := [body for body in looks if body["challenger"] == str(version)]:
        return Verdict(own[0]["wins"], own[0]["sentence"])
    if str(version) in champions:
        return Verdict(False, f"{version} is the champion already")
    passes = passes_gates(settings, registry, version, pipeline, by)
    lower, note = None, ""
    confidence = confidence_of_look(len(known) + 1)
    if passes and opponent is not None:
        lower, note = _compared(registry, opponent, trained.bundle, pipeline, confidence)
        if opponent != champion:
            note += f", with {name} as it was before its refit ({opponent})"
    verdict = judged(
        str(version), name, lower, note, margin=pipeline.margin, passes=passes
    )  # fmt: skip
    if champion is not None and (danger := feedback_of(pipeline, trained.facts["rows"])):
        verdict = replace(verdict, sentence=f"{verdict.sentence}; {danger}")
    body = {
        "champion": name, "challenger": str(version), "look": len(known) + 1,
        "confidence": confidence, "wins": verdict.wins, "sentence": verdict.sentence,
        "rows": trained.facts["rows"],
    }  # fmt: skip
    registry.add_statement(version, CHALLENGE, body, at=datetime.now(UTC), by=by)
    return verdict


def _as_judged(registry: Registry, champion: Version) -> Version:
    """What a challenger is compared with: a refit champion has learnt the newest rows.

    The version that was judged in its place stands in for it, while its bundle is there.
    """
    from bascule.training import refits_of

    for judged, refit in refits_of(registry, champion.model).items():
        if refit == str(champion):
            with suppress(NotFound):
                version = registry.resolve(judged, retired=True)
                registry.path(version)
                return version
    return champion


def _champion(settings: Settings, registry: Registry, pipeline: Pipeline) -> Version | None:
    """What answers the endpoint of the pipeline; without one, the version of the alias."""
    from bascule.app import open_endpoints

    with suppress(NotFound):
        if pipeline.endpoint:
            plan = open_endpoints(settings).endpoint(pipeline.endpoint).current.plan
            return registry.resolve(plan.current.version)  # in a rollout, not its candidate
        return registry.resolve(f"{pipeline.name}@{CHAMPION}")
    return None


def passes_gates(
    settings: Settings, registry: Registry, version: Version, pipeline: Pipeline, by: str, *,
    of_form: bool = False,
) -> bool:  # fmt: skip
    """Whether a version passes the gates of the settings and of its pipeline; both are recorded.

    `of_form`: of those gates that ask no held-out rows.
    """
    from bascule.app import open_judge
    from bascule.bundle import load
    from bascule.release import OF_FORM, Criterion, check_and_record

    criteria = [*settings.gates.criteria, *pipeline.criteria]
    if of_form:
        criteria = [text for text in criteria if Criterion.parse(text).metric in OF_FORM]
    if not criteria:
        return True
    report, problem = check_and_record(
        load(registry.path(version)), criteria, registry, version,
        configured=settings.gates.criteria, now=datetime.now(UTC), by=by,
        find_judge=partial(open_judge, settings),
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
    return measured.value, measured.brief or measured.note


def _send_out(settings: Settings, registry: Registry, pipeline: Pipeline, by: str) -> str:
    """Send out the newest version that has won over the champion, and say so; empty for none.

    A verdict sends its version out once: what a guard or a person has taken back stays back. A
    version that cannot go out yet waits: the next run or trigger comes here again.
    """
    from bascule.training import challenges_of, refits_of, winner_over

    if pipeline.name not in registry.model_names():
        return ""
    champion = _champion(settings, registry, pipeline)
    challenges = challenges_of(registry, pipeline.name)
    won = winner_over("" if champion is None else str(champion), challenges)
    if won is None:
        return ""
    judged, goes = won["challenger"], refits_of(registry, pipeline.name).get(won["challenger"])
    if goes is None and pipeline.refit:
        return f"{judged} waits until a run has fitted it to all rows"
    won = {**won, "challenger": goes or judged}
    if _went_out(settings, registry, pipeline, won):
        return ""
    try:
        version = registry.resolve(won["challenger"])
        return promote(settings, registry, pipeline, version, won["sentence"], by)
    except (Conflict, NotFound, Refused) as problem:
        waits = f"{won['challenger']} waits, and the next run or trigger tries again"
        return f"{waits}: {problem.message}"


def promote(
    settings: Settings, registry: Registry, pipeline: Pipeline, version: Version, reason: str,
    by: str,
) -> str:  # fmt: skip
    """The version goes to the endpoint of the pipeline; without one, the alias moves to it.

    Raises:
        Conflict: A rollout is under way there.
        Refused: It needs an approval.
    """
    from bascule.app import open_rollouts
    from bascule.endpoints import by_nobody
    from bascule.release.rollouts import RolloutRequest

    if not pipeline.endpoint:
        registry.set_alias(version.model, CHAMPION, version.number, by=by, reason=reason)
        return f"{version.model}@{CHAMPION} is {version} now"
    rollouts = open_rollouts(settings, by_nobody)  # that a version has won approves nothing
    # Of some strategies, a deployment would end a rollout that a person has begun.
    for active in rollouts.store.active():
        if active.rollout.endpoint == pipeline.endpoint:
            raise Conflict(
                f"rollout {active.rollout.id} of {active.rollout.candidate} is under way",
                hint="wait for its end, or abort it",
            )
    before = rollouts.endpoints.trial(str(version), pipeline.endpoint).before
    request = RolloutRequest(
        version=str(version), endpoint=pipeline.endpoint, reason=reason,
        # The first version has nothing to be compared with.
        strategy=pipeline.strategy if before else "",
    )  # fmt: skip
    return str(rollouts.deploy(request, by=by).sentence)


def _went_out(
    settings: Settings, registry: Registry, pipeline: Pipeline, won: Mapping[str, Any]
) -> bool:
    """Whether the winner of a verdict was sent out since."""
    from bascule.app import open_endpoints, open_rollouts

    since, name = datetime.fromisoformat(str(won["at"])), won["challenger"]
    if not pipeline.endpoint:
        return any(
            event.kind == "alias_moved" and event.alias == CHAMPION and event.at >= since
            and f"{event.model}/{event.to_number}" == name
            for event in registry.history(pipeline.name)
        )  # fmt: skip
    rollouts = open_rollouts(settings).store.rollouts(pipeline.endpoint)
    sent = [(stored.rollout.candidate, stored.rollout.started_at) for stored in rollouts]
    with suppress(NotFound):
        plans = open_endpoints(settings).plans(pipeline.endpoint)
        sent += [(version, made.made_at) for made in plans for version in made.plan.versions]
    return any(version == name and at >= since for version, at in sent)


def trigger_input(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The input of a trigger. Raises `Invalid`."""
    from msgspec import to_builtins

    from bascule.training import Trigger

    fields: dict[str, Any] = to_builtins(Trigger.of(dict(content)))
    return fields


def pull(settings: Settings, task: Task, _live: Live) -> dict[str, Any]:
    """Decide whether the pipeline runs now, and submit its run if it does.

    Of two triggers that decide at once, the second is given the run of the first.
    """
    from bascule.app import open_jobs, open_registry
    from bascule.kinds.child import enter
    from bascule.training import Trigger, decide, read_pipeline

    enter(task.folder)
    trigger = Trigger.of(dict(task.input))
    pipeline = read_pipeline(Path(trigger.file), trigger.pipeline)
    jobs = open_jobs(settings)
    decision = decide(trigger, _facts(settings, jobs, trigger, pipeline), datetime.now(UTC))
    deployed = _send_out(settings, open_registry(settings), pipeline, task.by)
    sentence = "; ".join(filter(None, (deployed, decision.sentence)))
    _LOG.info("%s", sentence)
    result = {"sentence": sentence, "run": "", "deployed": deployed}
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
        (alert.finding.source, alert.finding.sentence)
        for alert in firing
        if alert.state == "firing" and alert.finding.source in ALERTS
    ]
    if not trigger.reads_rows:
        return Facts(runs, alerts)
    if isinstance(pipeline, Learner):
        return Facts(runs, alerts, count_outcomes(Ledger(settings.home), pipeline))
    return Facts(runs, alerts, count_place(pipeline.data, pipeline.query))


def _model_of(content: Mapping[str, Any]) -> str:
    """The model has the name of its pipeline; without it, rights are about all models."""
    return str(content.get("pipeline") or ANY)


TRAIN = Kind(
    name="train", run=run, parse=parsed, confine=confine, right="deploy", model_of=_model_of,
    places=1, can_resume=True, retries=1, kept=None, is_open=True,
    limits=Limits(_DAYS_S, half_of_memory(), is_nice=True),
)  # fmt: skip
TRIGGER = Kind(
    name="trigger", run=pull, parse=trigger_input, confine=confine, right="deploy",
    model_of=_model_of, is_open=True, limits=Limits(600.0, half_of_memory(), is_nice=True),
)  # fmt: skip
