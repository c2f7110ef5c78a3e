"""The story over a ledger: a model's versions and their days in, a report of drift out.

A look replays the windows from the first one on. One by hand writes nothing, so it spends no
budget: the budget is for the one look at each finished UTC day that raises alerts. Both give the
same alarms for the same windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from bascule.bundle import Bundle
from bascule.core import BasculeError, Invalid, NotFound
from bascule.monitoring.drift.budgets import Effect
from bascule.monitoring.drift.comparing import lack_of_baseline, tolerance_of, with_influence
from bascule.monitoring.drift.concept import Losses, LossWatch, Truths, read_truths, source_of
from bascule.monitoring.drift.deciding import SAME
from bascule.monitoring.drift.explained import explained_days
from bascule.monitoring.drift.judging import ModelWatch, tested
from bascule.monitoring.drift.quality import volume_findings
from bascule.monitoring.drift.report import DriftReport, ProductionDrift
from bascule.monitoring.drift.results import ColumnDrift
from bascule.monitoring.drift.windows import day_of, windows_of_rows
from bascule.monitoring.ledger import Ledger, quoted
from bascule.monitoring.profiles import read_windows
from bascule.stats import Profile, WindowProfile

OpenBundle = Callable[[str], Bundle | None]
"""The bundle of a version; None, or a `BasculeError`, where it is gone."""


def measure_production_drift(
    home: Path,
    model: str,
    open_bundle: OpenBundle,
    *,
    now: datetime | None = None,
    since: timedelta = timedelta(days=30),
    budget: float = 4.0,
    effects: Mapping[str, Effect] | None = None,
) -> ProductionDrift:
    """The drift of each version of a model that has answers in the ledger.

    Args:
        home: With the ledger.
        model: Its name.
        open_bundle: Opens the bundle of a version.
        now: The time; that of the clock if None.
        since: How far back windows are reported. Detectors have seen the ones before as well.
        budget: False alarms a year of each version that are acceptable.
        effects: The least change that matters, by column.

    Raises:
        NotFound: The ledger has no answers of this model.
        Invalid: An option is out of range.
    """
    moment = now or datetime.now(UTC)
    today = moment.date()
    reports, notes, first = [], [], (moment - since).date()
    profiled = read_windows(home, model)
    for version in _versions(home, model, profiled):
        try:
            # What devices of a channel were asked is a version of its own: `4@stable`.
            bundle = open_bundle(version.partition("@")[0])
            if bundle is None:
                raise NotFound("its bundle is not at hand")
        except BasculeError as problem:
            notes.append(f"version {version} is not compared: {problem.message}")
            continue
        try:
            windows = [one for one in profiled if one.version == version]
            windows = windows or windows_of_rows(home, bundle, model, version)
            report = _of_version(home, bundle, windows, version, budget, effects, today, first)
        except Invalid:  # an option, which is wrong for every version
            raise
        except BasculeError as problem:
            notes.append(f"version {version} is not compared: {problem.message}")
            continue
        if report.windows:
            weighed = with_influence(bundle, list(report.windows))
            reports.append(replace(report, windows=weighed))
    return ProductionDrift(model, today, tuple(reports), tuple(notes))


def _versions(home: Path, model: str, profiled: Sequence[WindowProfile]) -> list[str]:
    """The versions that answered, in the order of their first answer. Raises `NotFound`."""
    found = Ledger(home).query(
        "SELECT version, min(time) AS first FROM predictions "
        f"WHERE model = {quoted(model)} AND version != '' GROUP BY version ORDER BY first"
    )
    known = dict.fromkeys([*(one.version for one in profiled), *found["version"].to_pylist()])
    if not known:
        raise NotFound(
            f"the ledger has no answers of {model!r}",
            hint="set monitoring.ledger, or compare a table: --current FILE",
        )
    return list(known)


def _of_version(
    home: Path, bundle: Bundle, windows: Sequence[WindowProfile], version: str, budget: float,
    effects: Mapping[str, Effect] | None, today: date, first: date,
) -> DriftReport:  # fmt: skip
    model = windows[0].model if windows else bundle.name
    notes: tuple[str, ...] = ()
    try:
        profile, losses = source_of(bundle)
    except BasculeError as problem:  # it cannot answer: what it answered before is still compared
        profile, losses = None, None
        notes = (f"version {version}: its losses are not measured: {problem.message}",)
    truths = read_truths(home, bundle, model, version, losses)
    baseline = bundle.baseline
    if baseline is None:
        notes += (f"the bundle has no baseline: {lack_of_baseline(bundle)}",)
    attributions: Profile | None = None
    explained: Mapping[date, Profile] = {}
    try:
        attributions, explained = explained_days(home, bundle, model, version)
    except BasculeError as problem:  # inputs and answers are still compared
        notes += (f"version {version}: attributions are not compared: {problem.message}",)
    made = watch_windows(
        {
            "input": None if baseline is None else baseline.inputs,
            "answer": None if baseline is None else baseline.answers,
            "explanation": attributions,
        },
        windows, budget, explained=explained, effects=effects, truths=truths, truth=profile,
        losses=losses, today=today, since=first, tolerance=tolerance_of(bundle),
    )  # fmt: skip
    return replace(
        made, model=model, digest=bundle.digest, version=version, notes=(*made.notes, *notes)
    )


def watch_windows(
    baseline: Mapping[str, Profile | None],
    windows: Sequence[WindowProfile],
    budget: float = 4.0,
    *,
    effects: Mapping[str, Effect] | None = None,
    truths: Mapping[date, Truths] | None = None,
    truth: Profile | None = None,
    losses: Losses | None = None,
    today: date | None = None,
    since: date | None = None,
    tolerance: float = SAME,
    explained: Mapping[date, Profile] | None = None,
) -> DriftReport:
    """Judge the windows of one version. Pure: profiles in, a report out.

    Args:
        baseline: Profiles of `input`, `answer` and `explanation`.
        windows: Oldest first, one a UTC day.
        budget: False alarms a year that are acceptable.
        effects: The least change that matters, by column.
        truths: Those that are known, by day.
        truth: The profile of the truths of the baseline; the first windows' if None.
        losses: How losses are measured; None where they are not.
        today: The day that is not over; its window is judged.
        since: The first day that is reported.
        tolerance: By how much two programs of the model may differ in a number.
        explained: Profiles of attributions, by day.
    """
    late, attributions = truths or {}, explained or {}
    then = truth or _first_truths(late)
    extra = len(tested(then)) + (losses is not None)
    columns = sum(len(tested(one)) for one in baseline.values())
    watch = ModelWatch(baseline, budget, effects=effects, others=extra, tolerance=tolerance)
    truth_watch = ModelWatch({"truth": then}, budget, others=columns + (losses is not None))
    loss = None
    if losses is not None:
        loss = LossWatch(losses, watch.level, (effects or {}).get("loss", Effect()))
    judged = []
    now, truths_now, attributed_now = WindowProfile("", "", ""), Profile(), Profile()
    for window in windows:
        day = day_of(window)
        found = _truth_columns(truth_watch, loss, late.get(day), day)
        attributed = attributions.get(day, Profile())
        made = watch.judge(
            {"input": window.inputs, "answer": window.outputs, "explanation": attributed}, day
        )
        if since is not None and day < since:
            continue
        now.merge(window)
        attributed_now.merge(attributed)
        if day in late:
            truths_now.merge(late[day].profile)
        is_finished = day != today
        made = replace(made, rows=window.rows, columns=(*made.columns, *found))
        judged.append(replace(made, is_finished=is_finished))
    notes = [*watch.notes(), *volume_findings(windows, today)]
    name = windows[0].model if windows else ""
    return DriftReport(
        name, "", budget, 365, watch.level, tuple(judged), tuple(notes),
        then={**baseline, "truth": then},
        now={
            "input": now.inputs, "answer": now.outputs, "truth": truths_now,
            "explanation": attributed_now,
        },
    )  # fmt: skip


def _truth_columns(
    watch: ModelWatch, loss: LossWatch | None, truths: Truths | None, day: date
) -> Iterable[ColumnDrift]:
    if truths is None:
        return ()
    found = watch.judge({"truth": truths.profile}, day).columns
    lost = (loss.judge(truths),) if loss is not None and len(truths.rows) else ()
    return (*found, *lost)


_FIRST_TRUTHS = 7


def _first_truths(truths: Mapping[date, Truths]) -> Profile | None:
    """Those of the first seven days, where the baseline has none."""
    days = sorted(truths)[:_FIRST_TRUTHS]
    if len(days) < _FIRST_TRUTHS:
        return None
    made = Profile()
    for day in days:
        made.merge(truths[day].profile)
    return made
