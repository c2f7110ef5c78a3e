"""A column in words, with the numbers that decide."""

from __future__ import annotations

from dataclasses import replace

from bascule.monitoring.drift.results import QUANTILES, ColumnDrift, Test
from bascule.stats import field_of_projection


def with_sentence(column: ColumnDrift) -> ColumnDrift:
    """The column with its sentence."""
    return replace(column, sentence=sentence(column))


def sentence(column: ColumnDrift) -> str:
    """The changes that raise the alarm, or the strongest one, with the numbers that decide."""
    raised = sorted((one for one in column.tests if one.is_alarm), key=lambda one: one.rank)
    shown = raised or ([column.leading] if column.leading else [])
    said = [f"{_change(column, one)} ({_evidence(one)}){_verdict(one)}" for one in shown]
    changes = "; ".join([*column.findings, *said]) or "not tested: too few rows"
    return f"{_named(column.name)}: {changes}"


def _named(column: str) -> str:
    field, part = field_of_projection(column), column.rpartition("~")[2]
    if field == column:
        return column
    if part.isdigit():
        return f"{field} (random projection {part})"
    return f"{field} ({'letters' if part == 'letters' else 'mean value'})"


def _change(column: ColumnDrift, test: Test) -> str:
    beside = " than on the same weekdays" if test.rule == "weekday" else ""
    if test.name in ("location", "slow"):
        way = "higher" if test.effect > 0 else "lower"
        slowly = " over several windows" if test.name == "slow" else ""
        return (
            f"{abs(test.effect):.2f} baseline deviations {way}{beside or ' than the baseline'}"
            f"{slowly}{_quantile(column)}"
        )
    if test.name == "spread":
        way = "wider" if test.effect > 0 else "narrower"
        return f"{abs(test.effect):.0%} {way}{beside or ' than the baseline'}{_ends(column)}"
    if test.name == "shape":
        distance = f"a Kolmogorov-Smirnov distance of {test.effect:.3f}"
        return f"another shape: {distance}, largest at {test.what}{_quantile(column)}"
    if test.name == "categories":
        return (
            f"the share of {test.what!r} is {test.effect:+.1%} off{beside and ' the same weekdays'}"
        )
    if test.name == "missing":
        then, now = column.missing
        return f"{now:.1%} of the values are missing, {then:.1%} in the baseline"
    if test.name == "harm":
        then, now = column.then["mean"], column.now["mean"]
        return f"the mean loss is {now:.3f}, {then:.3f} on the held-out rows: harmful"
    if test.name == "unseen":
        return f"{test.effect:.1%} of the values are not in the baseline, such as {test.what!r}"
    return f"{test.effect:.1%} of the values are out of the baseline's range"


def _quantile(column: ColumnDrift) -> str:
    key = column.tested if column.tested in QUANTILES else "p50"
    if key not in column.then or key not in column.now:
        return ""
    named = "median" if key == "p50" else f"{QUANTILES[key] * 100:.0f} % quantile"
    return f"; {named} {column.then[key]:.4g} -> {column.now[key]:.4g}"


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
