"""Before a rollout by outcomes starts: can its guards be counted, and at which scale.

What is fixed here is stored in the guards of the rollout, so that a decision can be made again
without the bundle: the scale of a loss comes from the current version's held-out rows, and never
from the answers that are compared.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from bascule.bundle import Bundle, composition_of, take
from bascule.bundle.features import declared
from bascule.bundle.programs import COMPOSITION
from bascule.core import Columns, Invalid, NotFound, Signature
from bascule.endpoints import ContextFeature
from bascule.monitoring import KEPT_TEXT, check_kept
from bascule.monitoring.ledger import Ledger, judge_model, losses_of_rows, quoted
from bascule.monitoring.performance import delay_curve
from bascule.release.rollouts.facts import span_words
from bascule.release.rollouts.guards import Guard
from bascule.release.rollouts.losses import (
    DISAPPROVAL,
    RATES,
    Answers,
    Loss,
    Rectifier,
    countable,
    group_sql,
    input_column,
    is_of_group,
    judge_of,
    left_out,
    loss_of,
    loss_sql,
)
from bascule.release.rollouts.plan import Rollout, check_rollout
from bascule.serving.execution import embedding_of
from bascule.stats import calibrate_judge

CUT_SHARE = 0.01
"""Of the held-out losses, those over the bound. A higher bound costs requests, as the largest loss
limits every bet; what is cut shows in the story of the rollout."""
_LEAST_ROWS = 30
_MOST_ROWS = 20_000
_LEAST_TRUTHS = 100
_ASKED_ROWS = 20_000
_MAX_CATEGORIES = 8
_DELAYS = """
SELECT epoch(now() - time) AS age_s,
    date_diff('microsecond', time, truth_first_received_at) / 1e6 AS delay_s
