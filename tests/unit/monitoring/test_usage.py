"""Usage by caller, model and project: from rows of the ledger to lines with costs."""

from __future__ import annotations

import csv
from datetime import UTC, date, datetime
from types import SimpleNamespace

import numpy as np
import pytest
from tests.ledger_rows import Answers, segments, spool, take_in

from bascule.core import Invalid, Unavailable
from bascule.monitoring import Ledger, Prices, Terms, UsageAsked, as_csv, read_usage, usage_of
from bascule.monitoring.ledger import SpoolWriter
from bascule.monitoring.usage import MAX_DAYS, Count
from bascule.serving.calls import Answer, AnsweredBy, Call
from bascule.serving.telemetry import LedgerRecorder, MetricLabels

MONDAY, TUESDAY = date(2026, 11, 2), date(2026, 11, 3)
COUNTS = [
    Count(MONDAY, "k1", "fraud-cards", 10, 100, 1, 2, 3_600.0),
    Count(TUESDAY, "k1", "chargeback", 5, 50, 0, 0, 1_800.0),
    Count(TUESDAY, "", "late", 20, 20, 0, 0, 0.0),
]
TERMS = Terms(
    {"fraud": ["fraud-*", "chargeback"], "cards": ["fraud-cards"]},
    Prices(price_per_server_hour=2.0, price_per_1000_rows={"late": 5.0, "*": 10.0}),
)


def asked(by="caller", project="", since=MONDAY, until=TUESDAY):
    return UsageAsked(by, since, until, project)


def figures(usage):
    return {line.name: (line.requests, line.rows, line.cost) for line in usage.lines}


def test_lines_are_by_caller_model_or_project_and_a_total_counts_each_request_once():
    def by(way, **more):
        return usage_of(COUNTS, asked(way, **more), TERMS, {"k1": "web"})

    assert figures(by("caller")) == {"without a key": (20, 20, 0.1), "web": (15, 150, 4.5)}
    assert figures(by("model"))["fraud-cards"] == (10, 100, 3.0)
    assert figures(by("project")) == {
        "fraud": (15, 150, 4.5), "cards": (10, 100, 3.0), "without a project": (20, 20, 0.1),
    }  # fmt: skip
    assert by("project").total.requests == 35
    assert figures(by("model", project="fraud")).keys() == {"fraud-cards", "chargeback"}
    assert figures(by("project", project="fraud")).keys() == {"fraud"}
    with pytest.raises(Invalid, match="no project 'frau'"):
        by("caller", project="frau")


def test_a_model_that_may_not_be_read_is_in_no_line_and_no_total():
    usage = usage_of(COUNTS, asked("caller"), TERMS, {}, sees=lambda model: model == "late")
    assert (figures(usage).keys(), usage.total.requests) == ({"without a key"}, 20)


def test_without_a_price_there_is_no_cost_and_without_rows_no_figure():
    plain = usage_of(COUNTS, asked(), Terms(), {})
    assert (plain.currency, plain.total.cost, plain.lines[0].cost) == ("", None, None)
    assert "cost" not in "".join(as_csv(plain))
    unknown = usage_of([], asked(), Terms(unknown="usage is not recorded"), {})
    assert (unknown.total, unknown.notes) == (None, ["usage is not recorded"])
    assert usage_of([], asked(), Terms(), {}).total.requests == 0


def test_the_table_names_its_units_and_has_no_cell_that_a_spreadsheet_runs():
    names = {"k1": "=cmd|' /C calc'!A1", "": "never shown"}
    lines = list(csv.reader(as_csv(usage_of(COUNTS, asked(), TERMS, names))))
    assert lines[0] == [
        "day_utc", "caller_id", "caller", "requests", "rows", "refused", "errors",
        "server_seconds", "cost_EUR",
    ]  # fmt: skip
    assert lines[1] == ["2026-11-02", "k1", "'=cmd|' /C calc'!A1", "10", "100", "1", "2",
                        "3600.0", "3.0"]  # fmt: skip
    assert [line[0] for line in lines[1:]] == ["2026-11-02", "2026-11-03", "2026-11-03"]
    comma = usage_of(COUNTS[:1], asked(), Terms(), {"k1": 'web, "blue"'})
    assert next(csv.reader(list(as_csv(comma))[1:]))[2] == 'web, "blue"'


