"""Puts a bundle before its gates: measures, has it judged, and writes the verdict down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from bascule.core import BasculeError, Columns, Invalid
from bascule.release.criteria import FIRST_CRITERION, TEXTS, Criterion, NotWorse
from bascule.release.gates import GateReport, evaluate

if TYPE_CHECKING:
    from bascule.bundle import Bundle
    from bascule.registry import ModelRegistry, Registry, Version
    from bascule.release.texts import FindJudge


def check(
    bundle: Bundle,
    criteria: Sequence[Criterion | str],
    *,
    test: Any = None,
    attributes: Columns | None = None,
    now: datetime,
    by: str,
    record: Callable[[GateReport], object] | None = None,
    find: Callable[[str], Bundle | None] | None = None,
    find_judge: FindJudge | None = None,
) -> GateReport:
    """Measure what the criteria need, judge, and record a `gates` statement.

    Args:
        bundle: What to check.
        criteria: What it must meet, as criteria or as they are written.
        test: `(X, y)` to measure quality on, in place of the held-out rows of the bundle.
        attributes: Protected attributes of the same rows that the model does not take, by name;
            criteria group rows by them: `equalized_odds_difference[sex] <= 0.1`.
        now: The time that the statement carries.
        by: Who checks.
        record: Keeps the report; if None it is laid beside the bundle. The registry's bundles
            are read-only, and its catalogue has to know as well.
        find: The bundle that a criterion such as `roc_auc >= champion - 0.01` compares with; see
            `release.against.finder`.
        find_judge: The judge that a criterion such as `judge_score[helpful] >= 0.7` asks.

    Raises:
        Invalid: There are no criteria, or one of them cannot be read, or asks for what the model
            does not have; nothing is recorded.
    """
    from bascule.release.applicable import check_applicable
    from bascule.release.measure import measure

    wanted = [Criterion.parse(one) if isinstance(one, str) else one for one in criteria]
    if not wanted:
        raise Invalid(
            "there are no criteria to check",
            hint='name one with -c, or write some in bascule.toml: [gates] criteria = ["'
            f'{FIRST_CRITERION.get(bundle.task, "latency_p50 <= 5 ms")}"]',
        )
    check_applicable(bundle, wanted, tuple(attributes or ()))
    texts = [one for one in wanted if one.metric in TEXTS]
    compared = [one for one in wanted if isinstance(one, NotWorse) and one not in texts]
    plain = [one for one in wanted if one not in compared and one not in texts]
    facts = measure(bundle, plain, test=test, attributes=attributes)
    if texts:
        from bascule.release.texts import measure_texts

        facts.update(measure_texts(bundle, texts, test=test, find=find, find_judge=find_judge))
    if compared:
        from bascule.release.against import measure_against

        facts.update(measure_against(bundle, compared, test=test, find=find))
    report = evaluate(wanted, facts)
    if record is None:
        bundle.add_statement("gates", report.to_json(), at=now, by=by)
    else:
        record(report)
    return report


def check_and_record(
    bundle: Bundle,
    criteria: Sequence[Criterion | str],
    registry: ModelRegistry,
    version: Version | None,
    *,
    configured: Sequence[str] = (),
    test: Any = None,
    attributes: Columns | None = None,
    now: datetime,
    by: str,
    find_judge: FindJudge | None = None,
) -> tuple[GateReport, BasculeError | None]:
    """Check a bundle, and record the verdict where the bundle is kept.

    Args:
        bundle: What to check.
        criteria: What it must meet.
        registry: Where versions to compare with are found, and where the verdict of one goes.
        version: The version that the bundle is; None for a folder, beside which the verdict goes.
        configured: The criteria of the settings. A check that leaves one out is recorded as a
            `trial`, which neither passes nor fails the version.
        test: See `check`.
        attributes: See `check`.
        now: See `check`.
        by: See `check`.
        find_judge: See `check`.

    Returns:
        The verdict, and the error that kept it from being recorded; None where it is recorded.

    Raises:
        Invalid: See `check`.
    """
    from bascule.release.against import finder

    problem: BasculeError | None = None
    judged = {str(Criterion.parse(one) if isinstance(one, str) else one) for one in criteria}
    asked = (str(Criterion.parse(one)) for one in configured)
    unjudged = tuple(one for one in asked if one not in judged)
    kind = "trial" if unjudged else "gates"

    def record(report: GateReport) -> None:
        nonlocal problem
        body = replace(report, unjudged=unjudged).to_json()
        try:
            if version is None:
                bundle.add_statement(kind, body, at=now, by=by)
            else:
                # Of a version: its own registry, which is here.
                cast("Registry", registry).add_statement(version, kind, body, at=now, by=by)
        except BasculeError as error:
            message = f"the verdict was not recorded: {error}"
            problem = type(error)(message, hint=error.hint, **error.facts)

    find = finder(registry, bundle.name if version is None else version.model)
    report = check(
        bundle, criteria, test=test, attributes=attributes, now=now, by=by, record=record,
        find=find, find_judge=find_judge,
    )  # fmt: skip
    return replace(report, unjudged=unjudged), problem