FROM newest_predictions WHERE endpoint = {endpoint} AND status BETWEEN 200 AND 299 {sampled}
ORDER BY sha256(id), "row" LIMIT {limit}
"""
_LABELLED = """
SELECT score, {loss} AS loss FROM newest_predictions
JOIN (
    SELECT id AS of_id, "row" AS of_row, first(truth_number ORDER BY received_at, position) AS score
    FROM outcome_history WHERE model = {judge} GROUP BY id, "row"
) ON of_id = id AND of_row = "row"
WHERE endpoint = {endpoint} AND {loss} IS NOT NULL AND time < TIMESTAMPTZ {until}
ORDER BY sha256(id), "row" LIMIT {limit}
"""
_WITHOUT = "errors, fallbacks, latency and the quantiles of latency need no outcomes"


@dataclass(frozen=True, slots=True)
class Recording:
    """What the ledger of a server keeps.

    Attributes:
        has_rows: Whether it keeps answers, by the settings.
        private: By `FIELD` or `MODEL.FIELD`: "omit" or "hash".
        max_values: Fields with more values in a row are left out.
        feature_store: Where its models look features up; empty for nowhere.
        judges: The share of the answers that each judge of the settings judges.
    """

    has_rows: bool
    private: Mapping[str, str]
    max_values: int
    feature_store: str = ""
    judges: Mapping[str, float] = field(default_factory=dict)


def prepare(
    rollout: Rollout, load: Callable[[str], Bundle], ledger: Ledger, recording: Recording
) -> Rollout:
    """The rollout, with the scale of its guards on outcomes, once both versions have its parts.

    Args:
        rollout: Not started yet.
        load: The bundle of a version: `late/5`.
        ledger: With the answers and outcomes so far.
        recording: What it keeps.

    Raises:
        Invalid: A guard cannot be counted; the hint has those that can. Or truths take longer than
            the rollout may last.
        NotFound: There is no version by whose embeddings a guard compares texts.
    """
    for alike in filter(None, (guard.alike for guard in rollout.guards)):
        if alike.embedding and embedding_of(load(alike.embedding)) is None:
            raise Invalid(
                f"disagreement[{alike}]: {alike.embedding} embeds no texts",
                hint="name a version that takes one text and gives one vector",
            )
    parts = {guard.part for guard in rollout.guards if guard.part or guard.is_on_outcomes}
    versions = (rollout.current, rollout.candidate) if parts else ()
    bundles = {version: load(version) for version in versions}
    answers = {part: [_answers_of(bundles[of], part, of) for of in versions] for part in parts}
    chosen = [guard for guard in rollout.guards if guard.is_on_outcomes]
    if not chosen:
        return rollout
    if not (recording.has_rows or _has_answers(ledger, rollout)):
        raise Invalid(
            f"{chosen[0].name} cannot be counted: no answers are in the ledger of this server",
            hint=f'set monitoring.ledger = "on"; {_WITHOUT}',
        )
    bundle, prepared = bundles[rollout.current], {}
    for guard in chosen:
        loss = _countable_loss(guard, rollout, answers[guard.part], recording)
        if judge := judge_of(guard.name):
            loss = _rectified(guard, judge, rollout, ledger, recording)
        elif guard.name not in RATES:
            loss = _scaled(guard, loss, bundle, rollout.current)
        prepared[guard] = _checked(msgspec.structs.replace(guard, loss=loss), rollout.current)
    _check_delays(rollout, chosen[0], ledger)
    guards = tuple(prepared.get(guard, guard) for guard in rollout.guards)
    context = tuple(
        _scaled_feature(feature, bundle, rollout.current, recording) for feature in rollout.context
    )
    return check_rollout(msgspec.structs.replace(rollout, guards=guards, context=context))


def _answers_of(bundle: Bundle, part: str = "", version: str = "") -> Answers:
    """Of a version, or of a part of it; raises `Invalid` where it has no such part."""
    is_composition = bundle.manifest.original.format == COMPOSITION
    plan = composition_of(bundle.path, bundle.manifest)[0] if is_composition else None
    sources = None if plan is None else plan.sources
    if not part:
        return Answers(bundle.task, tuple(bundle.classes or ()), bundle.signature, sources)
    if plan is None or part not in plan.steps:
        names = "" if plan is None else ", ".join(plan.steps)
        raise Invalid(
            f"{version} has no part {part!r} to guard",
            hint=f"its parts are {names}" if names else "it is no composition: guard the whole",
        )
    step = plan.steps[part]
    if any(output.name == "ms" for output in step.outputs):
        raise Invalid(
            f"the time of part {part} of {version} is not recorded: its output is called ms",
            hint="give the output another name",
        )
    inputs = (replace(output, name=f"{part}.{output.name}") for output in step.outputs)
    is_recorded = any(part in level for level in plan.levels)
    return Answers(
        step.task if is_recorded else "rows that a router chooses", tuple(step.classes or ()),
        Signature((*bundle.signature.inputs, *inputs), step.outputs), sources,
    )  # fmt: skip


def _has_answers(ledger: Ledger, rollout: Rollout) -> bool:
    """Whether it keeps some now, also where the settings of this process say otherwise."""
    yesterday = str((rollout.started_at - timedelta(days=1)).date())
    model, _, number = rollout.current.partition("/")
    return any(day >= yesterday for day in ledger.rows_by_day(model, number))


def _countable_loss(
    guard: Guard, rollout: Rollout, both: Sequence[Answers], recording: Recording
) -> Loss:
    names = [name for name in countable(both[0]) if name in countable(both[1])]
    model = rollout.current.partition("/")[0]
    loss = loss_of(guard.name, both[0], both[1])
    if loss is not None and guard.part:
        output = loss.output.partition(".")[2]
        loss = msgspec.structs.replace(loss, output=f"input.{guard.part}.{output}")
    if loss is None:
        of = f"part {guard.part} of {rollout.current}" if guard.part else rollout.current
        reason = f"{of} is a model for {both[0].task}"
        if guard.name == "roc_auc" and len(both[0].classes) > 2:
            reason += f" with {len(both[0].classes)} classes"
        elif guard.name in ("log_loss", "roc_auc") and "accuracy" in names:
            reason += " without probabilities"
        elif guard.name.startswith("cost.") and names:
            reason = f"{rollout.current} has no input of numbers named {guard.name[5:]!r}"
        elif is_of_group(guard.name) and "accuracy" in names:
            reason = f"{rollout.current} has no such input, and the ledger keeps no others"
    else:
        field = left_out(loss, both[0], model, recording.private, recording.max_values)
        if not field:
            return loss
        reason = f"the ledger does not keep {field} of {model} (monitoring.private)"
        if not left_out(loss, both[0], model, recording.private, sys.maxsize):
            reason = f"{field} has over {recording.max_values:,} values (max_values_per_row)"
        names = [
            name
            for name in names
            if (other := loss_of(names[0] if name == "cost.COLUMN" else name, both[0], both[1]))
            is not None
            and not left_out(other, both[0], model, recording.private, recording.max_values)
        ]
    names = [] if guard.part else names
    can = f"guards on outcomes that can be: {', '.join(names)}" if names else _WITHOUT
    raise Invalid(f"{guard.title} cannot be counted: {reason}", hint=can)


def _scaled(guard: Guard, loss: Loss, bundle: Bundle, version: str) -> Loss:
    """The loss with its bound and level, from the held-out rows."""
    rows = bundle.test_data()
    if rows is None or rows[1] is None:
        raise Invalid(
            f"{guard.name} cannot be counted: {version} has no held-out rows with their truth, "
            "and the bound of its losses comes from them",
            hint="pack it with test=(X, y); accuracy and roc_auc need none",
        )
    columns, truths = rows[0], rows[1]
    if len(truths) > _MOST_ROWS:
        places = np.random.default_rng(0).choice(len(truths), _MOST_ROWS, replace=False)
        columns, truths = take(columns, places), truths[places]
    if guard.name == "mape" and (zeros := int((truths.astype(np.float64) == 0).sum())):
        raise Invalid(
            f"mape cannot be counted: {zeros:,} of {len(truths):,} held-out truths of {version} "
            "are 0, and no error is a share of 0",
            hint="guards on outcomes that can be: mae, mse, pinball0.9",
        )
    answered = _ledger_columns(loss, columns, bundle)
    if is_of_group(guard.name):
        group = losses_of_rows(group_sql(guard.name, loss), answered, truths).sum()
        if group < _LEAST_ROWS:
            raise Invalid(
                f"{guard.name} cannot be counted: it is {group:g} of the held-out rows of "
                f"{version}, and {_LEAST_ROWS} are needed to know its share",
                hint="guard a larger group, or pack with more rows in test=(X, y)",
            )
        loss = msgspec.structs.replace(loss, bound=float(len(truths) / group))
    losses = losses_of_rows(loss_sql(guard.name, loss, 0), answered, truths)
    finite = losses[np.isfinite(losses)]
    if len(finite) < _LEAST_ROWS:
        raise Invalid(
            f"{guard.name} cannot be counted: {version} has {len(finite):,} held-out rows with a "
            f"loss, and the bound of its losses needs {_LEAST_ROWS}",
            hint="pack it with more rows in test=(X, y)",
        )
    bound = float(np.quantile(finite, 1 - CUT_SHARE)) or float(finite.max())
    bound = loss.bound if is_of_group(guard.name) else bound
    if not bound > 0:
        raise Invalid(
            f"{guard.name} cannot be counted: {version} loses nothing on its held-out rows, so "
            "that its losses have no scale",
            hint="guard accuracy, or pack it with test rows that it was not trained on",
        )
    cut = np.where(losses <= bound, losses, bound)
    return msgspec.structs.replace(
        loss, bound=bound, level=float(cut.mean()), spread=float(cut.std()), rows=len(losses)
    )


def _rectified(
    guard: Guard, judge: str, rollout: Rollout, ledger: Ledger, recording: Recording
) -> Loss:
    """The loss by a judge, calibrated on the answers that have a label and a score by now."""
    share = recording.judges.get(judge)
    if share is None:
        raise Invalid(
            f"{guard.name} cannot be counted: the settings have no judge {judge!r}",
            hint=f"there are {', '.join(recording.judges) or 'none'}: sections [judges.NAME]",
        )
    if not rollout.outcomes_sample < share:
        raise Invalid(
            f"{guard.name} needs labels of fewer answers than {judge} judges, {share:.1%}, and "
            f"outcomes_sample is {rollout.outcomes_sample:.1%}",
            hint="--outcomes-sample 0.05: people label these answers, as outcomes by their ids",
        )
    with suppress(NotFound):  # of a new model
        check_kept(ledger, rollout.current.partition("/")[0])
    sql = _LABELLED.format(
        judge=quoted(judge_model(judge)), endpoint=quoted(rollout.endpoint), limit=_ASKED_ROWS,
        until=quoted(rollout.started_at.isoformat()), loss=DISAPPROVAL,
    )  # fmt: skip
    table = ledger.query(sql)
    scores, losses = (
        table[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in ("score", "loss")
    )
    calibration = calibrate_judge(scores, losses)
    rectifier = Rectifier(judge, share, rollout.outcomes_sample, calibration)
    return Loss(KEPT_TEXT, bound=rectifier.range[1], rectifier=rectifier)


def _ledger_columns(loss: Loss, rows: Columns, bundle: Bundle) -> Columns:
    columns: dict[str, NDArray[Any]] = {}
    answers = bundle.predict(rows)
    columns[loss.output] = answers[loss.output.removeprefix("output.")]
    if loss.cost:
        columns[loss.cost] = rows[loss.cost.removeprefix("input.")]
    return columns


def _checked(guard: Guard, version: str) -> Guard:
    if guard.rate_margin >= 1:
        raise Invalid(
            f"{guard} allows everything: 99 % of the losses of {version} are under "
            f"{guard.measure.bound:.4g}",
            hint=f"the {guard.name} of {version} is {guard.measure.level:.4g}",
        )
    return guard


def _scaled_feature(
    feature: ContextFeature, bundle: Bundle, version: str, recording: Recording
) -> ContextFeature:
    """A feature with its scale or its categories, by the training rows of the current version."""
    column, place = input_column(feature.name, bundle.signature, "biufOU")
    if not column:
        raise Invalid(
            f"context: {version} has no input of one value named {feature.name!r}",
            hint=f"bascule show {version} has its inputs",
        )
    if field := left_out(
        Loss(column), _answers_of(bundle), version.partition("/")[0], recording.private,
        recording.max_values,
    ):  # fmt: skip
        raise Invalid(
            f"context: the ledger does not keep {field} of {version} as it is",
            hint="steer by inputs that are not private (monitoring.private)",
        )
    looked_up = declared(bundle.path, bundle.manifest) if recording.feature_store else None
    if looked_up is not None and feature.name in looked_up.max_age_s:
        raise Invalid(
            f"context: {feature.name} is looked up in the feature store once the arm is known",
            hint="steer by inputs that requests send",
        )
    baseline = bundle.baseline
    profiles = {} if baseline is None or baseline.inputs is None else baseline.inputs.columns
    profile = profiles.get(feature.name)
    plain = ContextFeature(feature.name, column.removeprefix("input."), place)
    if profile is not None and profile.kind == "text" and (texts := profile.frequent.top()):
        return replace(plain, categories=tuple(str(text) for text, _ in texts[:_MAX_CATEGORIES]))
    if profile is not None and (squares := profile.moments.squares) is not None:
        deviation = math.sqrt(squares / profile.moments.rows)
        return replace(plain, mean=profile.moments.mean or 0.0, scale=deviation or 1.0)
    raise Invalid(
        f"context: {version} has no scale and no frequent values of {feature.name}",
        hint="pack it with train=X; steer by numbers, and by texts that come again",
    )


def _check_delays(rollout: Rollout, guard: Guard, ledger: Ledger) -> None:
    """Raise `Invalid` where the truths so far took longer than the rollout may last."""
    sample = rollout.outcomes_sample
    sql = _DELAYS.format(
        endpoint=quoted(rollout.endpoint), limit=_ASKED_ROWS,
        sampled=f"AND outcome_draw(id) < {sample!r}" if sample < 1 else "",
    )  # fmt: skip
    try:
        table = ledger.query(sql, model=rollout.current.partition("/")[0])
    except NotFound:
        return
    delays, ages = (table[name].to_numpy().astype(np.float64) for name in ("delay_s", "age_s"))
    curve = delay_curve(delays, ages)
    if curve.truths < _LEAST_TRUTHS:
        return
    late_s = curve.quantile(0.99)
    if late_s > rollout.max_s:
        raise Invalid(
            f"{guard} cannot be decided in time: 99 % of the truths about {rollout.endpoint} took "
            f"up to {span_words(late_s)} so far, and the rollout ends after "
            f"{span_words(rollout.max_s)}",
            hint=f"--within {np.ceil(2 * late_s / 86_400):.0f}d, or guards without outcomes",
        )
