"""A report in words: a sentence per column, and a table of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator

from bascule.monitoring.drift.report import ColumnDrift, DriftReport, Test, WindowDrift

HEADINGS = ("column", "change", "p or e", "then", "now", "alarm")
_WIDTHS = (22, 20, 9, 9, 9, 5)
_SHOWN = 40


def sentence(column: ColumnDrift) -> str:
    """The changes that raise the alarm, or the strongest one, with the numbers that decide."""
    raised = sorted((one for one in column.tests if one.is_alarm), key=lambda one: one.rank)
    if any(one.name == "unseen" for one in raised):  # which the rest of the categories repeats
        raised = [one for one in raised if one.what != "other values"]
    shown = raised or ([column.leading] if column.leading else [])
    said = [f"{_change(column, one)} ({_evidence(one)}){_verdict(one)}" for one in shown]
    return f"{column.name}: {'; '.join([*column.findings, *said]) or 'not tested: too few rows'}"


def _change(column: ColumnDrift, test: Test) -> str:
    beside = " than on the same weekdays" if test.rule == "weekday" else ""
    if test.name in ("location", "slow"):
        way = "higher" if test.effect > 0 else "lower"
        slowly = " over several windows" if test.name == "slow" else ""
        return (
            f"{abs(test.effect):.2f} baseline deviations {way}{beside or ' than the baseline'}"
            f"{slowly}{_medians(column)}"
        )
    if test.name == "spread":
        way = "wider" if test.effect > 0 else "narrower"
        return f"{abs(test.effect):.0%} {way}{beside or ' than the baseline'}{_ends(column)}"
    if test.name == "shape":
        distance = f"a Kolmogorov-Smirnov distance of {test.effect:.3f}"
        return f"another shape, at {distance}{_medians(column)}"
    if test.name == "categories":
        return (
            f"the share of {test.what!r} is {test.effect:+.1%} off{beside and ' the same weekdays'}"
        )
    if test.name == "missing":
        then, now = column.missing
        return f"{now:.1%} of the values are missing, {then:.1%} in the baseline"
    if test.name == "unseen":
        return f"{test.effect:.1%} of the values are not in the baseline, such as {test.what!r}"
    return f"{test.effect:.1%} of the values are out of the baseline's range"


def _medians(column: ColumnDrift) -> str:
    if "p50" not in column.then or "p50" not in column.now:
        return ""
    return f"; median {column.then['p50']:.4g} -> {column.now['p50']:.4g}"


def _ends(column: ColumnDrift) -> str:
    if "p05" not in column.then or "p05" not in column.now:
        return ""
    then, now = column.then, column.now
    return (
        f"; 5 % to 95 %: {then['p05']:.4g} to {then['p95']:.4g} -> "
        f"{now['p05']:.4g} to {now['p95']:.4g}"
    )


def _evidence(test: Test) -> str:
    if test.e_value is not None:
        return f"e = {test.e_value:.2g}, alarms at {1 / test.level:.2g}"
    return f"p = {test.p_value:.2g}, level {test.level:.2g}"


def _verdict(test: Test) -> str:
    if test.is_alarm:
        return ""
    if not test.is_significant:
        return "; no alarm"
    if abs(test.effect) < test.limit:
        return f"; too small to matter: under {test.limit:g}"
    return "; cannot raise an alarm: the windows depend on one another"


def summary(report: DriftReport) -> str:
    """The verdict in one sentence."""
    windows, rows = report.windows, sum(window.rows for window in report.windows)
    columns = len(windows[0].columns) if windows else 0
    alarms = sum(len(window.alarms) for window in windows)
    days = f" in {len(windows)} windows" if len(windows) > 1 else ""
    found = f"{alarms} alarm{'' if alarms == 1 else 's'}" if alarms else "no alarm"
    return (
        f"{report.model}: {found}; {rows:,} rows{days}, {columns} columns, budget "
        f"{report.budget:g} false alarms a year"
    )


def table_rows(report: DriftReport) -> list[tuple[str, ...]]:
    """A row per column: of several windows, the one with the strongest evidence."""
    worst: dict[tuple[str, str], ColumnDrift] = {}
    alarms: dict[tuple[str, str], int] = {}
    for window in report.windows:
        for column in window.columns:
            key = (column.where, column.name)
            alarms[key] = alarms.get(key, 0) + column.is_alarm
            if key not in worst or _order(column) < _order(worst[key]):
                worst[key] = column
    several = len(report.windows) > 1
    ordered = sorted(worst.items(), key=lambda item: _order(item[1]))
    return [_row(column, alarms[key], several=several) for key, column in ordered]


def _order(column: ColumnDrift) -> tuple[bool, float]:
    test = column.leading
    return not column.is_alarm, 1e300 if test is None else test.rank[-1]


def _row(column: ColumnDrift, alarms: int, *, several: bool) -> tuple[str, ...]:
    test = column.leading
    name = column.name if column.where == "input" else f"-> {column.name}"
    alarm = (str(alarms) if several else "yes") if alarms else "-"
    if test is None:
        return name, "broken" if column.is_broken else "not tested", "-", "-", "-", alarm
    evidence = f"{test.p_value:.1e}" if test.p_value is not None else f"e {test.e_value:.1e}"
    then, now = _then_and_now(column, test)
    return name, _short(test), evidence, then, now, alarm


def _short(test: Test) -> str:
    unit = {"location": " sd", "slow": " sd", "shape": " KS"}.get(test.name)
    amount = f"{test.effect:+.2f}{unit}" if unit else f"{test.effect:+.1%}"
    return f"{test.name} {amount}"


def _then_and_now(column: ColumnDrift, test: Test) -> tuple[str, str]:
    if test.name == "missing":
        return f"{column.missing[0]:.1%}", f"{column.missing[1]:.1%}"
    if test.name in ("unseen", "range"):
        return "0.0%", f"{test.effect:.1%}"
    if test.name == "categories":
        then, now = column.then.get(test.what), column.now.get(test.what)
        return tuple("-" if one is None else f"{one:.1%}" for one in (then, now))  # type: ignore[return-value]
    return f"{column.then.get('p50', 0):.4g}", f"{column.now.get('p50', 0):.4g}"


def lines(report: DriftReport) -> Iterator[str]:
    """The report for a terminal: at most 80 letters a line in the table, sentences below."""
    rows = table_rows(report)
    yield summary(report)
    if rows:
        yield ""
        yield _line(HEADINGS)
        yield from (_line(row).rstrip() for row in rows[:_SHOWN])
    if len(rows) > _SHOWN:
        yield f"... and {len(rows) - _SHOWN} more columns without stronger evidence"
    said = list(_alarms(report))
    if said or report.notes:
        yield ""
    yield from said[:_SHOWN]
    yield from report.notes


def _alarms(report: DriftReport) -> Iterator[str]:
    """A sentence per column with an alarm: that of the window with the strongest evidence."""
    found: dict[tuple[str, str], list[tuple[WindowDrift, ColumnDrift]]] = {}
    for window in report.windows:
        for column in window.alarms:
            found.setdefault((column.where, column.name), []).append((window, column))
    strongest = [(min(alarms, key=lambda one: _order(one[1])), alarms) for alarms in found.values()]
    for (window, column), alarms in sorted(strongest, key=lambda one: -(one[0][1].share or 0)):
        share = "" if column.share is None else f" [{column.share:.0%} of the alarm]"
        if window.day is None:
            yield f"{column.sentence}{share}"
        else:
            days = f"{len(alarms)} windows from {alarms[0][0].day} to {alarms[-1][0].day}"
            before = f"{days}, strongest on " if len(alarms) > 1 else ""
            yield f"{before}{window.day}: {column.sentence}{share}"


def _line(cells: tuple[str, ...]) -> str:
    made = []
    for place, (cell, width) in enumerate(zip(cells, _WIDTHS, strict=True)):
        cut = cell if len(cell) <= width else cell[: width - 3] + "..."
        made.append(cut.ljust(width) if place < 2 else cut.rjust(width))
    return " ".join(made)