def test_the_days_that_are_asked_for_end_today_and_are_not_too_many():
    today = datetime.now(UTC).date()
    usual = UsageAsked.of("caller", None, None)
    assert ((usual.until - usual.since).days, usual.until) == (29, today)
    assert UsageAsked.of("caller", None, date.max).until == today
    assert UsageAsked.of("caller", None, date.min).since == date.min
    for since in (date.min, today.replace(year=today.year + 1)):
        with pytest.raises(Invalid, match=f"{MAX_DAYS} days"):
            UsageAsked.of("caller", since, None)


def a_request(recorder, name, *, at, rows=1, status=200, caller="k1", by="gb", arm=""):
    """One request as a worker records it; an error has no answer."""
    context = SimpleNamespace(
        prediction_id=name, caller=caller, protocol="oip", trace=(b"", b""),
        started_ns=int(at.timestamp() * 1e9) - recorder._epoch_ns,
    )  # fmt: skip
    values = np.arange(float(rows))
    answer = None if status >= 400 else Answer({"label": values}, AnsweredBy(by, "1", "onnx"))
    call = None if status in (400, 403) else Call({"x": values}, rows)
    label = MetricLabels(by, "1", endpoint=by, arm=arm, plan=1) if arm else MetricLabels(by, "1")
    recorder.add(context, call, answer, label, status, 500_000_000)


def read(home, by="caller", **more):
    return read_usage(Ledger(home), asked(by, **more), Terms(), list)


def test_requests_of_the_ledger_are_counted_by_utc_day_and_a_repeated_id_each_time(tmp_path):
    recorder = LedgerRecorder(SpoolWriter(tmp_path), max_rows_per_s=10**9)
    last, first = (
        datetime(2026, 11, day, hour, minute, tzinfo=UTC)
        for day, hour, minute in ((2, 23, 59), (3, 0, 0))
    )
    a_request(recorder, "same", at=last)
    a_request(recorder, "same", at=first, rows=3_000)
    for status in (400, 403, 500):
        a_request(recorder, f"s{status}", at=first, status=status)
    a_request(recorder, "nobody", at=first, caller="")
    a_request(recorder, "hidden", at=first, arm="shadow")
    recorder.close()
    for _ in range(2):  # in the spool, then in segments
        usage = read(tmp_path)
        assert [
            (f"{line.day}", line.id, line.requests, line.rows, line.refused, line.errors)
            for line in usage.days
        ] == [
            ("2026-11-02", "k1", 1, 1, 0, 0),
            ("2026-11-03", "", 1, 1, 0, 0),
            ("2026-11-03", "k1", 4, 3_000, 2, 1),
        ]
        assert usage.total.server_s == pytest.approx(3.0, rel=1e-3)
        take_in(tmp_path)
    assert read(tmp_path, since=TUESDAY).total.requests == 5


def test_a_sample_stands_for_all_requests(tmp_path):
    recorder = LedgerRecorder(SpoolWriter(tmp_path), keep=0.25, max_rows_per_s=10**9)
    at = datetime(2026, 11, 3, 12, tzinfo=UTC)
    for number in range(4_000):
        a_request(recorder, f"r{number}", at=at, rows=2)
    recorder.close()
    total = read(tmp_path).total
    assert total.requests == pytest.approx(4_000, rel=0.1)  # 5 deviations are 274
    assert total.rows == 2 * total.requests


def test_keys_are_shown_by_their_ids_while_the_catalogue_is_away(tmp_path):
    spool(tmp_path, Answers(["a"], caller="k1", at=datetime(2026, 11, 3, tzinfo=UTC)))

    def away():
        raise Unavailable("the catalogue is away")

    usage = read_usage(Ledger(tmp_path), asked(), Terms(), away)
    assert [line.name for line in usage.lines] == ["k1"]


def test_segments_of_other_days_are_not_read(tmp_path):
    segments(tmp_path, 1, 3, day="2026-11-03")
    segments(tmp_path, 1, 5, day="2026-11-04")
    assert read(tmp_path).total.requests == 3
